"""`fedray doctor`: judging with facts written by hand, gathering with a Ray of one and of three nodes."""

import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedray.cli.doctor_table import first, print_report
from fedray.config.experiment import Experiment
from fedray.doctor import node as on_node
from fedray.doctor.checks import judge, plans
from fedray.doctor.finding import Finding
from fedray.doctor.report import ClusterReport, File, Gpu, Node, NodeReport, Place, Reach, Requirements, Software
from fedray.doctor.requirements import requirements
from fedray.errors import SpecError

GB = 10**9
PACKAGES = {"fedray": "0.1.0", "ray": "2.60.0", "torch": "2.15.0", "numpy": "2.4.6"}
SOFTWARE = Software("3.12.3", PACKAGES, "aaaa1111", "/venv/bin/python")
ANSWER = NodeReport(SOFTWARE, (100 * GB, 50 * GB), "/tmp/ray", "/home/me", (16 * GB, 8 * GB))


def node(name: str, **changes: Any) -> Node:
    given = {"address": f"10.0.0.{ord(name[0]) - 96}", "cores": 4, "free_cores": 4, "store": GB, "answer": ANSWER}
    return Node(name, **{**given, **changes})


def facts(*others: Node, **changes: Any) -> ClusterReport:
    return replace(ClusterReport([node("a", here=True), *others], SOFTWARE), **changes)


def saying(version: Software) -> NodeReport:
    return replace(ANSWER, software=version)


def place(path: str, **reached: Reach) -> Place:
    return Place(path, reached={"a": Reach(True, "", 90 * GB), **reached})


def wanted(
    *experiments: Experiment, study: bool = False, files: tuple[File, ...] = (), targets: bool = True
) -> Requirements:
    return Requirements(study, targets, dict.fromkeys(experiments, 4), len(experiments), files)


def only(found: list[Finding]) -> Finding:
    (finding,) = found
    return finding


def test_a_healthy_cluster_has_nothing_to_fix(small: Callable[..., Experiment]) -> None:
    alike = [node("b"), node("c", gpus=1, free_gpus=1, answer=replace(ANSWER, gpus=(Gpu("H200", GB, GB),)))]
    shared = {"b": Reach(True, "", 90 * GB), "c": Reach(True, "", 90 * GB)}
    sound = facts(
        *alike, results=place("/data/r", **shared), teacher_cache=place("/data/b", **shared), wanted=wanted(small())
    )
    assert judge(sound) == []
    assert first([]) == "Nothing to fix."


def test_what_must_be_fixed_comes_first_and_in_the_order_of_its_weight(small: Callable[..., Experiment]) -> None:
    weights = File("teacher.pretrained", "/w/clip.pt", everywhere=True)
    ill = facts(
        node("b", silence="does not answer within 60 s", answer=None),
        node("c", free_cores=0, answer=saying(replace(SOFTWARE, packages=PACKAGES | {"ray": "2.59.0"}))),
        results=place("/home/me/results", c=Reach(False)),
        teacher_cache=place("/home/me/bank", c=Reach(False)),
        wanted=wanted(small(resources={"cpus_per_client": 20}), study=True, files=(weights,)),
    )
    found = judge(ill)
    begins = ["node b (10.0.0.2) does not", "ray is 2.59.0", "the results at", "teacher.pretrained", "resources.cpus"]
    assert [f.sentence.startswith(text) for f, text in zip(found, begins, strict=False)] == [True] * 5
    assert [f.must for f in found] == [True] * 5 + [False]
    assert "the teacher bank" in found[-1].sentence
    assert first(found) == f"Fix first: {found[0].sentence}"
    assert first(found[-1:]).startswith("Nothing must be fixed. To know: the teacher bank")


@pytest.mark.parametrize(
    ("theirs", "says", "must"),
    [
        (replace(SOFTWARE, packages=PACKAGES | {"torch": "2.14.1"}), "torch is 2.14.1 on node b (/venv", True),
        (replace(SOFTWARE, packages=PACKAGES | {"torch": "2.15.0+cpu"}), "torch is 2.15.0+cpu on node b", False),
        (replace(SOFTWARE, python="3.12.9"), "python is 3.12.9 on node b", False),
        (replace(SOFTWARE, python="3.11.9"), "python is 3.11.9 on node b", True),
        (replace(SOFTWARE, source="bbbb2222"), "fedray's source is bbbb2222 on node b", True),
        (Software("3.12.3", {n: v for n, v in PACKAGES.items() if n != "fedray"}, ""), "fedray is missing", True),
    ],
)
def test_another_version_is_named_once(theirs: Software, says: str, must: bool) -> None:
    finding = only(judge(facts(node("b", answer=saying(theirs)), node("c"))))
    assert finding.sentence.startswith(says)
    assert finding.must == must


