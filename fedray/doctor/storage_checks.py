"""Checks of shared folders, free space and the files that a spec names."""

from collections import Counter
from collections.abc import Iterator, Mapping

from fedray.doctor.finding import Finding, node_names
from fedray.doctor.report import ClusterReport, Node, SharedPath
from fedray.doctor.requirements import RequiredFile

MIN_FREE_BYTES = 1e9
"""Free space below which a folder of results or teacher outputs gives a warning."""


def results_folder(report: ClusterReport) -> Iterator[Finding]:
    """Yield problems of the results folder: not writable, or not shared with nodes whose trials write there."""
    path, requirements = report.results, report.requirements
    if path is None:
        return
    if path.error:
        yield Finding(f"the results at {path.path} cannot be written from here ({path.error}): choose other --results.")
    is_error = requirements.is_study if requirements else report.has_results_option
    for nodes in _nodes_without_access(path):
        remedy = (
            "check credentials and network there"
            if path.is_uri
            else "give --results on a disk that all nodes share, or a URI such as s3://bucket/path"
        )
        problem = f"the results at {path.path} are not shared with {nodes}"
        yield Finding(f"{problem}: trials of a sweep run on every node and write there; {remedy}.", is_error)


def teacher_cache(report: ClusterReport) -> Iterator[Finding]:
    """Yield problems of the teacher cache: not writable, or not shared with the nodes of a sweep."""
    path, requirements = report.teacher_cache, report.requirements
    if path is None or (requirements and not requirements.uses_teacher_cache):
        return
    if path.error:
        problem = f"the teacher cache {path.path} cannot be written from here ({path.error})"
        yield Finding(f"{problem}: set FEDRAY_CACHE to a writable folder.", is_error=bool(requirements))
    if requirements and not requirements.is_study:
        return
    for nodes in _nodes_without_access(path):
        yield Finding(
            f"the teacher cache {path.path} is not shared with {nodes}: a sweep's trials there compute teacher outputs "
            "again; set FEDRAY_CACHE to a folder that all nodes share.",
            is_error=False,
        )


def files(report: ClusterReport) -> Iterator[Finding]:
    """Yield files of the spec that are missing, or differ, on nodes that read them."""
    for file in report.requirements.files if report.requirements else ():
        readers = [node for node in report.alive if node.report and (file.on_every_node or node.is_local)]
        sizes = {node.name: node.report.file_sizes.get(file.text) for node in readers if node.report}
        missing = [node for node in readers if sizes[node.name] is None]
        if missing:
            yield _missing_file(file, missing)
        yield from _differing_contents(file, sizes)


def free_space(report: ClusterReport) -> Iterator[Finding]:
    """Yield folders of results or teacher outputs with less than MIN_FREE_BYTES."""
    for path, option in ((report.results, "--results"), (report.teacher_cache, "FEDRAY_CACHE")):
        free = {name: access.free_bytes for name, access in path.access.items()} if path else {}
        scarce = {name: size for name, size in free.items() if size is not None and size < MIN_FREE_BYTES}
        if path and scarce:
            least = min(scarce.values())
            problem = f"{path.path} has {least / 1e9:.2f} GB free on {node_names(list(scarce))}"
            yield Finding(f"{problem}: free some space, or choose another {option}.", is_error=False)


def _nodes_without_access(path: SharedPath) -> Iterator[str]:
    """Yield the names of nodes that do not share the path, grouped by error, such as `node a (Permission denied)`."""
    by_error = dict[str, list[str]]()
    for name, access in path.access.items():
        if not access.shared:
            by_error.setdefault(access.error, []).append(name)
    for error, names in by_error.items():
        yield node_names(names) + (f" ({error})" if error else "")


def _missing_file(file: RequiredFile, missing: list[Node]) -> Finding:
    names = node_names([node.name for node in missing])
    if file.text.startswith("torchvision:"):
        problem = f"{file.field}: {file.text} is not on {names} yet"
        return Finding(f"{problem}; it will be downloaded there, which needs internet access.", is_error=False)
    return Finding(f"{file.field}: there is no '{file.text}' on {names}; {_remedy(file, missing[0])}.")


def _remedy(file: RequiredFile, node: Node) -> str:
    is_relative = not file.text.rpartition(":")[2].startswith(("/", "~"))
    if is_relative and node.report:
        return (
            f"Ray's processes resolve the path from {node.report.working_folder}, so give its absolute path, "
            "or start Ray in another folder"
        )
    return "copy it there, or put it on a disk that all nodes share"


def _differing_contents(file: RequiredFile, sizes: Mapping[str, int | None]) -> Iterator[Finding]:
    present = {name: size for name, size in sizes.items() if size is not None}
    usual = Counter(present.values()).most_common(1)
    differing = [name for name, size in present.items() if size != usual[0][0]]
    if differing:
        problem = f"{file.field}: '{file.text}' has other contents on {node_names(differing)} than elsewhere"
        yield Finding(f"{problem}; copy it again.")
