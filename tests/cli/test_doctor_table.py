"""The output of `fedray doctor`."""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
from helpers.reports import GB, NODE_REPORT, cluster, node, path, required
from rich.console import Console

from fedray.cli.doctor_table import conclusion, print_report
from fedray.config.experiment import Experiment
from fedray.doctor.checks import run_checks
from fedray.doctor.finding import Finding
from fedray.doctor.report import Access, Gpu, SharedPath


@pytest.mark.parametrize("width", [80, 160])
def test_output_fits_the_terminal(width: int, small: Callable[..., Experiment]) -> None:
    gpus = (Gpu("NVIDIA H200", 60 * GB, 140 * GB),) * 2
    report = cluster(
        node("b-with-a-longer-name", probe_error="does not respond within 60 s", report=None),
        node("c", gpus=2, free_gpus=0.5, report=replace(NODE_REPORT, gpus=gpus)),
        node("d", exit_reason="it crashed", report=None),
        results=path("/r", c=Access(False)),
        teacher_cache=SharedPath("/cache", "Permission denied"),
        requirements=required(small(), small(seed=1), study=True),
    )
    findings, out = run_checks(report), io.StringIO()
    print_report(report, findings, Console(file=out, width=width, highlight=False, markup=False))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    cells = [line.split() for line in lines]
    assert ["a", "(here)", "10.0.0.1", "4/4", "-", "8/16", "50/100", "1.0", "4"] in cells
    assert ["c", "10.0.0.3", "4/4", "0.5/2", "8/16", "50/100", "1.0", "4"] in cells
    assert any(line.startswith("GPU") and "c: 2 NVIDIA H200, 60/140 GB free" in line for line in lines)
    assert any(line.startswith("results") and "shared by 1 of 3 nodes" in line for line in lines)
    assert any("2 trials, 2 at once, each of 4 clients" in line for line in lines)
    assert sum(line.startswith("error") for line in lines) == sum(f.is_error for f in findings) > 1
    assert " ".join(out.getvalue().split()).endswith(f"Fix first: {findings[0].sentence}")


def test_conclusion_is_the_first_finding() -> None:
    error, warning = Finding("a problem."), Finding("a remark.", is_error=False)
    assert conclusion([]) == "Nothing to fix."
    assert conclusion([error, warning]) == "Fix first: a problem."
    assert conclusion([warning]) == "No errors. First warning: a remark."