def test_a_cluster_that_runs_tasks_but_no_actors_is_of_no_use() -> None:
    finding = only(judge(facts(no_actor="it died")))
    assert finding.must
    assert finding.sentence.startswith("node a runs tasks, but no actor comes up there (it died)")
    stuck = ClusterReport([node("a", here=True, silence="does not answer within 60 s")], SOFTWARE, no_actor="it died")
    assert "does not answer" in only(judge(stuck)).sentence  # which says it all


def test_versions_are_held_against_most_of_them_and_not_against_this_process() -> None:
    newer = replace(SOFTWARE, packages=PACKAGES | {"numpy": "2.5.0"})
    alone = facts(node("b", answer=saying(newer)), node("c", answer=saying(newer)), node("d", answer=saying(newer)))
    sentence = only(judge(alone)).sentence
    assert sentence.startswith("numpy is 2.4.6 in this process and on node a (/venv/bin/python), and 2.5.0 elsewhere")


def test_results_that_are_not_shared_matter_to_a_study_only(small: Callable[..., Experiment]) -> None:
    apart = facts(node("b"), node("c"), results=place("/r", b=Reach(False), c=Reach(False, "Permission denied")))
    experiment = small()
    as_run, as_study = wanted(experiment), wanted(experiment, study=True)
    sentences = [f.sentence for f in judge(replace(apart, wanted=as_study))]
    assert "/r are not shared with node b:" in sentences[0]
    assert "/r are not shared with node c (Permission denied):" in sentences[1]
    for changes, must in (
        ({"wanted": as_study}, True),
        ({"wanted": as_run}, False),
        ({"results_meant": True}, True),
        ({}, False),
    ):
        assert {f.must for f in judge(replace(apart, **changes))} == {must}


def test_a_place_that_cannot_be_written_from_here_must_be_changed(small: Callable[..., Experiment]) -> None:
    for name in ("results", "teacher_cache"):
        bad = facts(wanted=wanted(small()), **{name: Place("/proc/r", "Permission denied")})
        assert only(judge(bad)).must
        assert "/proc/r cannot be written from here (Permission denied)" in only(judge(bad)).sentence


def test_the_bank_is_of_interest_to_studies_that_have_teachers(small: Callable[..., Experiment]) -> None:
    apart = facts(node("b"), teacher_cache=place("/bank", b=Reach(False)))
    assert "/bank is not shared with node b" in only(judge(apart)).sentence
    assert not only(judge(replace(apart, wanted=wanted(small(), study=True)))).must
    assert judge(replace(apart, wanted=wanted(small()))) == []
    assert judge(replace(apart, wanted=wanted(small(), study=True, targets=False))) == []


def test_files_are_looked_for_where_they_will_be_read(small: Callable[..., Experiment]) -> None:
    table, weights = File("partition.file", "/d/p.csv", everywhere=False), File("proxy.init", "file:w.pt", True)
    has = replace(ANSWER, files={"/d/p.csv": 10, "file:w.pt": 99})
    lacks = replace(ANSWER, files={"/d/p.csv": None, "file:w.pt": None})
    other = replace(ANSWER, files={"/d/p.csv": 11, "file:w.pt": 98})
    asked = wanted(small(), files=(table, weights))
    nodes = [node("a", here=True, answer=has), node("b", answer=has), node("c", answer=lacks), node("d", answer=other)]
    found = [f.sentence for f in judge(ClusterReport(nodes, SOFTWARE, wanted=asked))]
    assert found[0].startswith("proxy.init: there is no 'file:w.pt' on node c; Ray's processes look for it from /home")
    assert found[1].startswith("proxy.init: 'file:w.pt' has other contents on node d than elsewhere")
    assert len(found) == 2


