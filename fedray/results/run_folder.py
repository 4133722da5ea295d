"""The folder of one run.

spec.yaml           the resolved spec
environment.json    the folder's format, the identity of the run, a checksum of the file and, once the run has finished,
                    checksums of the others
rounds.csv, clients.csv, classes.csv, client_accuracy.csv, partition.csv, faults.csv
confusion-proxy.csv, confusion-teacher.csv    of the last evaluated round on the test set; on the clients' examples
costs.json          what teachers and training cost
checkpoint/         the last two checkpoints, and the clients' own models
model.safetensors   the final proxy; it marks the run as finished
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import Timeout

from fedray.config.experiment import EXECUTION_SECTIONS, Experiment
from fedray.config.yaml_files import flatten, read_yaml, to_yaml
from fedray.errors import SpecError
from fedray.files import replace_text
from fedray.locks import RESULTS_REMEDY, locked
from fedray.results import checkpoint
from fedray.results.contents import Content, PresentContents
from fedray.results.environment import read_environment, write_environment
from fedray.results.identity import RunIdentity, hash_of_code, short
from fedray.results.writer import PARTITION_COLUMNS, CsvTable, RunTables
from fedray.types import Fault, Row, ServerState

if TYPE_CHECKING:
    from fedray.data.federated import FederatedDataset


FORMAT = 2
"""Version of the files of a run and of a study. It is raised when a name or a column changes."""


MAX_FIELDS = 3
"""Differing fields that an error names."""


def check_format(folder: Path, found: object) -> None:
    """Raises SpecError unless `found`, the format that a folder's own file states, is the current one."""
    if found != FORMAT:
        version = f"format {found}" if isinstance(found, int) else "an earlier format"
        raise SpecError(
            f"'{folder}' has results in {version}; this fedray reads and writes format {FORMAT}. "
            "Choose another --results, or use the version that wrote them."
        )


