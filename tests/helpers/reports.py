"""Reports of clusters for tests of the doctor, written by hand."""

from dataclasses import replace
from typing import Any

from fedray.config.experiment import Experiment
from fedray.doctor.report import Access, Bytes, ClusterReport, Node, NodeReport, SharedPath, Software
from fedray.doctor.requirements import RequiredFile, Requirements

GB = 10**9
PACKAGES = {"fedray": "0.1.0", "ray": "2.60.0", "torch": "2.15.0", "numpy": "2.4.6"}
SOFTWARE = Software("3.12.3", PACKAGES, "aaaa1111", "/venv/bin/python")
NODE_REPORT = NodeReport(SOFTWARE, Bytes(100 * GB, 50 * GB), "/tmp/ray", "/home/me", memory=Bytes(16 * GB, 8 * GB))


def node(name: str, **changes: Any) -> Node:
    """A healthy node with four free cores and an address by the first letter of its name."""
    address = f"10.0.0.{ord(name[0]) - 96}"
    fields = {"address": address, "cores": 4, "free_cores": 4, "object_store_bytes": GB, "report": NODE_REPORT}
    return Node(name, **{**fields, **changes})


def cluster(*others: Node, **changes: Any) -> ClusterReport:
    """A cluster of the local node a and others."""
    return replace(ClusterReport([node("a", is_local=True), *others], SOFTWARE), **changes)


def with_software(software: Software) -> NodeReport:
    """The report of a healthy node with other software."""
    return replace(NODE_REPORT, software=software)


def path(name: str, **access: Access) -> SharedPath:
    """A path that node a shares, and other nodes as given."""
    return SharedPath(name, access={"a": Access(True, "", 90 * GB), **access})


def required(
    *experiments: Experiment, study: bool = False, files: tuple[RequiredFile, ...] = (), cache: bool = True
) -> Requirements:
    """Requirements of experiments with four clients each."""
    return Requirements(study, cache, dict.fromkeys(experiments, 4), len(experiments), files)