def test_images_that_torchvision_can_fetch_are_no_obstacle(small: Callable[..., Experiment]) -> None:
    images = File("data.train", "torchvision:CIFAR10", everywhere=True)
    lacks = replace(ANSWER, files={images.text: None})
    asked = wanted(small(), files=(images,))
    finding = only(judge(ClusterReport([node("a", here=True, answer=lacks)], SOFTWARE, wanted=asked)))
    assert not finding.must
    assert "will be downloaded there" in finding.sentence


def test_room_is_counted_node_by_node() -> None:
    two = node("b", cores=8, free_cores=3, gpus=2, free_gpus=1.5)
    assert two.fits(1, 0) == 8
    assert two.fits(1, 0, now=True) == 3
    assert two.fits(1, 0.4) == 4  # two on each GPU; the fifth would lie on both
    assert two.fits(1, 0.5, now=True) == 3
    assert two.fits(1, 2) == 1
    assert two.fits(3, 0.5) == 2
    assert replace(two, left="was killed").fits(1, 0) == 0


def test_what_fits_the_cluster_but_no_node_is_found(small: Callable[..., Experiment]) -> None:
    whole = facts(node("b"), wanted=wanted(small(resources={"backend": "ray", "cpus_per_client": 6})))
    finding = only(judge(whole))
    assert finding.must
    assert finding.sentence.startswith("the plan is for 1 actor of 6 cores, but the nodes have room for 0")


def test_cores_that_others_hold_make_actors_wait(small: Callable[..., Experiment]) -> None:
    busy = facts(node("b", free_cores=0))
    assert "other jobs hold 4 of 8 cores: whoever needs" in only(judge(busy)).sentence
    six = Requirements(study=False, targets=False, sizes={small(): 6}, most=1)
    finding = only(judge(replace(busy, wanted=six)))
    assert "hold 4 of 8 cores: 4 of 6 actors can start now" in finding.sentence
    assert not finding.must
    assert judge(replace(busy, wanted=wanted(small()))) == []  # four clients find their four cores


def test_gpus_that_torch_does_not_see_matter_where_they_are_asked_for(small: Callable[..., Experiment]) -> None:
    blind = node("b", gpus=2, free_gpus=2, answer=replace(ANSWER, gpus=()))
    assert not only(judge(facts(blind))).must
    finding = only(judge(facts(blind, wanted=wanted(small(resources={"gpus_per_client": 0.5})))))
    assert finding.must
    assert "node b offers Ray 2 GPUs, but torch sees 0" in finding.sentence


def test_bfloat16_on_a_processor_without_it_is_told_where_it_is_asked_for(small: Callable[..., Experiment]) -> None:
    slow = [node(name, answer=replace(ANSWER, bfloat16=False)) for name in ("b", "c")]
    fast = node("d", answer=replace(ANSWER, bfloat16=True))
    asked = small(training={"precision": "bfloat16"})
    found = only(judge(facts(*slow, fast, wanted=wanted(asked))))
    assert not found.must
    assert "the processor of nodes b and c has no instructions for it" in found.sentence
    on_gpus = small(training={"precision": "bfloat16"}, resources={"gpus_per_client": 0.1})
    for spec in (small(), on_gpus):
        assert not [f for f in judge(facts(*slow, wanted=wanted(spec))) if "bfloat16" in f.sentence]
    assert judge(facts(fast, wanted=wanted(asked))) == []


def test_full_disks_and_wrong_clocks_and_lost_nodes_are_told() -> None:
    full = replace(ANSWER, disk=(100 * GB, 2 * GB))
    assert "node b has 2.0 of 100 GB free at /tmp/ray" in only(judge(facts(node("b", answer=full)))).sentence
    scarce = facts(results=Place("/r", reached={"a": Reach(True, "", 10**8)}))
    assert only(judge(scarce)).sentence.startswith("/r has 0.10 GB free on node a: make room")
    late = facts(node("b", answer=replace(ANSWER, clock=-90.0)))
    assert "the clock of node b is 90 s behind this one's" in only(judge(late)).sentence
    lost = node("c", left="it crashed", answer=None)
    assert "node c (10.0.0.3) has left the cluster (it crashed)" in only(judge(facts(lost))).sentence
    assert judge(facts(replace(lost, meant_to_leave=True))) == []
    assert judge(facts(node("b", address=lost.address), lost)) == []  # Ray runs there again


