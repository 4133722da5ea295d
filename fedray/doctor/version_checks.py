"""Compares the versions of Python and packages of all nodes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from fedray.doctor.finding import Finding, node_names
from fedray.doctor.report import SOURCE, ClusterReport, Software

THIS_PROCESS = ""
"""The name of this process among the names of nodes."""


def versions(report: ClusterReport) -> Iterator[Finding]:
    """Yield each version that differs from the most common one; ties prefer this process's version."""
    software = {THIS_PROCESS: report.software}
    software |= {node.name: node.report.software for node in report.alive if node.report}
    versions_by_name = {name: process.versions() for name, process in software.items()}
    other_fedray = set[str]()
    for package in {package: None for packages in versions_by_name.values() for package in packages}:
        installed = {name: packages.get(package, "") for name, packages in versions_by_name.items()}
        if package == SOURCE:  # another version of fedray always has another source
            installed = {name: version for name, version in installed.items() if name not in other_fedray}
        usual, differing = _group_by_version(installed)
        for version, names in differing.items():
            other_fedray |= set(names) if package == "fedray" else set()
            yield _version_finding(package, version, usual, _where(names, software))


def _group_by_version(installed: Mapping[str, str]) -> tuple[str, dict[str, list[str]]]:
    """Return the most common version, and the names of nodes by each other version."""
    usual = Counter(installed.values()).most_common(1)[0][0]
    differing = dict[str, list[str]]()
    for name, version in installed.items():
        if version != usual:
            differing.setdefault(version, []).append(name)
    return usual, differing


def _where(names: Sequence[str], software: Mapping[str, Software]) -> str:
    nodes = [name for name in names if name != THIS_PROCESS]
    parts = ["in this process"] if THIS_PROCESS in names else []
    if nodes:
        parts.append(f"on {node_names(nodes)} ({software[names[0]].executable})")
    return " and ".join(parts)


def _version_finding(package: str, version: str, usual: str, where: str) -> Finding:
    sentence = f"{package} is {version or 'missing'} {where} and {usual or 'missing'} elsewhere"
    return Finding(
        f"{sentence}: install the same version everywhere.",
        is_error=not version or _is_other_release(package, version, usual),
    )


def _is_other_release(package: str, version: str, usual: str) -> bool:
    """Another build of a release, or another patch level of Python, changes at most the last bits of results."""
    if package == "python":
        return version.split(".")[:2] != usual.split(".")[:2]
    return version.partition("+")[0] != usual.partition("+")[0]
