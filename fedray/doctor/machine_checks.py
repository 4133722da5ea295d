"""What is wrong with single nodes: with the machine, its devices, its disk, its clock."""

from collections.abc import Iterator

from fedray.doctor.finding import Finding, counted, node_names
from fedray.doctor.report import ClusterReport

CLOCK = 5.0
"""Seconds that clocks may differ."""
SPILLING = 0.05
"""The share of a disk below which Ray no longer spills to it."""
ROOM = 1e9
"""Bytes that should be free where results and teachers' answers go."""


def silent(facts: ClusterReport) -> Iterator[Finding]:
    for node in facts.alive:
        if node.silence:
            yield Finding(
                f"node {node.name} ({node.address}) {node.silence}: look at the machine and its Ray logs, "
                "or stop Ray there, for whatever is placed on it would wait."
            )


def no_actor(facts: ClusterReport) -> Iterator[Finding]:
    here = [node.name for node in facts.alive if node.here and not node.silence]
    if facts.no_actor and here:
        yield Finding(
            f"{node_names(here)} runs tasks, but no actor comes up there ({facts.no_actor}): see its Ray logs; if the "
            "cluster asks for no token, set RAY_AUTH_MODE=disabled here, for fedray sends the one it finds."
        )


def gpus(facts: ClusterReport) -> Iterator[Finding]:
    for node in facts.alive:
        found = node.answer.gpus if node.answer else None
        if found is not None and len(found) < node.gpus:
            yield Finding(
                f"node {node.name} offers Ray {counted(node.gpus, 'GPU')}, but torch sees {len(found)}: "
                "install a torch with CUDA and a driver there, or start its Ray with --num-gpus=0.",
                must=bool(facts.wanted and any(gpus for _, gpus in facts.wanted.shares)),
            )


def arithmetic(facts: ClusterReport) -> Iterator[Finding]:
    """bfloat16 where the processor has no instructions for it: torch then takes several times as long as float32."""
    on_cpu = [spec for spec in facts.wanted.sizes if not spec.resources.gpus_per_client] if facts.wanted else []
    if any(spec.training.precision == "bfloat16" for spec in on_cpu):
        slow = [node.name for node in facts.alive if node.answer and node.answer.bfloat16 is False]
        if slow:
            yield Finding(
                f"training.precision is bfloat16, but the processor of {node_names(slow)} has no instructions for it "
                "and is several times slower so: choose float32, or train on GPUs (resources.gpus_per_client).",
                must=False,
            )


def disks(facts: ClusterReport) -> Iterator[Finding]:
    for node in facts.alive:
        if node.answer and node.answer.disk[1] < SPILLING * node.answer.disk[0]:
            total, free = node.answer.disk
            yield Finding(
                f"node {node.name} has {free / 1e9:.1f} of {total / 1e9:.0f} GB free at {node.answer.temp}, and Ray "
                "stops spilling objects there at 5 %: make room, or start Ray with another --temp-dir.",
                must=False,
            )
    for place, name in ((facts.results, "--results"), (facts.teacher_cache, "FEDRAY_CACHE")):
        scarce = (
            {node: r.free for node, r in place.reached.items() if r.free is not None and r.free < ROOM} if place else {}
        )
        if place and scarce:
            least = min(scarce.values())
            what = f"{place.path} has {least / 1e9:.2f} GB free on {node_names(list(scarce))}"
            yield Finding(f"{what}: make room, or choose another {name}.", must=False)


def clocks(facts: ClusterReport) -> Iterator[Finding]:
    for node in facts.alive:
        if node.answer and abs(node.answer.clock) > CLOCK:
            apart = f"{abs(node.answer.clock):.0f} s {'ahead of' if node.answer.clock > 0 else 'behind'}"
            yield Finding(
                f"the clock of node {node.name} is {apart} this one's: have it set (chrony, ntp), for the ages of "
                "files and the times of faults are wrong.",
                must=False,
            )


def left(facts: ClusterReport) -> Iterator[Finding]:
    there = {node.address for node in facts.alive}
    for node in facts.nodes:
        if node.left and not node.meant_to_leave and node.address not in there:
            yield Finding(
                f"node {node.name} ({node.address}) has left the cluster ({node.left}): start Ray there again if it "
                "should take part.",
                must=False,
            )
