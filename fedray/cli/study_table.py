"""The tables that `fedray sweep` ends in."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from fedray.cli.progress import duration, empty_table, open_console, percent
from fedray.study.estimate import compare_with_actual
from fedray.study.study import Study, Trial, last_metrics

ACCURACIES = ("test_accuracy", "last_k_accuracy", "worst_class_accuracy", "rare_class_accuracy")
ROWS = 30
"""Of a large study only the best trials are printed; trials.csv has them all."""


def print_standing(study: Study) -> None:
    """A row per trial: where it stands, and whether it would be run."""
    rows = empty_table("trial", "state", "round", "to do")
    trials = study.trials() or study.kept()
    for trial in trials:
        of = f"{trial.round}/{trial.experiment.training.rounds}"
        rows.add_row(trial.label, trial.state, of, "run" if study.left(trial) else "-")
    out = open_console()
    out.print(rows)
    out.print(f"{len(trials)} trials: {counted(trials)}; {sum(map(study.left, trials))} to be run")
    if not study.trials():
        search = study.space.search
        out.print(f"{search.algorithm} proposes trials until there are {search.samples}.")


def print_study(study: Study, trials: Sequence[Trial]) -> None:
    """The trials, best first, and those that failed with why."""
    search = study.space.search
    figures = {trial.name: last_metrics(trial.history()) for trial in trials}

    def rank(trial: Trial) -> float:
        value = figures[trial.name][search.metric]
        return float("inf") if value != value else (-value if search.direction == "max" else value)

    ended = sorted((t for t in trials if t.state in ("finished", "stopped")), key=rank)
    rows = empty_table("trial", "state", "round", "accuracy", "last k", "k", "worst class", "rare classes", "loss")
    for trial in ended[:ROWS]:
        own = figures[trial.name]
        accuracy, last, worst, rare = (percent(own[name]) for name in ACCURACIES)
        loss = f"{own['test_loss']:.4f}"
        rows.add_row(trial.label, trial.state, str(trial.round), accuracy, last, str(own["last_k"]), worst, rare, loss)
    out = open_console()
    out.print(rows)
    if len(ended) > ROWS:
        out.print(f"and {len(ended) - ROWS} more, by {search.metric}")
    _print_failures(out, trials)
    if line := held_against_line(study, trials):
        out.print(line)
    if not study.is_population and (kinds := Counter(kind for trial in trials for kind in trial.faults())):
        each = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        out.print(f"recovered faults within trials: {kinds.total()} ({each}), see their faults.csv")
    out.print(f"{len(trials)} trials: {counted(trials)}; tables: {study.storage}", soft_wrap=True)


def held_against_line(study: Study, trials: Sequence[Trial]) -> str:
    """How good an earlier plan was; empty where there is none, or nothing it speaks of is finished."""
    found = compare_with_actual(study, trials)
    if found is None:
        return ""
    count, planned, took = found
    return (
        f"{count} finished trials were planned to take {duration(planned)} of rounds and took {duration(took)} "
        f"({planned / took:.2f})"
    )


def _print_failures(out: Console, trials: Sequence[Trial]) -> None:
    """Each, and of those that failed for the same reason, one traceback."""
    shown = set[str]()
    for trial in trials:
        if (outcome := trial.outcome) is not None and outcome.state == "failed":
            where = f" on node {outcome.node}" if outcome.node else ""
            out.print(f"failed: {trial.label}, after round {outcome.round}{where}: {outcome.by}", soft_wrap=True)
            if outcome.traceback and outcome.by not in shown:
                out.print(outcome.traceback.rstrip(), soft_wrap=True)
            shown.add(outcome.by)


def counted(trials: Sequence[Trial]) -> str:
    """`2 finished, 4 waiting`."""
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{number} {state}" for state, number in counts.items()) or "none"
