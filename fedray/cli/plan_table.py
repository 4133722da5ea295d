"""What `fedray plan` prints."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from fedray.cli.progress import duration, open_console
from fedray.cli.study_table import counted, held_against_line
from fedray.study.plan import StudyPlan
from fedray.study.study import Study


def print_plan(study: Study, planned: StudyPlan) -> None:
    """What a study will take, a line for each kind of cost."""
    out = open_console()
    rows = Table.grid(padding=(0, 2))
    for name, text in _plan_lines(study, planned):
        rows.add_row(name, text)
    out.print(rows)


def _plan_lines(study: Study, planned: StudyPlan) -> Iterator[tuple[str, str]]:
    left, work = planned.left, planned.work.values()
    yield "trials", f"{len(planned.trials)}: {counted(planned.trials)}; {len(left)} to be run"
    if left:
        most = max(planned.actors.values(), key=lambda plan: plan.actors)
        clients = sorted({len(each.steps) for each in work})
        gpus = f" and {most.gpus_per_actor:g} GPU" if most.gpus_per_actor else ""
        yield (
            "a trial",
            (
                f"{_range(clients)} clients in {most.actors} {'actor' if most.actors == 1 else 'actors'}, "
                f"each with {most.cpus_per_actor:g} core{gpus}; {sum(each.rounds for each in work):,} rounds in all"
            ),
        )
        has = f"{planned.cluster.get('CPU', 0):g} cores, {planned.cluster.get('GPU', 0):g} GPUs"
        yield "room", f"{planned.at_once} {'trial' if planned.at_once == 1 else 'trials'} at once on {has}"
        yield "teachers", _teacher_line(planned)
        yield (
            "work",
            (
                f"{_flop(sum(each.flops for each in work))} to train the proxies; "
                f"{sum(each.bytes for each in work) / 1e9:,.1f} GB between drivers and clients"
            ),
        )
    for one in planned.forwards:
        if one.problem:
            yield "", f"a teacher was not measured: {one.problem}"
    if planned.speeds and left:
        peaks = [s.memory for s in planned.speeds.values()] + [one.memory for one in planned.forwards]
        yield "memory", f"{max(peaks) / 1e9:.2f} GB in an actor at most"
        asking = f", of which {duration(planned.asking)} until the teachers have answered" if planned.asking else ""
        yield "time", f"{duration(planned.total)}{asking} (measured now on a few steps of each kind of trial)"
    if line := held_against_line(study, planned.trials):
        yield "estimate", line


def _teacher_line(planned: StudyPlan) -> str:
    answers = planned.answers
    online = f"; {planned.online:,} forward passes online" if planned.online else ""
    flops = answers.missing * max((one.flops for one in planned.forwards), default=0)
    cost = f" ({_flop(flops)})" if flops else ""
    if not planned.used:
        return "none"
    return (
        f"{planned.used - planned.online:,} answers used: {answers.missing:,} forward passes to make{cost}, "
        f"{answers.banked:,} in the bank{online}"
    )


def _range(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"


def _flop(number: float) -> str:
    for unit, size in (("Pflop", 1e15), ("Tflop", 1e12), ("Gflop", 1e9)):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return f"{number / 1e6:,.1f} Mflop"
