"""The lines that `fedray plan` prints."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from fedray.cli.study_table import count_states, damaged_trials, plan_accuracy
from fedray.cli.tables import duration, open_console
from fedray.study.plan import StudyPlan
from fedray.study.study import Study


def print_plan(study: Study, plan: StudyPlan) -> None:
    """Print the estimated cost of a study, one line per kind of cost."""
    rows = Table.grid(padding=(0, 2))
    for name, text in _lines(study, plan):
        rows.add_row(name, text)
    open_console().print(rows)


def _lines(study: Study, plan: StudyPlan) -> Iterator[tuple[str, str]]:
    yield "trials", f"{len(plan.trials)}: {count_states(plan.trials)}; {len(plan.pending)} to run"
    if plan.pending:
        yield from _resource_lines(plan)
    for teacher in plan.teacher_timings:
        if teacher.problem:
            yield "", f"a teacher was not measured: {teacher.problem}"
    if plan.step_timings and plan.pending:
        yield from _measured_lines(plan)
    if line := plan_accuracy(study, plan.trials):
        yield "estimate", line
    for sentence in damaged_trials(plan.trials):
        yield "damaged", sentence


def _resource_lines(plan: StudyPlan) -> Iterator[tuple[str, str]]:
    work = plan.work.values()
    yield "clients", _client_line(plan)
    cluster = f"{plan.cluster.get('CPU', 0):g} cores, {plan.cluster.get('GPU', 0):g} GPUs"
    yield "capacity", f"{plan.at_once} {'trial' if plan.at_once == 1 else 'trials'} at a time on {cluster}"
    yield "teachers", _teacher_line(plan)
    yield (
        "work",
        f"{_flop(sum(trial.flops for trial in work))} to train the proxies; "
        f"{sum(trial.bytes for trial in work) / 1e9:,.1f} GB between drivers and clients",
    )


def _measured_lines(plan: StudyPlan) -> Iterator[tuple[str, str]]:
    peaks = [timing.memory for timing in plan.step_timings.values()] + [
        teacher.memory for teacher in plan.teacher_timings
    ]
    yield "memory", f"at most {max(peaks) / 1e9:.2f} GB per actor"
    teachers = f", of which {duration(plan.teacher_seconds)} for teacher outputs" if plan.teacher_seconds else ""
    yield "time", f"{duration(plan.total_seconds)}{teachers} (from a few measured steps of each kind of trial)"


def _client_line(plan: StudyPlan) -> str:
    work = plan.work.values()
    clients = sorted({len(trial.steps) for trial in work})
    largest = max(plan.actors.values(), key=lambda actors: actors.actors)
    actors = "1 actor with" if largest.actors == 1 else f"{largest.actors} actors, each with"
    gpus = f" and {largest.gpus_per_actor:g} GPU" if largest.gpus_per_actor else ""
    return (
        f"{_range(clients)} per trial in {actors} {largest.cpus_per_actor:g} core{gpus}; "
        f"{sum(trial.rounds for trial in work):,} rounds in all"
    )


def _teacher_line(plan: StudyPlan) -> str:
    if not plan.outputs_used:
        return "none"
    flops = plan.queries.missing * max((teacher.flops for teacher in plan.teacher_timings), default=0)
    cost = f" ({_flop(flops)})" if flops else ""
    online = f"; {plan.online:,} forward passes online" if plan.online else ""
    return (
        f"{plan.outputs_used - plan.online:,} outputs used: {plan.queries.cached:,} in the cache, "
        f"{plan.queries.missing:,} forward passes to compute the rest{cost}{online}"
    )


def _range(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"


def _flop(number: float) -> str:
    for unit, size in (("Pflop", 1e15), ("Tflop", 1e12), ("Gflop", 1e9)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e6:,.1f} Mflop"