SPACE = """
base:
  data: {train: "parquet:images/*.parquet", test: digits}
  partition: {kind: iid, clients: 6}
  teacher: {kind: zero_shot, model: "local-dir:clip", pretrained: null}
  training: {rounds: 2}
  resources: {cpus_per_client: 2}
space:
  proxy.init: {grid: [random, "file:w.safetensors"]}
"""


def test_demand_reads_what_a_space_asks_for(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    asked = requirements(tmp_path / "space.yaml")
    assert (asked.study, asked.targets, asked.most, asked.shares) == (True, True, 2, {(2, 0)})
    assert {(f.field, f.text, f.everywhere) for f in asked.files} == {
        ("data.train", "parquet:images/*.parquet", True),
        ("teacher.model", "local-dir:clip", True),
        ("proxy.init", "file:w.safetensors", True),
    }
    assert plans(asked, {"CPU": 8})[0] == 2
    with pytest.raises(SpecError, match="there is no spec"):
        requirements(tmp_path / "no.yaml")


def test_demand_of_a_plain_experiment_reads_tables_here_only(tmp_path: Path) -> None:
    (tmp_path / "part.csv").write_text("client,index\n0,1\n1,2\n")
    (tmp_path / "one.yaml").write_text(f"partition: {{kind: file, file: {tmp_path}/part.csv}}")
    asked = requirements(tmp_path / "one.yaml")
    assert list(asked.sizes.values()) == [2]
    assert [(f.field, f.everywhere) for f in asked.files] == [("partition.file", False)]
    assert not asked.targets


def test_demand_of_a_search_takes_as_many_as_will_be_proposed(tmp_path: Path) -> None:
    text = "base: {}\nspace: {training.lr: {uniform: [0.01, 0.1]}}\nsearch: {algorithm: optuna, samples: 3}"
    (tmp_path / "search.yaml").write_text(text)
    assert requirements(tmp_path / "search.yaml").most == 3


def test_a_node_finds_files_as_a_spec_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDRAY_DATA", str(tmp_path))
    for name in ("x.bin", "y.bin"):
        Path(name).write_bytes(b"123")
    Path("CIFAR10").mkdir()
    texts = [
        "x.bin",
        f"file:{tmp_path}/x.bin",
        "parquet:*.bin",
        "local-dir:gone",
        "torchvision:CIFAR10",
        "torchvision:N",
    ]
    assert list(on_node.look(texts)["files"].values()) == [3, 3, 6, None, 0, None]


def test_a_node_reads_a_folder_and_replies_or_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "mark").mkdir()
    assert on_node.visit(str(tmp_path), "mark", "b")["read"] == ""
    (tmp_path / "mark" / "token").write_text("word")
    assert on_node.visit(str(tmp_path), "mark", "b")["read"] == "word"
    assert (tmp_path / "mark" / "b").read_text() == "word"
    (tmp_path / "mark" / "c").mkdir()
    assert on_node.visit(str(tmp_path), "mark", "c")["problem"] == "Is a directory"


