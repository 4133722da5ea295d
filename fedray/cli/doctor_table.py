"""What `fedray doctor` prints: the nodes, what they have in common, and what to put right."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedray.cli.progress import open_console
from fedray.doctor.checks import plans, share
from fedray.doctor.finding import Finding
from fedray.doctor.report import ClusterReport, Node, Place
from fedray.errors import SpecError

SHOWN = ("python", "fedray", "ray", "torch", "torchvision", "open_clip_torch", "timm", "numpy")


def print_report(facts: ClusterReport, findings: Sequence[Finding], out: Console | None = None) -> None:
    """A table of the nodes, a line for each thing they share, the findings, and what to do first."""
    out = out or open_console()
    out.print(_nodes(facts))
    room = "; room: for so many clients of the spec" if facts.wanted else ""
    out.print(f"free/in all; memory, disk and object store in GB{room}")
    out.print()
    out.print(_lines(_shared(facts)))
    out.print()
    if len(findings) > 1:
        out.print(_lines(("to fix" if each.must else "to know", each.sentence) for each in findings))
        out.print()
    out.print(first(findings))


def first(findings: Sequence[Finding]) -> str:
    """The one sentence to end with."""
    if not findings:
        return "Nothing to fix."
    sentence = findings[0].sentence
    return f"Fix first: {sentence}" if findings[0].must else f"Nothing must be fixed. To know: {sentence}"


def _nodes(facts: ClusterReport) -> Table:
    """What is free of what there is, and how many of the spec's clients would find room in all."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("node", overflow="fold")
    table.add_column("address", no_wrap=True)
    for column in ("cores", "GPUs", "memory", "disk", "store"):
        table.add_column(column, justify="right", no_wrap=True)
    if facts.wanted:
        table.add_column("room", justify="right", no_wrap=True)
    for node in facts.nodes:
        table.add_row(*_row(node, facts))
    return table


def _row(node: Node, facts: ClusterReport) -> list[str]:
    state = "gone" if node.left else "silent" if node.silence else "here" if node.here else ""
    head = [f"{node.name} ({state})" if state else node.name, node.address]
    if node.left:
        return head
    answer = node.answer
    memory = _of(answer.memory[1] / 1e9, answer.memory[0] / 1e9) if answer and answer.memory else "-"
    disk = _of(answer.disk[1] / 1e9, answer.disk[0] / 1e9) if answer else "-"
    gpus = _of(node.free_gpus, node.gpus) if node.gpus else "-"
    room = [str(min(node.fits(*share) for share in facts.wanted.shares))] if facts.wanted else []
    return [*head, _of(node.free_cores, node.cores), gpus, memory, disk, f"{node.store / 1e9:.1f}", *room]


def _shared(facts: ClusterReport) -> Iterator[tuple[str, str]]:
    for node in facts.alive:
        for gpu in _gpus(node):
            yield "GPU", f"{node.name}: {gpu}"
    yield "versions", _versions(facts)
    if facts.results:
        yield "results", _place(facts.results, len(facts.alive))
    if facts.teacher_cache:
        yield "cached", _place(facts.teacher_cache, len(facts.alive))
    if facts.wanted:
        yield "spec", _plan(facts)


def _gpus(node: Node) -> list[str]:
    """Each name once, with how many there are and how much of their memory is free."""
    found = (node.answer.gpus if node.answer else None) or ()
    names = {gpu.name: [each for each in found if each.name == gpu.name] for gpu in found}
    return [
        f"{len(same)} {name}, {_of(min(each.free for each in same) / 1e9, same[0].total / 1e9)} GB free"
        for name, same in names.items()
    ]


def _versions(facts: ClusterReport) -> str:
    mine = facts.software.versions()
    shown = ", ".join(f"{name} {mine.get(name) or 'missing'}" for name in SHOWN)
    return f"{shown}; source {facts.software.source}"


def _place(place: Place, nodes: int) -> str:
    if place.problem:
        return f"{place.path}: cannot be written from here"
    sharing = sum(reach.shared for reach in place.reached.values())
    free = [reach.free for reach in place.reached.values() if reach.shared and reach.free is not None]
    room = f", {min(free) / 1e9:,.0f} GB free" if free else ""
    return f"{place.path}: reached by {sharing} of {nodes} node{'s' * (nodes != 1)}{room}"


def _plan(facts: ClusterReport) -> str:
    assert facts.wanted is not None, "asked only where there is a spec"
    try:
        at_once, planned = plans(facts.wanted, facts.total)
    except SpecError:
        return "does not fit"
    most = max(planned.values(), key=lambda plan: plan.actors)
    actors = f"{most.actors} actor{'s' * (most.actors > 1)}, each with {share(most)}"
    clients = f"{max(facts.wanted.sizes.values())} clients in {actors}"
    if not facts.wanted.study:
        return clients
    return f"{len(planned)} trials, {at_once} at once, each of {clients}"


def _of(free: float, total: float) -> str:
    """`3/8`: parts of a core or a GPU are shown, gigabytes are whole."""
    return f"{_short(free)}/{_short(total)}"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _lines(pairs: Iterator[tuple[str, str]]) -> Table:
    """A grid in which long sentences stay in their column."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in pairs:
        grid.add_row(name, Text(text))
    return grid
