"""Findings from reports that are written by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from helpers.reports import GB, NODE_REPORT, PACKAGES, SOFTWARE, cluster, node, path, required, with_software

from fedray.config.experiment import Experiment
from fedray.doctor.checks import run_checks
from fedray.doctor.finding import Finding
from fedray.doctor.report import Access, Bytes, ClusterReport, Gpu, SharedPath, Software
from fedray.doctor.requirements import RequiredFile, Requirements

Small = Callable[..., Experiment]


def only_finding(report: ClusterReport) -> Finding:
    (finding,) = run_checks(report)
    return finding


def test_healthy_cluster_has_no_findings(small: Small) -> None:
    gpu_node = node("c", gpus=1, free_gpus=1, report=replace(NODE_REPORT, gpus=(Gpu("H200", GB, GB),)))
    access = {"b": Access(True, "", 90 * GB), "c": Access(True, "", 90 * GB)}
    report = cluster(
        node("b"), gpu_node, results=path("/r", **access), teacher_cache=path("/c", **access),
        requirements=required(small()),
    )  # fmt: skip
    assert run_checks(report) == []


def test_findings_are_sorted_by_importance(small: Small) -> None:
    weights = RequiredFile("teacher.pretrained", "/w/clip.pt", on_every_node=True)
    findings = run_checks(
        cluster(
            node("b", probe_error="does not respond within 60 s", report=None),
            node("c", free_cores=0, report=with_software(replace(SOFTWARE, packages=PACKAGES | {"ray": "2.59.0"}))),
            results=path("/home/me/results", c=Access(False)),
            teacher_cache=path("/home/me/cache", c=Access(False)),
            requirements=required(small(resources={"cpus_per_client": 20}), study=True, files=(weights,)),
        )
    )
    starts = ["node b (10.0.0.2) does not", "ray is 2.59.0", "the results at", "teacher.pretrained", "resources.cpus",
              "the teacher cache"]  # fmt: skip
    assert [f.sentence.startswith(start) for f, start in zip(findings, starts, strict=True)] == [True] * 6
    assert [f.is_error for f in findings] == [True] * 5 + [False]


@pytest.mark.parametrize(
    ("software", "start", "is_error"),
    [
        (replace(SOFTWARE, packages=PACKAGES | {"torch": "2.14.1"}), "torch is 2.14.1 on node b (/venv", True),
        (replace(SOFTWARE, packages=PACKAGES | {"torch": "2.15.0+cpu"}), "torch is 2.15.0+cpu on node b", False),
        (replace(SOFTWARE, python="3.12.9"), "python is 3.12.9 on node b", False),
        (replace(SOFTWARE, python="3.11.9"), "python is 3.11.9 on node b", True),
        (replace(SOFTWARE, source="bbbb2222"), "fedray's source is bbbb2222 on node b", True),
        (Software("3.12.3", {n: v for n, v in PACKAGES.items() if n != "fedray"}, ""), "fedray is missing", True),
    ],
)
def test_differing_version_is_one_finding(software: Software, start: str, is_error: bool) -> None:
    finding = only_finding(cluster(node("b", report=with_software(software)), node("c")))
    assert finding.sentence.startswith(start)
    assert finding.is_error == is_error


def test_versions_are_compared_with_the_most_common_one() -> None:
    newer = with_software(replace(SOFTWARE, packages=PACKAGES | {"numpy": "2.5.0"}))
    sentence = only_finding(cluster(*(node(name, report=newer) for name in "bcd"))).sentence
    assert sentence.startswith("numpy is 2.4.6 in this process and on node a (/venv/bin/python) and 2.5.0 elsewhere")


def test_actor_that_does_not_start_is_an_error() -> None:
    finding = only_finding(cluster(actor_error="it died"))
    assert finding.is_error
    assert finding.sentence.startswith("node a runs tasks, but no actor starts there (it died)")


def test_unresponsive_local_node_hides_the_actor_error() -> None:
    unresponsive = node("a", is_local=True, probe_error="does not respond within 60 s")
    report = ClusterReport([unresponsive], SOFTWARE, actor_error="it died")
    assert "does not respond" in only_finding(report).sentence


def test_results_that_are_not_shared_name_the_nodes_by_error(small: Small) -> None:
    results = path("/r", b=Access(False), c=Access(False, "Permission denied"))
    findings = run_checks(cluster(node("b"), node("c"), results=results, requirements=required(small(), study=True)))
    assert "/r are not shared with node b:" in findings[0].sentence
    assert "/r are not shared with node c (Permission denied):" in findings[1].sentence


def test_results_that_are_not_shared_are_an_error_for_a_study(small: Small) -> None:
    report = cluster(node("b"), results=path("/r", b=Access(False)))
    assert only_finding(replace(report, requirements=required(small(), study=True))).is_error
    assert not only_finding(replace(report, requirements=required(small()))).is_error
    assert only_finding(replace(report, has_results_option=True)).is_error
    assert not only_finding(report).is_error


@pytest.mark.parametrize("name", ["results", "teacher_cache"])
def test_path_that_cannot_be_written_is_an_error(small: Small, name: str) -> None:
    unwritable = {name: SharedPath("/proc/r", "Permission denied")}
    finding = only_finding(cluster(requirements=required(small()), **unwritable))
    assert finding.is_error
    assert "/proc/r cannot be written from here (Permission denied)" in finding.sentence


def test_shared_teacher_cache_matters_to_a_study_with_teachers(small: Small) -> None:
    report = cluster(node("b"), teacher_cache=path("/cache", b=Access(False)))
    assert "/cache is not shared with node b" in only_finding(report).sentence
    assert not only_finding(replace(report, requirements=required(small(), study=True))).is_error
    assert run_checks(replace(report, requirements=required(small()))) == []
    assert run_checks(replace(report, requirements=required(small(), study=True, cache=False))) == []


def test_files_must_exist_where_they_are_read(small: Small) -> None:
    table = RequiredFile("partition.file", "/d/p.csv", on_every_node=False)
    weights = RequiredFile("proxy.init", "file:w.pt", on_every_node=True)
    present = replace(NODE_REPORT, file_sizes={"/d/p.csv": 10, "file:w.pt": 99})
    absent = replace(NODE_REPORT, file_sizes={"/d/p.csv": None, "file:w.pt": None})
    other = replace(NODE_REPORT, file_sizes={"/d/p.csv": 11, "file:w.pt": 98})
    nodes = [
        node("a", is_local=True, report=present),
        node("b", report=present),
        node("c", report=absent),
        node("d", report=other),
    ]
    report = ClusterReport(nodes, SOFTWARE, requirements=required(small(), files=(table, weights)))
    missing, differing = (finding.sentence for finding in run_checks(report))
    assert missing.startswith(
        "proxy.init: there is no 'file:w.pt' on node c; Ray's processes resolve the path from /home"
    )
    assert differing.startswith("proxy.init: 'file:w.pt' has other contents on node d than elsewhere")


def test_missing_torchvision_images_are_a_warning(small: Small) -> None:
    images = RequiredFile("data.train", "torchvision:CIFAR10", on_every_node=True)
    local = node("a", is_local=True, report=replace(NODE_REPORT, file_sizes={images.text: None}))
    finding = only_finding(ClusterReport([local], SOFTWARE, requirements=required(small(), files=(images,))))
    assert not finding.is_error
    assert "will be downloaded there" in finding.sentence


def test_actor_that_fits_no_single_node_is_an_error(small: Small) -> None:
    requirements = required(small(resources={"backend": "ray", "cpus_per_client": 6}))
    finding = only_finding(cluster(node("b"), requirements=requirements))
    assert finding.is_error
    assert finding.sentence.startswith("the plan is for 1 actor of 6 cores, but the nodes can hold 0")


def test_cores_of_other_jobs_delay_actors(small: Small) -> None:
    busy = cluster(node("b", free_cores=0))
    assert "other jobs hold 4 of 8 cores: actors that need more" in only_finding(busy).sentence
    six_clients = Requirements(is_study=False, uses_teacher_cache=False, clients={small(): 6}, max_trials=1)
    finding = only_finding(replace(busy, requirements=six_clients))
    assert "hold 4 of 8 cores: 4 of 6 actors can start now" in finding.sentence
    assert not finding.is_error
    assert run_checks(replace(busy, requirements=required(small()))) == []  # four clients fit on four free cores


def test_gpus_that_torch_does_not_detect_matter_if_they_are_used(small: Small) -> None:
    undetected = node("b", gpus=2, free_gpus=2, report=replace(NODE_REPORT, gpus=()))
    assert not only_finding(cluster(undetected)).is_error
    requirements = required(small(resources={"gpus_per_client": 0.5}))
    finding = only_finding(cluster(undetected, requirements=requirements))
    assert finding.is_error
    assert "node b has 2 GPUs in Ray, but torch detects 0" in finding.sentence


def test_bfloat16_on_a_processor_without_it_is_a_warning(small: Small) -> None:
    without = [node(name, report=replace(NODE_REPORT, has_bfloat16=False)) for name in ("b", "c")]
    with_it = node("d", report=replace(NODE_REPORT, has_bfloat16=True))
    requirements = required(small(training={"precision": "bfloat16"}))
    finding = only_finding(cluster(*without, with_it, requirements=requirements))
    assert not finding.is_error
    assert "the processor of nodes b and c has no instructions for it" in finding.sentence
    on_gpus = small(training={"precision": "bfloat16"}, resources={"gpus_per_client": 0.1})
    for spec in (small(), on_gpus):
        findings = run_checks(cluster(*without, requirements=required(spec)))
        assert not [f for f in findings if "bfloat16" in f.sentence]
    assert run_checks(cluster(with_it, requirements=requirements)) == []


def test_full_disk_is_a_warning() -> None:
    full = node("b", report=replace(NODE_REPORT, disk=Bytes(100 * GB, 2 * GB)))
    assert "node b has 2.0 of 100 GB free at /tmp/ray" in only_finding(cluster(full)).sentence
    scarce = SharedPath("/r", access={"a": Access(True, "", 10**8)})
    assert only_finding(cluster(results=scarce)).sentence.startswith("/r has 0.10 GB free on node a: free some space")


def test_wrong_clock_is_a_warning() -> None:
    late = node("b", report=replace(NODE_REPORT, clock_offset_s=-90.0))
    assert "the clock of node b is 90 s behind this machine's" in only_finding(cluster(late)).sentence


def test_lost_node_is_a_warning_unless_it_was_stopped_or_replaced() -> None:
    lost = node("c", exit_reason="it crashed", report=None)
    assert "node c (10.0.0.3) has left the cluster (it crashed)" in only_finding(cluster(lost)).sentence
    assert run_checks(cluster(replace(lost, exit_was_intended=True))) == []
    assert run_checks(cluster(node("b", address=lost.address), lost)) == []
