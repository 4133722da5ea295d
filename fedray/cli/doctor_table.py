"""Output of `fedray doctor`: nodes, versions, shared folders, findings, and the first problem to fix."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedray.cli.tables import open_console
from fedray.doctor.finding import Finding
from fedray.doctor.report import ClusterReport, Node, SharedPath
from fedray.doctor.requirements import Requirements
from fedray.doctor.resource_checks import describe_actor, plan_trials
from fedray.errors import SpecError

PACKAGES = ("python", "fedray", "ray", "torch", "torchvision", "open_clip_torch", "timm", "numpy")


def print_report(report: ClusterReport, findings: Sequence[Finding], out: Console | None = None) -> None:
    """Print a table of the nodes, a line for each thing they share, the findings, and the first of these."""
    out = out or open_console()
    out.print(_node_table(report))
    note = "; clients: clients of the spec that a node can hold" if report.requirements else ""
    out.print(f"free/total; memory, disk and object store in GB{note}")
    out.print()
    out.print(_two_columns(_shared_lines(report)))
    out.print()
    if len(findings) > 1:
        out.print(_two_columns(("error" if f.is_error else "warning", f.sentence) for f in findings))
        out.print()
    out.print(conclusion(findings))


def conclusion(findings: Sequence[Finding]) -> str:
    """Return the last line of the output: the first finding."""
    if not findings:
        return "Nothing to fix."
    sentence = findings[0].sentence
    return f"Fix first: {sentence}" if findings[0].is_error else f"No errors. First warning: {sentence}"


def _node_table(report: ClusterReport) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("node", overflow="fold")
    table.add_column("address", no_wrap=True)
    for column in ("cores", "GPUs", "memory", "disk", "store", *(("clients",) if report.requirements else ())):
        table.add_column(column, justify="right", no_wrap=True)
    for node in report.nodes:
        table.add_row(*_row(node, report.requirements))
    return table


def _row(node: Node, requirements: Requirements | None) -> list[str]:
    head = [_name_with_state(node), node.address]
    if node.exit_reason:
        return head
    memory = node.report.memory if node.report else None
    disk = node.report.disk if node.report else None
    clients = [str(min(node.count_actors(*r) for r in requirements.client_resources))] if requirements else []
    return [
        *head,
        _fraction(node.free_cores, node.cores),
        _fraction(node.free_gpus, node.gpus) if node.gpus else "-",
        _fraction(memory.free / 1e9, memory.total / 1e9) if memory else "-",
        _fraction(disk.free / 1e9, disk.total / 1e9) if disk else "-",
        f"{node.object_store_bytes / 1e9:.1f}",
        *clients,
    ]


def _name_with_state(node: Node) -> str:
    states = {"left": node.exit_reason, "unresponsive": node.probe_error, "here": node.is_local}
    state = next((state for state, applies in states.items() if applies), None)
    return f"{node.name} ({state})" if state else node.name


def _shared_lines(report: ClusterReport) -> Iterator[tuple[str, str]]:
    for node in report.alive:
        for gpus in _gpu_models(node):
            yield "GPU", f"{node.name}: {gpus}"
    yield "versions", _versions(report)
    if report.results:
        yield "results", _access(report.results, len(report.alive))
    if report.teacher_cache:
        yield "teacher cache", _access(report.teacher_cache, len(report.alive))
    if report.requirements:
        yield "spec", _plan(report, report.requirements)


def _gpu_models(node: Node) -> list[str]:
    """Return a line per GPU model: number, name, and the least free memory."""
    gpus = (node.report.gpus if node.report else None) or ()
    models = {gpu.name: [other for other in gpus if other.name == gpu.name] for gpu in gpus}
    return [
        f"{len(same)} {name}, {_fraction(min(gpu.free for gpu in same) / 1e9, same[0].total / 1e9)} GB free"
        for name, same in models.items()
    ]


def _versions(report: ClusterReport) -> str:
    versions = report.software.versions()
    listed = ", ".join(f"{name} {versions.get(name) or 'missing'}" for name in PACKAGES)
    return f"{listed}; source {report.software.source}"


def _access(path: SharedPath, nodes: int) -> str:
    if path.error:
        return f"{path.path}: cannot be written from here"
    sharing = [access for access in path.access.values() if access.shared]
    free = [access.free_bytes for access in sharing if access.free_bytes is not None]
    least = f", {min(free) / 1e9:,.0f} GB free" if free else ""
    return f"{path.path}: shared by {len(sharing)} of {nodes} node{'s' * (nodes != 1)}{least}"


def _plan(report: ClusterReport, requirements: Requirements) -> str:
    try:
        at_once, plans = plan_trials(requirements, report.total)
    except SpecError:
        return "does not fit"
    largest = max(plans.values(), key=lambda plan: plan.actors)
    actors = f"{largest.actors} actor{'s' * (largest.actors > 1)}, each with {describe_actor(largest)}"
    clients = f"{max(requirements.clients.values())} clients in {actors}"
    if not requirements.is_study:
        return clients
    return f"{len(plans)} trials, {at_once} at once, each of {clients}"


def _fraction(free: float, total: float) -> str:
    """Return `3/8`, with two significant digits below 10: `0.5/2`."""
    return f"{_short(free)}/{_short(total)}"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 10 else f"{number:.2g}"


def _two_columns(pairs: Iterator[tuple[str, str]]) -> Table:
    """Return a grid in which long sentences wrap within the second column."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in pairs:
        grid.add_row(name, Text(text))
    return grid
