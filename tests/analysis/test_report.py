import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from helpers.studies import write_run, write_study, write_trials

from analysis.records import load
from analysis.report.content import Report
from analysis.report.data import ReportData
from analysis.report.report import write_report
from analysis.report.table import ReportTable
from analysis.report.tables import report_tables
from fedray.errors import SpecError

STRATEGIES = [
    {"name": "fedavg"},
    {"name": "fedprox", "mu": 0.1},
    *({"name": "fedlpfm", "lam": x} for x in (0.25, 0.5, 1)),
]
TOPS = {"fedavg": 0.3, "fedprox": 0.32, "fedlpfm": 0.4}


def accuracy(strategy: Mapping[str, Any], alpha: float, seed: int) -> list[float]:
    """Rises over two rounds to a level that depends on strategy, α and seed."""
    top = TOPS[strategy["name"]] + 0.02 * strategy.get("lam", 0) + 0.1 * (alpha == 0.5) + 0.01 * seed
    return [top / 2, top - 0.004, *[top] * 10]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("a") / "study", STRATEGIES, accuracy=accuracy, teacher_accuracy=0.89)


@pytest.fixture(scope="module")
def report(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return write_report([str(study)], tmp_path_factory.mktemp("b") / "out", command=["fedray", "report", "study"])


def cells(tables: Iterable[ReportTable], name: str) -> dict[str, list[str]]:
    (table,) = [table for table in tables if table.name == name]
    return {label: [text for text, _ in row] for label, row in table.rows()}


def test_accuracy_across_clients_has_a_table_if_runs_have_it(tmp_path: Path) -> None:
    """The metrics are means of the last three of fifteen rounds; runs of earlier versions have none."""
    for seed, level in enumerate((0.4, 0.6)):
        per_round = {
            "client_accuracy": [0.0] * 12 + [level] * 3, "client_accuracy_std": [0.9] * 12 + [level / 4] * 3,
            "client_accuracy_worst_tenth": [1.0] * 12 + [level / 2] * 3, "evaluated_model": "client",
        }  # fmt: skip
        folder = tmp_path / "new" / str(seed)
        write_run(folder, strategy={"name": "local"}, seed=seed, accuracy=[0.5] * 15, per_round=per_round)
    write_run(tmp_path / "old", accuracy=[0.5] * 15)
    data = ReportData.of(load(str(tmp_path)))
    assert data.problems == []
    assert cells(report_tables(data), "clients") == {
        "local only": ["2", "50.0 ± 14.1", "12.5 ± 3.5", "25.0 ± 7.1", "client"],
        "FedAvg": ["0", "–", "–", "–", "–"],
    }
    old = ReportData.of(load(str(tmp_path / "old")))
    assert "clients" not in [table.name for table in report_tables(old)]


def test_accuracy_table_by_hand(report: Report) -> None:
    table = cells(report.tables, "accuracy")
    assert table["FedAvg"] == ["31.0 ± 1.0", "41.0 ± 1.0", "36.0 ± 1.0"]  # 30, 31 and 32 %; ten points more at α=0.5
    assert table["Fed-LPFM, λ=0.5"] == ["42.0 ± 1.0", "52.0 ± 1.0", "47.0 ± 1.0"]
    (table,) = [table for table in report.tables if table.name == "accuracy"]
    assert [label for label, row in table.rows() if any(bold for _, bold in row)] == ["Fed-LPFM, λ=1"]


def test_difference_tables_by_hand(report: Report) -> None:
    assert cells(report.tables, "difference-to-fedavg")["FedProx"] == [
        "+2.0",
        "+2.0",
        "+2.0",
    ]  # equal for all seeds: no test
    assert cells(report.tables, "difference-to-fedprox")["Fed-LPFM, λ=1"] == ["+10.0", "+10.0", "+10.0"]


def test_difference_of_zero_has_no_sign(tmp_path: Path) -> None:
    level = {"fedavg": 0.3, "fedprox": 0.2998}
    study = write_study(tmp_path, STRATEGIES[:2], accuracy=lambda strategy, *_: [level[strategy["name"]]] * 12)
    tables = report_tables(ReportData.of(load(study)))
    assert cells(tables, "difference-to-fedavg")["FedProx"] == ["0.0", "0.0", "0.0"]


def test_accuracy_summary_table_by_hand(report: Report) -> None:
    row = cells(report.tables, "accuracy-summary")["FedAvg · α=0.05"]
    assert row == ["3", "31.0 ± 1.0", "31.0 ± 1.0", "31.0 ± 1.0", "0.0 ± 0.0", "15.5 ± 0.5", "23.2 ± 0.8"]


def test_rounds_to_target_table_by_hand(report: Report) -> None:
    (table,) = [table for table in report.tables if table.name == "rounds-to-target"]
    assert "that of FedAvg (31.0 % on α=0.05, 41.0 % on α=0.5)" in table.caption
    table = cells(report_tables(report.data, target=0.315), "rounds-to-target")
    assert table["FedAvg"] == ["2 (1 of 3)", "2"]  # 31.6 % with seed 2 only
    assert table["FedProx"] == ["2", "2"]


def test_tables_are_written_as_csv_markdown_and_latex(report: Report) -> None:
    folder = report.folder / "tables"
    with (folder / "accuracy.csv").open(newline="") as file:
        rows = {(row["setting"], row["condition"]): row for row in csv.DictReader(file)}
    row = rows["FedAvg", "α=0.05"]
    assert float(row["mean"]) == pytest.approx(0.31)
    assert len(row["runs"].split()) == 3
    assert len(rows["FedAvg", "all"]["runs"].split()) == 6
    markdown = (folder / "accuracy.md").read_text()
    assert "| FedAvg | 31.0 ± 1.0 | 41.0 ± 1.0 | 36.0 ± 1.0 |" in markdown
    assert "| Fed-LPFM, λ=1 | **43.0 ± 1.0** |" in markdown
    latex = (folder / "accuracy.tex").read_text()
    assert (
        r"Fed-LPFM, $\lambda$=1 & \textbf{43.0 $\pm$ 1.0} & \textbf{53.0 $\pm$ 1.0} & \textbf{48.0 $\pm$ 1.0} \\"
        in latex
    )
    assert r"in \%: mean" in latex
    for name in ("difference-to-fedavg", "accuracy-summary", "rounds-to-target", "costs"):
        assert {path.suffix for path in folder.glob(f"{name}.*")} == {".csv", ".md", ".tex"}


def test_cells_link_to_their_runs(report: Report) -> None:
    html = report.page.read_text()
    targets = dict(re.findall(r'<details id="(runs-\d+)"><summary>(.*?)\n', html))
    links = re.findall(r'<td><a href="#(runs-\d+)">(?:<b>)?([^<]*)', html)
    assert targets["runs-1"] == "FedAvg · α=0.05"
    assert ("runs-1", "31.0 ± 1.0") in links
    assert {target for target, _ in links} <= targets.keys()
    for run in report.data.named.index:
        assert f'<th scope="row">{run}</th>' in html
        command = report.data.named.at[run, "command"]
        assert command.startswith("fedray run ")
        assert escape(command) in html


def test_figures_are_written_and_embedded(report: Report) -> None:
    names = {figure.name for figure in report.figures}
    assert {"accuracy-by-round", "heterogeneity", "lambda", "lambda-by-condition", "classes", "confusions"} <= names
    assert {"clients", "partition", "cost"} <= names
    for name in names:
        ElementTree.parse(report.folder / "figures" / f"{name}.svg")
        assert (report.folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    html = report.page.read_text()
    assert html.count("<svg") == len(names)
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len({*ids})
    assert {*re.findall(r"url\(#([^)]+)\)", html), *re.findall(r'xlink:href="#([^"]+)"', html)} <= {*ids}


@pytest.mark.slow
def test_report_files_are_reproducible(report: Report, study: Path, tmp_path: Path) -> None:
    again = write_report([str(study)], tmp_path, command=["fedray", "report", "study"])
    for path in report.folder.rglob("*.*"):
        assert path.read_bytes() == (again.folder / path.relative_to(report.folder)).read_bytes(), path.name


def test_report_of_one_run(tmp_path: Path) -> None:
    write_run(tmp_path / "one", accuracy=[0.1, 0.2])
    report = write_report([str(tmp_path / "one")], tmp_path / "out")
    assert cells(report.tables, "accuracy") == {"FedAvg": ["20.0"]}
    assert "1 run ·" in report.page.read_text()


def test_report_of_several_studies(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", STRATEGIES[:1], accuracy=accuracy)
    other = write_study(tmp_path / "other", [{"name": "fml"}], accuracy=lambda *_: [0.35] * 12)
    report = write_report([str(study), str(other)], tmp_path / "out")
    assert cells(report.tables, "accuracy")["FML"] == ["35.0 ± 0.0", "35.0 ± 0.0", "35.0 ± 0.0"]
    assert "<h1>study, other</h1>" in report.page.read_text()


def test_notes_describe_missing_runs_and_seeds(tmp_path: Path) -> None:
    partial = write_study(tmp_path / "partial", STRATEGIES[:2], accuracy=accuracy)
    gone, half, damaged, *_ = sorted(path.parent for path in partial.glob("name=fedavg,*/rounds.csv"))
    shutil.rmtree(gone)
    rows = (half / "rounds.csv").read_text().splitlines(keepends=True)
    (half / "rounds.csv").write_text("".join(rows[:5]))
    (damaged / "rounds.csv").write_text((damaged / "rounds.csv").read_text().replace("\n7,", "\n7,2"))
    failed = {"trial": gone.name, "state": "failed", "reason": "client 3 failed in round 1"}
    write_trials(partial, [failed, {"trial": half.name, "state": "started", "reason": ""}])
    report = write_report([str(partial)], tmp_path / "out")
    html = report.page.read_text()
    notes = report.data.notes()
    assert "1 of 11 runs has not reached the last round and is left out." in notes
    assert "1 of 4 cells lacks seeds that other cells have (FedAvg on α=0.05: 0, 1)." in notes
    assert f"1 of 2 trials has failed ({gone.name}: client 3 failed in round 1)." in notes
    assert "1 of 2 trials has started but not finished." in notes
    assert any(f"{damaged.name}/rounds.csv' has invalid values (test_accuracy is 2" in sentence for sentence in notes)
    assert 'id="missing"' in html


def test_notes_describe_cells_without_a_run(tmp_path: Path) -> None:
    write_study(tmp_path / "a", STRATEGIES[:1], alphas=[0.05, 0.5], seeds=[0])
    write_study(tmp_path / "b", STRATEGIES[1:2], alphas=[0.5], seeds=[0])
    assert ReportData.of(load(tmp_path)).notes() == ["1 of 4 cells has no run (FedProx on α=0.05)."]


def test_use_of_a_teacher_is_derived_from_lambda_if_unknown(tmp_path: Path) -> None:
    """rounds.csv without teacher_outputs_used: runs with λ above 0 count as runs with a teacher."""
    for model in ("ViT-B-32", "RN50"):
        folder = write_run(tmp_path / model, strategy=STRATEGIES[3], teacher={"kind": "zero_shot", "model": model})
        pd.read_csv(folder / "rounds.csv").drop(columns="teacher_outputs_used").to_csv(
            folder / "rounds.csv", index=False
        )
    data = ReportData.of(load(tmp_path))
    assert set(data.named["teacher_name"]) == {"ViT-B-32", "RN50"}
    assert not [sentence for sentence in data.notes() if "repeats" in sentence]
    assert data.named["teacher_outputs_used"].isna().all()


def test_unfinished_runs_are_compared_at_their_common_round(tmp_path: Path) -> None:
    for seed, rounds in ((0, 3), (1, 6)):
        curve = [0.1 * number for number in range(1, rounds + 1)]
        write_run(tmp_path / f"{seed}", seed=seed, accuracy=curve, training={"rounds": 10})
    data = ReportData.of(load(tmp_path))
    assert data.named["final"].tolist() == pytest.approx([0.3, 0.3])
    assert data.named["bytes"].tolist() == [24_000, 24_000]  # of three rounds
    assert set(data.classes["round"]) == set(data.clients["round"]) == {3}


def test_first_to_target_needs_all_seeds(tmp_path: Path) -> None:
    curves = {"fedavg": {0: [0.1, 0.5], 1: [0.1, 0.5]}, "fedprox": {0: [0.5, 0.5], 1: [0.1, 0.1]}}
    study = write_study(tmp_path, STRATEGIES[:2], [0.1], [0, 1], lambda s, _, seed: curves[s["name"]][seed])
    (table,) = [table for table in report_tables(ReportData.of(load(study)), 0.5) if table.name == "rounds-to-target"]
    assert [(label, row) for label, row in table.rows()] == [
        ("FedAvg", [("2", True)]),
        ("FedProx", [("1 (1 of 2)", False)]),
    ]


def test_runs_without_many_rounds_are_left_out(tmp_path: Path) -> None:
    """A run that lacks one of eleven rounds is kept, one that lacks two is left out."""
    for seed, lost in enumerate([[], [4], [4, 5]]):
        folder = write_run(tmp_path / f"{len(lost)} lost", seed=seed, accuracy=[0.5] * 11)
        rounds = pd.read_csv(folder / "rounds.csv")
        rounds[~rounds["round"].isin(lost)].to_csv(folder / "rounds.csv", index=False)
    data = ReportData.of(load(tmp_path))
    assert data.named.index.tolist() == ["0 lost", "1 lost"]
    assert data.notes()[:2] == [
        "1 of 3 runs lacks more than 10% of the rounds and is left out (2 lost: 2 of 11).",
        "1 of 3 runs lacks rounds, so means and costs use the remaining ones (1 lost: 1 of 11).",
    ]


def test_damaged_tables_are_described(tmp_path: Path) -> None:
    """A file of random bytes, and a row with a negative cost."""
    folders = [write_run(tmp_path / "s" / str(seed), seed=seed, accuracy=[0.5] * 11) for seed in range(2)]
    (folders[0] / "classes.csv").write_bytes(b'\xfa\r\x00,"\r' * 50)
    rounds = pd.read_csv(folders[1] / "rounds.csv").astype({"seconds": float})
    rounds.loc[3, "seconds"] = -5
    rounds.to_csv(folders[1] / "rounds.csv", index=False)
    notes = " ".join(write_report([str(tmp_path / "s")], tmp_path / "out").data.notes())
    assert "classes.csv'" in notes
    assert "rounds.csv' has invalid values (seconds is -5.0); 1 of 11 rows are left out." in notes


def test_files_of_an_earlier_report_are_deleted(tmp_path: Path) -> None:
    write_run(tmp_path / "one", accuracy=[0.1, 0.2])
    figures = write_report([str(tmp_path / "one")], tmp_path / "out").folder / "figures"
    for name in ("of_before.svg", "mine.txt"):
        (figures / name).touch()
    write_report([str(tmp_path / "one")], tmp_path / "out")
    assert {path.name for path in figures.glob("*.*")} >= {"mine.txt", "accuracy-by-round.svg"}
    assert not (figures / "of_before.svg").exists()


def test_report_without_results_raises(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="holds no results"):
        write_report([str(tmp_path)], tmp_path / "out")
    write_run(tmp_path / "a", accuracy=[])
    with pytest.raises(SpecError, match=r"none of the 1 runs in .* has evaluated a round yet"):
        write_report([str(tmp_path)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"last": 0}, "--last is 0, but must be a number of rounds from 1 to 1,000,000."),
        ({"last": 10**23}, "but must be a number of rounds"),
        ({"target": 50.0}, "--target is 50, but must be a fraction from 0 to 1, such as 0.5 for 50 %."),
        ({"target": float("nan")}, "--target is nan, but"),
    ],
)
def test_options_out_of_range_raise(study: Path, tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        write_report([str(study)], tmp_path / "out", **wrong)


def test_report_to_an_unwritable_folder_raises(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SpecError, match=r"the report cannot be written to '.*/file' \(Not a directory\)"):
        write_report([str(study)], tmp_path / "file")


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PROBE = """<script>addEventListener("load", () => {
  const all = (what) => [...document.querySelectorAll(what)];
  const box = (element) => element.getBoundingClientRect();
  const seen = {
    width: innerWidth,
    page: document.documentElement.scrollWidth,
    requests: performance.getEntriesByType("resource").map((entry) => entry.name),
    drawings: all(".drawing svg").map((drawing) => [box(drawing).width, box(drawing).height]),
    hidden: all(":not(details) > .wide").filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.ariaLabel),
    outside: all("body *:not(.wide *)").filter((one) => box(one).right > innerWidth + 1).map((one) => one.tagName),
    ink: getComputedStyle(document.querySelector(".drawing svg")).color,
    ground: getComputedStyle(document.body).backgroundColor,
  };
  document.body.innerHTML = "<pre>" + JSON.stringify(seen) + "</pre>";
});</script>"""


@pytest.fixture(scope="module")
def browse(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, Sequence[str]], dict[str, Any]]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    page = tmp_path_factory.mktemp("probe") / "report.html"
    page.write_text(report.page.read_text().replace("</body>", f"{PROBE}</body>"))

    def look(width: int, flags: Sequence[str] = ()) -> dict[str, Any]:
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
            f"--window-size={width},900", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000", *flags,
            page.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert "CONSOLE" not in done.stderr, done.stderr
        seen = re.search(r"<pre>(.*)</pre>", done.stdout)
        assert seen is not None, done.stderr
        return dict(json.loads(seen[1]))

    return look


@pytest.mark.parametrize("width", [1280, 500, 420])
def test_page_fits_the_browser_window(width: int, browse: Callable[..., dict[str, Any]], report: Report) -> None:
    seen = browse(width)
    assert seen["requests"] == []
    assert seen["page"] <= seen["width"]
    assert seen["outside"] == []
    assert seen["hidden"] == [] or width < 1280  # tables scroll on narrow screens
    assert len(seen["drawings"]) == len(report.figures)
    assert all(wide >= 300 and high >= 60 for wide, high in seen["drawings"])


def test_page_has_light_and_dark_colors(browse: Callable[..., dict[str, Any]]) -> None:
    light, dark = browse(1280), browse(1280, ["--blink-settings=preferredColorScheme=0"])
    assert (light["ink"], light["ground"]) == ("rgb(32, 33, 36)", "rgb(255, 255, 255)")
    assert (dark["ink"], dark["ground"]) == ("rgb(232, 234, 237)", "rgb(23, 24, 26)")
