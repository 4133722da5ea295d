"""The folder of one run.

spec.yaml           the resolved spec
environment.json    the folder's format; versions, machine, digests of the files that the spec names
rounds.csv, clients.csv, classes.csv, partition.csv, faults.csv
confusion-proxy.csv, confusion-teacher.csv    of the last evaluated round on the test set; on the clients' examples
costs.json          what teachers and training cost
checkpoint/         the last two checkpoints, and the clients' own models
model.safetensors   the final proxy; it marks the run as finished
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import Timeout

from fedray.config.experiment import EXECUTION_SECTIONS, Experiment
from fedray.config.files import named_files
from fedray.config.yaml_files import flatten, read_yaml, to_yaml
from fedray.errors import SpecError
from fedray.files import replace_text
from fedray.locks import RESULTS_REMEDY, locked
from fedray.results import checkpoint
from fedray.results.writer import PARTITION_COLUMNS, CsvTable, RunTables, last_complete_round
from fedray.types import Row, ServerState

if TYPE_CHECKING:
    from fedray.data.federated import FederatedDataset


FORMAT = 2
"""Version of the files of a run and of a study. It is raised when a name or a column changes."""


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
        last_round = last_complete_round(self.path)
        loaded = checkpoint.load(self.checkpoint, last_round)
        if loaded is None and checkpoint.load(self.checkpoint) is not None:
            raise SpecError(
                f"the tables in '{self.path}' are complete up to round {last_round} only, and its checkpoints are of "
                f"later rounds; delete '{self.path}' to start from scratch."
            )
        return loaded

    def check(self, experiment: Experiment, *, resume: bool) -> None:
        """Raises SpecError if the folder cannot be written, or holds another run or an unfinished one to resume."""
        self.make()
        if not (self.finished or self.resumable_from):
            return
        if not self._environment():
            raise SpecError(
                f"'{self.path}' holds a run whose environment.json is missing or damaged, so that it cannot be "
                "compared with this one; choose another --results."
            )
        self.check_format()
        self._check_spec(experiment)
        if not (self.finished or resume):
            raise SpecError(f"'{self.path}' holds an unfinished run of this spec; add --resume to continue it.")

    def check_format(self) -> None:
        """Raises SpecError if the run is in another format. A missing or damaged environment.json states none."""
        if environment := self._environment():
            check_format(self.path, environment.get("format"))

    def _check_spec(self, experiment: Experiment) -> None:
        spec = self.path / "spec.yaml"
        if not spec.exists():
            raise SpecError(f"'{self.path}' holds a run without its spec.yaml; choose another --results.")
        difference = _first_difference(read_yaml(spec), experiment)
        if difference:
            raise SpecError(f"'{self.path}' holds results of another spec ({difference}); choose another --results.")
        digests = named_files(experiment)
        for field, digest in self._environment().get("files", {}).items():
            if digests.get(field) != digest:
                raise SpecError(
                    f"'{self.path}' holds a run with other contents of the file that {field} names; "
                    "restore them, or choose another --results."
                )

    def _environment(self) -> Row:
        """Return environment.json; empty if it is missing or damaged."""
        try:
            document = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return document if isinstance(document, dict) else {}

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

    def describe(self, experiment: Experiment, environment: Row) -> None:
        """Write spec.yaml and environment.json."""
        replace_text(self.path / "spec.yaml", to_yaml(experiment))
        document = {"format": FORMAT, **environment}
        replace_text(self.path / "environment.json", json.dumps(document, indent=2))

    def write_partition(self, federated: "FederatedDataset") -> None:
        """Write partition.csv: the number of examples per client and class, without zeros."""
        with CsvTable(self.path / "partition.csv", PARTITION_COLUMNS) as table:
            for client, label in np.argwhere(federated.class_counts).tolist():
                name, examples = federated.train.classes[label], int(federated.class_counts[client, label])
                row = {"client": client, "client_label": federated.client_label(client)}
                table.write([row | {"class": label, "class_name": name, "examples": examples}])

    def tables(self, losses: Sequence[str], after_round: int) -> RunTables:
        """Open the tables that grow by round, cut after `after_round`."""
        return RunTables(self.path, losses, after_round)


def _first_difference(before: Row, experiment: Experiment) -> str:
    """Return `training.optimizer.lr is 0.1 there and 0.01 here`; empty if both specs have the same result."""
    old, new = flatten(before), flatten(experiment.model_dump(mode="json"))
    for field in [*new, *(old.keys() - new.keys())]:
        if field.split(".")[0] not in EXECUTION_SECTIONS and old.get(field) != new.get(field):
            return f"{field} is {old.get(field)} there and {new.get(field)} here"
    return ""