@pytest.mark.parametrize("width", [80, 160])
def test_what_is_printed_fits_the_terminal(width: int, small: Callable[..., Experiment]) -> None:
    ill = facts(
        node("b-with-a-longer-name", silence="does not answer within 60 s", answer=None),
        node("c", gpus=2, free_gpus=0.5, answer=replace(ANSWER, gpus=(Gpu("NVIDIA H200", 60 * GB, 140 * GB),) * 2)),
        node("d", left="it crashed", answer=None),
        results=place("/r", c=Reach(False)),
        teacher_cache=Place("/bank", "Permission denied"),
        wanted=wanted(small(), small(seed=1), study=True),
    )
    out = io.StringIO()
    print_report(ill, judge(ill), Console(file=out, width=width, highlight=False, markup=False))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    cells = [line.split() for line in lines]
    assert ["a", "(here)", "10.0.0.1", "4/4", "-", "8/16", "50/100", "1.0", "4"] in cells
    assert ["c", "10.0.0.3", "4/4", "0.5/2", "8/16", "50/100", "1.0", "4"] in cells
    assert any(line.startswith("GPU") and "c: 2 NVIDIA H200, 60/140 GB free" in line for line in lines)
    assert any(line.startswith("results") and "reached by 1 of 3 nodes" in line for line in lines)
    assert any("2 trials, 2 at once, each of 4 clients" in line for line in lines)
    assert sum(line.startswith("to fix") for line in lines) == sum(f.must for f in judge(ill)) > 1
    assert " ".join(out.getvalue().split()).endswith(f"Fix first: {judge(ill)[0].sentence}")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_one_machine_is_examined_and_left_as_it_was(tmp_path: Path, small: Callable[..., Experiment]) -> None:
    from fedray.doctor.probe import probe

    (tmp_path / "w.pt").write_bytes(b"12345")
    weights = File("proxy.init", f"file:{tmp_path}/w.pt", everywhere=True)
    found = probe(str(tmp_path / "new" / "results"), wanted(small(), files=(weights,)))
    (here,) = found.nodes
    assert (here.here, here.cores, here.gpus) == (True, 3, 1)
    assert here.answer is not None
    assert here.answer.software.versions() == found.software.versions()
    assert len(found.software.source) == 8
    assert here.answer.files == {weights.text: 5}
    assert here.answer.memory is None or 0 < here.answer.memory[1] < here.answer.memory[0]
    assert here.answer.clock == 0
    assert found.no_actor == ""
    for shared in (found.results, found.teacher_cache):
        assert shared is not None
        assert [(r.shared, r.problem) for r in shared.reached.values()] == [(True, "")]
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]
    import torch

    assert len(here.answer.gpus or ()) == torch.cuda.device_count()  # it is a pretended one elsewhere


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_results_under_a_uri_and_where_nothing_can_be_written(tmp_path: Path) -> None:
    from fedray.doctor.probe import NodeProber

    teacher_client = NodeProber(60)
    there = teacher_client.place(f"file://{tmp_path}/study")
    assert [(r.shared, r.problem) for r in there.reached.values()] == [(True, "")]
    assert list((tmp_path / "study").iterdir()) == []
    assert teacher_client.place("s4://bucket/x").problem
    (tmp_path / "file").touch()
    assert teacher_client.place(str(tmp_path / "file" / "below")).problem == "Not a directory"


THREE = """
    import json, os, signal, sys
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    import ray
    from ray.cluster_utils import Cluster
    from fedray.doctor.examination import examine

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=3)
    third = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)

    class Holder:
        def ready(self):
            return True

    held = ray.remote(num_cpus=3)(Holder).remote()
    ray.get(held.ready.remote())

    def shown(facts):
        return [
            [n.name, n.here, n.free_cores, n.cores, n.silence, bool(n.answer), bool(n.left), n.meant_to_leave]
            for n in facts.nodes
        ] + [sorted(reach.shared for reach in facts.results.reached.values())]

    told = [shown(examine(sys.argv[1], None))]
    raylet = third.all_processes["raylet"][0].process.pid
    os.kill(raylet, signal.SIGSTOP)
    told.append(shown(examine(sys.argv[1], None, patience=3)))
    os.kill(raylet, signal.SIGCONT)
    cluster.remove_node(third)
    told.append(shown(examine(sys.argv[1], None)))
    print(json.dumps(told))
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_three_nodes_of_which_one_is_stuck_and_then_removed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(THREE), str(tmp_path / "results")]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert said.returncode == 0, said.stderr
    whole, stuck, removed = json.loads(said.stdout.splitlines()[-1])

    assert [row[1] for row in whole[:3]] == [True, False, False]
    assert sorted((row[2], row[3]) for row in whole[:3]) == [(0, 3), (1, 1), (2, 2)]
    assert all(row[5] and not row[4] and not row[6] for row in whole[:3])
    assert len({row[0] for row in whole[:3]}) == 3
    assert whole[3] == [True, True, True]

    (silent,) = [row for row in stuck[:3] if row[4]]
    assert (silent[3], silent[4], silent[5]) == (1, "does not answer within 3 s", False)
    assert stuck[3] == [True, True]

    assert [row[6:] for row in removed[:3]] == [[False, False], [False, False], [True, True]]
    assert removed[3] == [True, True]
    assert list(tmp_path.iterdir()) == []