class RunFolder:
    """The folder of one run, for the one process that writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint"
        self.model = path / "model.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.model.exists()

    @property
    def resumable_from(self) -> int:
        """Round of the newest checkpoint, 0 without one."""
        complete = self.checkpoint.glob("round-*/state.json")
        names = [state.parent.name.removeprefix("round-") for state in complete]
        return max((int(name) for name in names if name.isdigit()), default=0)

    def make(self) -> None:
        """Create the folder. Raises SpecError if it cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / ".writable").touch()
            (self.path / ".writable").unlink()
        except OSError as error:
            raise SpecError(f"the results folder '{self.path}' cannot be written ({error.strerror}).") from error

    def load_checkpoint(self) -> tuple[ServerState, dict[int, int]] | None:
        """Return the newest checkpoint up to which all tables have their rows, as `checkpoint.load` does.

        Raises SpecError if there are checkpoints, but tables lack rows before the oldest.
        """
        loaded = checkpoint.load(self.checkpoint, self.path)
        if loaded is None and (whole := checkpoint.load(self.checkpoint)) is not None:
            number = whole[0].round
            names = " and ".join(checkpoint.tables_differing_from(self.checkpoint, number, self.path))
            raise SpecError(
                f"the unfinished run in '{self.path}' is damaged: the rows of {names} up to the checkpoint of round "
                f"{number} differ from their checksum; delete '{self.path}' to start from scratch."
            )
        return loaded

    def check(
        self, experiment: Experiment, *, resume: bool = True, allow_code_change: bool = False,
        contents: PresentContents | None = None,
    ) -> list[str]:  # fmt: skip
        """Check that the folder can be written, and that its run, if any, is this one.

        Returns sentences on what is reported only. Raises SpecError for a run of another spec or on other data, and for
        an unfinished run with another identity, or with any if `resume` is false.
        """
        self.make()
        if not (self.finished or self.resumable_from):
            return []
        with self._advice("choose another --results"):
            environment = read_environment(self.path)
        check_format(self.path, environment.get("format"))
        self._check_spec(experiment)
        if not (self.finished or resume):
            raise SpecError(
                f"'{self.path}' holds an unfinished run of this spec; leave out --no-resume to continue it."
            )
        return self.check_identity(experiment, allow_code_change=allow_code_change, contents=contents)

    def check_identity(
        self, experiment: Experiment, *, allow_code_change: bool = False, contents: PresentContents | None = None
    ) -> list[str]:
        """Check the identity of the folder's run, apart from its spec; return sentences on what is reported only.

        Raises SpecError as `check` does.
        """
        with self._advice("choose another --results"):
            if self.finished:
                return self._check_finished(experiment, contents or PresentContents())
            recorded = self.recorded_identity()
            if changed := (contents or PresentContents()).differing(experiment, recorded.contents):
                raise SpecError(
                    f"the unfinished run in '{self.path}' was started with other contents of {changed}; restore them"
                )
            present = recorded.with_present_process(experiment)
            _, clauses = self._continued(recorded, present, allow_code_change=allow_code_change)
        return [f"the run in '{self.path}' is continued with {clause}" for clause in clauses]

    def identify(
        self, experiment: Experiment, contents: Mapping[str, Content], gpu: str | None, *, last_round: int,
        allow_code_change: bool,
    ) -> tuple[RunIdentity, list[str]]:  # fmt: skip
        """Return the identity of a run that starts or, after `last_round`, continues, and clauses on what has changed.

        Raises SpecError for a run that was started with other contents, code, threads or kind of device.
        """
        present = RunIdentity.of(experiment, gpu, contents)
        if not last_round:
            return present, []
        with self._advice("choose another --results"):
            return self._continued(self.recorded_identity(), present, allow_code_change=allow_code_change)

    def _continued(
        self, recorded: RunIdentity, present: RunIdentity, *, allow_code_change: bool
    ) -> tuple[RunIdentity, list[str]]:
        try:
            return recorded.continued_by(present, allow_code_change=allow_code_change)
        except SpecError as error:
            raise SpecError(f"the unfinished run in '{self.path}' {error}") from None

    def interruptions(self, last_round: int, changes: Sequence[str]) -> list[Fault]:
        """Return the rows of faults.csv for a run that continues after `last_round`."""
        response, newest, reason = f"resumed from round {last_round}", self.resumable_from, ""
        if newest > last_round:
            reason = f"the checkpoint of round {newest} is damaged, or a table lacks rows before it or has others"
        faults = {"interrupted": [reason], "other environment": changes}
        return [
            Fault(fault, "run", platform.node(), response, each)
            for fault, reasons in faults.items()
            for each in reasons
        ]

    def recorded_identity(self) -> RunIdentity:
        """Return the identity of an unfinished run. Raises SpecError if it is missing or damaged."""
        recorded = RunIdentity.from_document(read_environment(self.path).get("identity"))
        if recorded is None:
            raise SpecError(f"'{self.path}' holds an unfinished run whose environment.json records no identity")
        return recorded

    def _check_finished(self, experiment: Experiment, contents: PresentContents) -> list[str]:
        recorded = RunIdentity.from_document(read_environment(self.path).get("identity"))
        if recorded is None:
            return []
        try:
            changed = contents.differing(experiment, recorded.contents)
        except SpecError as error:
            return [f"the finished run in '{self.path}' was not compared with its data: {error}"]
        if changed:
            raise SpecError(
                f"the finished run in '{self.path}' has results of other contents of {changed}; restore them"
            )
        if recorded.code[-1] == hash_of_code(experiment):
            return []
        return [f"the finished run in '{self.path}' was made with other code ({short(recorded.code)})."]

    @property
    def identity(self) -> RunIdentity | None:
        """The identity of the run; None if none is recorded or environment.json is damaged."""
        try:
            return RunIdentity.from_document(read_environment(self.path).get("identity"))
        except SpecError:
            return None

    def check_format(self) -> None:
        """Raises SpecError if the run is in another format. A missing or damaged environment.json states none."""
        try:
            environment = read_environment(self.path)
        except SpecError:
            return
        check_format(self.path, environment.get("format"))

    def difference(self, experiment: Experiment) -> str:
        """Return how the spec of the folder's run differs, as `seed is 0 there and 1 here`; empty if it does not."""
        spec = self.path / "spec.yaml"
        is_run = self.finished or self.resumable_from
        return _difference(read_yaml(spec), experiment) if is_run and spec.exists() else ""

    def _check_spec(self, experiment: Experiment) -> None:
        if not (self.path / "spec.yaml").exists():
            raise SpecError(f"'{self.path}' holds a run without its spec.yaml; choose another --results.")
        if difference := self.difference(experiment):
            raise SpecError(f"'{self.path}' holds results of another spec ({difference}); choose another --results.")

    @contextmanager
    def _advice(self, advice: str) -> Iterator[None]:
        """Append advice to a SpecError."""
        try:
            yield
        except SpecError as error:
            raise SpecError(f"{str(error).rstrip('.')}, or {advice}.") from None

    @contextmanager
    def lock(self, timeout_s: float = 0) -> Iterator[None]:
        """Hold the folder's lock. The system releases it if the process dies.

        `timeout_s`: seconds that an earlier process has to release it, as the actors of a killed process take a
        while to end. Raises SpecError after that.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / ".lock", timeout_s, RESULTS_REMEDY))
            except Timeout:
                raise SpecError(
                    f"'{self.path}' is being written by another run; wait for it, or choose another --results."
                ) from None
            yield

    def describe(self, experiment: Experiment, identity: RunIdentity, facts: Row) -> None:
        """Write spec.yaml and environment.json."""
        replace_text(self.path / "spec.yaml", to_yaml(experiment))
        write_environment(self.path, {"format": FORMAT, "identity": identity.document(), **facts})

    def write_partition(self, federated: "FederatedDataset") -> None:
        """Write partition.csv: the number of examples per client and class, without zeros."""
        with CsvTable(self.path / "partition.csv", PARTITION_COLUMNS) as table:
            for client, label in np.argwhere(federated.partition_counts).tolist():
                name, examples = federated.train.classes[label], int(federated.partition_counts[client, label])
                row = {"client": client, "client_label": federated.client_label(client)}
                table.write([row | {"class": label, "class_name": name, "examples": examples}])

    def tables(self, losses: Sequence[str], after_round: int) -> RunTables:
        """Open the tables that grow by round, cut after `after_round`."""
        return RunTables(self.path, losses, after_round)


def _difference(before: Row, experiment: Experiment) -> str:
    """Return `seed is 0 there and 1 here`, up to MAX_FIELDS of them; empty for specs with one result."""
    with suppress(ValueError):  # the spec of an earlier version may lack fields, which then have their defaults
        before = Experiment.model_validate(before).model_dump(mode="json")
    old, new = flatten(before), flatten(experiment.model_dump(mode="json"))
    differing = [
        f"{field} is {old.get(field)} there and {new.get(field)} here"
        for field in [*new, *(old.keys() - new.keys())]
        if field.split(".")[0] not in EXECUTION_SECTIONS and old.get(field) != new.get(field)
    ]
    rest = [f"{len(differing) - MAX_FIELDS} more"] if len(differing) > MAX_FIELDS else []
    return ", ".join([*differing[:MAX_FIELDS], *rest])
