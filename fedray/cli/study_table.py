"""Tables of a study's trials, printed by `fedray sweep`."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from fedray.cli.tables import duration, empty_table, open_console, percent
from fedray.config.yaml_files import flatten
from fedray.results.mixtures import mixtures
from fedray.study.estimate import compare_with_actual
from fedray.study.study import Study, Trial, last_metrics

ACCURACIES = ("test_accuracy", "last_k_accuracy", "worst_class_accuracy", "rare_class_accuracy")
MAX_ROWS = 30
"""Trials printed, best first; trials.csv has all of them."""


def print_trials_to_run(study: Study) -> None:
    """Print one row per trial: its state, and whether a sweep would run it."""
    rows = empty_table("trial", "state", "round", "to do")
    trials = study.trials() or study.existing_trials()
    for trial in trials:
        rounds = f"{trial.round}/{trial.experiment.training.rounds}"
        rows.add_row(trial.label, trial.state, rounds, "run" if study.is_pending(trial) else "-")
    out = open_console()
    out.print(rows)
    out.print(f"{len(trials)} trials: {count_states(trials)}; {sum(map(study.is_pending, trials))} to run")
    for sentence in damaged_trials(trials):
        out.print(sentence, soft_wrap=True)
    if not study.trials():
        search = study.space.search
        out.print(f"{search.algorithm} proposes new trials until there are {search.samples}.")


def print_study(study: Study, trials: Sequence[Trial]) -> None:
    """Print the trials, best first, then failures, faults and how accurate the plan was."""
    out = open_console()
    _print_best_trials(out, study, trials)
    _print_failures(out, trials)
    identities = ((trial.folder.identity, flatten(trial.experiment.model_dump(mode="json"))) for trial in trials)
    for sentence in (*damaged_trials(trials), *mixtures(identities)):
        out.print(sentence, soft_wrap=True)
    if line := plan_accuracy(study, trials):
        out.print(line)
    if not study.is_population and (kinds := Counter(kind for trial in trials for kind in trial.faults())):
        counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
        out.print(f"recovered faults in trials: {kinds.total()} ({counts}), see their faults.csv")
    out.print(f"{len(trials)} trials: {count_states(trials)}; tables: {study.storage}", soft_wrap=True)


def _print_best_trials(out: Console, study: Study, trials: Sequence[Trial]) -> None:
    search = study.space.search
    metrics = {trial.name: last_metrics(trial.history()) for trial in trials}

    def rank(trial: Trial) -> float:
        """Return a number that is smaller for a better trial; infinity for NaN."""
        value = metrics[trial.name][search.metric]
        return float("inf") if value != value else (-value if search.direction == "max" else value)

    ended = sorted((trial for trial in trials if trial.state in ("finished", "stopped")), key=rank)
    rows = empty_table("trial", "state", "round", "accuracy", "last k", "k", "worst class", "rare classes", "loss")
    for trial in ended[:MAX_ROWS]:
        values = metrics[trial.name]
        accuracy, last, worst, rare = (percent(values[name]) for name in ACCURACIES)
        loss, k = f"{values['test_loss']:.4f}", str(values["last_k"])
        rows.add_row(trial.label, trial.state, str(trial.round), accuracy, last, k, worst, rare, loss)
    out.print(rows)
    if len(ended) > MAX_ROWS:
        out.print(f"and {len(ended) - MAX_ROWS} more trials, see trials.csv")


def _print_failures(out: Console, trials: Sequence[Trial]) -> None:
    """Print a line per failed trial, and the traceback once per reason."""
    reasons = set[str]()
    for trial in trials:
        if (outcome := trial.outcome) is not None and outcome.state == "failed":
            node = f" on node {outcome.node}" if outcome.node else ""
            out.print(f"failed: {trial.label}, after round {outcome.round}{node}: {outcome.reason}", soft_wrap=True)
            if outcome.traceback and outcome.reason not in reasons:
                out.print(outcome.traceback.rstrip(), soft_wrap=True)
            reasons.add(outcome.reason)


def damaged_trials(trials: Sequence[Trial]) -> list[str]:
    """Return a sentence per finished trial whose files are damaged, with the way to run it again."""
    return [
        f"the finished trial {trial.label or trial.name} is damaged: {trial.damage}; delete '{trial.storage}' to let "
        "the next sweep run it again."
        for trial in trials
        if trial.damage
    ]


def plan_accuracy(study: Study, trials: Sequence[Trial]) -> str:
    """Return planned and actual time of the finished trials, or "" if none of them was planned."""
    comparison = compare_with_actual(study, trials)
    if comparison is None:
        return ""
    count, planned, actual = comparison
    return (
        f"{count} finished trials: planned {duration(planned)} of rounds, actual {duration(actual)} "
        f"(ratio {planned / actual:.2f})"
    )


def count_states(trials: Sequence[Trial]) -> str:
    """Return `2 finished, 4 pending`."""
    counts = Counter(trial.state for trial in trials)
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
