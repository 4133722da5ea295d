"""The identity of a run: everything that its numbers depend on, recorded when it runs.

docs/results.md has a table of its parts, with the differences that are refused, reported or ignored.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version

from fedray.code_hash import NUMERIC_CODE, NoSourceError, code_hash
from fedray.config.experiment import Experiment
from fedray.errors import SpecError
from fedray.results.contents import Content
from fedray.types import Row
from fedray.user_code import user_objects

PACKAGES = ("fedray", "ray", "torch", "torchvision", "timm", "open_clip_torch", "numpy", "pandas", "pillow")
NO_SOURCE = "no source"
"""Placeholder for the hash of a user's class without source text, which cannot be compared."""


@dataclass(frozen=True)
class RunIdentity:
    """Everything that a run's numbers depend on, besides its spec, which is in spec.yaml."""

    contents: Mapping[str, Content]
    """Contents of the training and test set, the partition, and the files that the spec names, by field."""
    code: Sequence[str]
    """The hash of the code; if the run was resumed with other code, the hashes of all, in order."""
    device: str
    """`cpu` or `cuda`."""
    threads: int
    """Number of torch threads of a client."""
    versions: Mapping[str, str]
    """Versions of Python and packages, the GPU and the processor's architecture."""

    @classmethod
    def of(cls, experiment: Experiment, gpu: str | None, contents: Mapping[str, Content]) -> "RunIdentity":
        """Return the identity of a run in this process. `gpu`: the name of the workers' GPU, if they use one."""
        threads = experiment.resources.threads
        return cls(contents, [hash_of_code(experiment)], "cuda" if gpu else "cpu", threads, versions(gpu))

    @classmethod
    def from_document(cls, document: object) -> "RunIdentity | None":
        """Return the identity in environment.json; None if it is missing or of an earlier version."""
        try:
            row = dict(document)  # type: ignore[call-overload]
            contents = {name: Content(**content) for name, content in row["contents"].items()}
            return cls(contents, [*row["code"]], row["device"], row["threads"], {**row["versions"]})
        except (TypeError, KeyError, ValueError, AttributeError):
            return None

    def document(self) -> Row:
        """Return the identity as a JSON object."""
        return asdict(self)

    def with_present_process(self, experiment: Experiment) -> "RunIdentity":
        """Return the identity with the code, threads and versions of this process, for a check before workers start."""
        present = versions(self.versions.get("gpu"))
        return replace(self, code=[hash_of_code(experiment)], threads=experiment.resources.threads, versions=present)

    def continued_by(
        self, present: "RunIdentity", *, allow_code_change: bool = False
    ) -> tuple["RunIdentity", list[str]]:
        """Return the identity of this unfinished run continued by `present`, with a clause per reported difference.

        Raises SpecError, without a subject, for other data, code, threads or kind of device.
        """
        for name, content in self.contents.items():
            if name not in present.contents or content.digest != present.contents[name].digest:
                raise SpecError(f"was started with other contents of {name}; restore them")
        if self.threads != present.threads:
            raise SpecError(
                f"was started with {self.threads} threads per client, and resources.cpus_per_client now gives "
                f"{present.threads}, which changes results; restore it"
            )
        if self.device != present.device:
            raise SpecError(
                f"was started on {self.device}, and clients would now train on {present.device}; restore it"
            )
        return self._with_code_of(present, allow_code_change=allow_code_change)

    def _with_code_of(self, present: "RunIdentity", *, allow_code_change: bool) -> tuple["RunIdentity", list[str]]:
        code, clauses = self.code, [*version_differences(self.versions, present.versions)]
        if present.code[-1] != self.code[-1] or present.code[-1] == NO_SOURCE:
            change = f"with other code ({short(self.code)}, now {short(present.code)})"
            if not allow_code_change:
                raise SpecError(f"was started {change}; restore it, or continue with --allow-code-change")
            code, clauses = [*self.code, present.code[-1]], [change.removeprefix("with "), *clauses]
        return replace(present, code=code), clauses


def hash_of_code(experiment: Experiment) -> str:
    """Return the hash of fedray's numeric code and of the user's classes in an experiment."""
    try:
        return code_hash(NUMERIC_CODE, user_objects(experiment))
    except NoSourceError:
        return NO_SOURCE


def versions(gpu: str | None) -> dict[str, str]:
    """Return versions of Python and packages, the GPU and the processor's architecture."""
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    return machine | ({"gpu": gpu} if gpu else {}) | {package: version(package) for package in PACKAGES}


def version_differences(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """Yield `torch 2.8.0 before, 2.9.0 now` for each difference."""
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) != now.get(name):
            yield f"{name} {before.get(name, 'none')} before, {now.get(name, 'none')} now"


def short(code: Sequence[str]) -> str:
    """Return the first 8 digits of each hash of code, joined by `+`, for tables."""
    return "+".join(each[:8] for each in code)
