"""Checks of single nodes: responsiveness, devices, spill disk, clock."""

from collections.abc import Iterator

from fedray.doctor.finding import Finding, count, node_names
from fedray.doctor.report import ClusterReport

MAX_CLOCK_OFFSET_S = 5.0
MIN_SPILL_DISK_SHARE = 0.05
"""Free share of a disk below which Ray stops spilling objects to it."""


def unresponsive_nodes(report: ClusterReport) -> Iterator[Finding]:
    """Yield nodes that do not respond."""
    for node in report.alive:
        if node.probe_error:
            yield Finding(
                f"node {node.name} ({node.address}) {node.probe_error}: check the machine and its Ray logs, or stop "
                "Ray there, because tasks and actors placed on it would wait."
            )


def actor_start(report: ClusterReport) -> Iterator[Finding]:
    """Yield a finding if no actor starts on this node."""
    names = [node.name for node in report.alive if node.is_local and not node.probe_error]
    if report.actor_error and names:
        yield Finding(
            f"{node_names(names)} runs tasks, but no actor starts there ({report.actor_error}): see its Ray logs; if "
            "the cluster uses no token, set RAY_AUTH_MODE=disabled here, because fedray sends any token that it finds."
        )


def gpus(report: ClusterReport) -> Iterator[Finding]:
    """Yield nodes whose GPUs torch does not detect."""
    is_error = bool(report.requirements and any(gpus for _, gpus in report.requirements.client_resources))
    for node in report.alive:
        detected = node.report.gpus if node.report else None
        if detected is not None and len(detected) < node.gpus:
            yield Finding(
                f"node {node.name} has {count(node.gpus, 'GPU')} in Ray, but torch detects {len(detected)}: install "
                "torch with CUDA and a driver there, or start its Ray with --num-gpus=0.",
                is_error,
            )


def bfloat16(report: ClusterReport) -> Iterator[Finding]:
    """Yield a finding if training uses bfloat16 on processors without instructions for it."""
    specs = report.requirements.clients if report.requirements else ()
    if any(spec.training.precision == "bfloat16" and not spec.resources.gpus_per_client for spec in specs):
        names = [node.name for node in report.alive if node.report and node.report.has_bfloat16 is False]
        if names:
            yield Finding(
                f"training.precision is bfloat16, but the processor of {node_names(names)} has no instructions for it "
                "and needs several times as long as with float32: choose float32, or train on GPUs "
                "(resources.gpus_per_client).",
                is_error=False,
            )


def spill_disks(report: ClusterReport) -> Iterator[Finding]:
    """Yield nodes whose disk is too full for Ray to spill objects."""
    for node in report.alive:
        if node.report and node.report.disk.free < MIN_SPILL_DISK_SHARE * node.report.disk.total:
            total, free = node.report.disk
            yield Finding(
                f"node {node.name} has {free / 1e9:.1f} of {total / 1e9:.0f} GB free at {node.report.temp_folder}, and "
                "Ray stops spilling objects there below 5%: free some space, or start Ray with another --temp-dir.",
                is_error=False,
            )


def clocks(report: ClusterReport) -> Iterator[Finding]:
    """Yield nodes whose clock differs by more than MAX_CLOCK_OFFSET_S."""
    for node in report.alive:
        offset = node.report.clock_offset_s if node.report else 0.0
        if abs(offset) > MAX_CLOCK_OFFSET_S:
            difference = f"{abs(offset):.0f} s {'ahead of' if offset > 0 else 'behind'}"
            yield Finding(
                f"the clock of node {node.name} is {difference} this machine's: synchronize it (chrony, ntp), because "
                "ages of files and times of faults are wrong.",
                is_error=False,
            )


def lost_nodes(report: ClusterReport) -> Iterator[Finding]:
    """Yield nodes that left unintentionally and did not return under the same address."""
    present = {node.address for node in report.alive}
    for node in report.nodes:
        if node.exit_reason and not node.exit_was_intended and node.address not in present:
            yield Finding(
                f"node {node.name} ({node.address}) has left the cluster ({node.exit_reason}): start Ray there again "
                "if the node should take part.",
                is_error=False,
            )
