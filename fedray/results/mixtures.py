"""Differences between the identities of a study's runs: code, data, devices, threads or versions."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from fedray.results.identity import RunIdentity, short
from fedray.types import Row

DATA = ("data.train", "data.test")


def identity_columns(identity: RunIdentity | None) -> Row:
    """Return the cells of trials.csv on the identity of a trial; empty if it is unknown."""
    if identity is None:
        return dict.fromkeys(("code", "data", "device", "threads", "torch"), "")
    data = "+".join(identity.contents[name].digest[:8] for name in DATA if name in identity.contents)
    return {
        "code": short(identity.code), "data": data, "device": identity.device, "threads": identity.threads,
        "torch": identity.versions.get("torch", ""),
    }  # fmt: skip


def mixtures(runs: Iterable[tuple[RunIdentity | None, Mapping[str, object]]]) -> list[str]:
    """Return a message for each part of their identities in which runs with equal specs differ.

    Each run has its identity, None if it is unknown, and the fields of its spec by dotted name.
    """
    values: dict[str, dict[str, Counter[str]]] = {}
    for identity, spec in runs:
        for part, setting, value in _parts(identity, spec) if identity else ():
            values.setdefault(part, {}).setdefault(setting, Counter())[value] += 1
    mixed = [(part, counts) for part, settings in values.items() for counts in settings.values() if len(counts) > 1]
    return [f"the runs differ in {part}: {_counted(counts)}." for part, counts in mixed]


def _parts(identity: RunIdentity, spec: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yield each part, the fields of the spec that determine it, and its value."""
    yield "code", "", short(identity.code)
    yield "device", "", identity.versions.get("gpu", identity.device)
    yield "threads", "", str(identity.threads)
    for package, version in identity.versions.items():
        if package != "gpu":
            yield package, "", version
    for name, content in identity.contents.items():
        if name != "partition":  # it follows from the data, the seed and the code
            yield name, _setting(name, spec), content.digest[:8]


def _setting(name: str, spec: Mapping[str, object]) -> str:
    if name not in DATA:
        return str(spec.get(name))
    fields = sorted((field, str(value)) for field, value in spec.items() if field.startswith("data."))
    limited = any(spec.get(f"data.{side}_limit") is not None for side in ("train", "test"))
    return str((fields, spec.get("seed") if limited else None))


def _counted(counts: Mapping[str, int]) -> str:
    """Return `3f2a9c1d (2 runs), 9b01aa22 (1 run)`."""
    return ", ".join(f"{value} ({count} run{'s' if count > 1 else ''})" for value, count in counts.items())
