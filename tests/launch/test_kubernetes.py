"""launch/kubernetes: the manifests fit the published fields, and their commands run without Kubernetes."""

import copy
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.nodes import ROOT, cluster, shell, write_space

FOLDER = ROOT / "launch" / "kubernetes"
FIELDS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("kuberay_fields.yaml").read_text())
SIMPLE = {"string": str, "integer": int, "number": int | float, "boolean": bool, "any": object}
MANIFESTS = {path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(FOLDER.glob("*.yaml"))}


def field_errors(value: Any, kind: Any, at: str) -> Iterator[str]:
    """Yield a sentence for each value that differs from the published types."""
    if isinstance(kind, list):
        yield from (
            item_errors(value, kind[0], at) if isinstance(value, list) else [f"{at} must be a list, not {value!r}"]
        )
    elif isinstance(kind, dict):
        for name, item in value.items():
            yield from field_errors(item, kind["*"], f"{at}.{name}")
    elif kind in SIMPLE:
        if not isinstance(value, SIMPLE[kind]) or (isinstance(value, bool) and kind in ("integer", "number")):
            yield f"{at} must be of type {kind}, not {value!r}"
    else:
        for name, item in value.items():
            if name in FIELDS[kind]:
                yield from field_errors(item, FIELDS[kind][name], f"{at}.{name}")
            else:
                yield f"{at}.{name} is not a field of {kind}"


def item_errors(values: list[Any], kind: Any, at: str) -> Iterator[str]:
    for place, item in enumerate(values):
        yield from field_errors(item, kind, f"{at}[{place}]")


def all_errors(document: Any) -> list[str]:
    return list(field_errors(document, document["kind"], document["kind"]))


def job() -> Any:
    return copy.deepcopy(MANIFESTS["rayjob.yaml"][0])


def pods() -> Iterator[Any]:
    """Yield all pod templates."""
    spec = job()["spec"]
    yield spec["submitterPodTemplate"]
    yield spec["rayClusterSpec"]["headGroupSpec"]["template"]
    yield from (group["template"] for group in spec["rayClusterSpec"]["workerGroupSpecs"])


@pytest.mark.parametrize("name", MANIFESTS)
def test_all_fields_are_published(name: str) -> None:
    assert [error for document in MANIFESTS[name] for error in all_errors(document)] == []


def test_misspelt_field_or_wrong_type_is_reported() -> None:
    wrong = job()
    wrong["spec"]["backofflimit"] = wrong["spec"].pop("backoffLimit")
    head = wrong["spec"]["rayClusterSpec"]["headGroupSpec"]
    head["rayStartParams"]["num-cpus"] = 0
    head["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    wrong["spec"]["rayClusterSpec"]["authOptions"] = {"secret": "fedray-token"}
    assert all_errors(wrong) == [
        "RayJob.spec.rayClusterSpec.authOptions.secret is not a field of AuthOptions",
        "RayJob.spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus must be of type string, not 0",
        "RayJob.spec.rayClusterSpec.headGroupSpec.template.spec.containers[0].imagePolicy is not a field of Container",
        "RayJob.spec.backofflimit is not a field of RayJobSpec",
    ]


def test_job_and_cluster_manifests_describe_the_same_cluster() -> None:
    assert job()["spec"]["rayClusterSpec"] == MANIFESTS["raycluster.yaml"][0]["spec"]


def test_ray_version_is_that_of_the_constraints() -> None:
    installed = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert installed is not None
    assert job()["spec"]["rayClusterSpec"]["rayVersion"] == installed[1]


def test_token_is_required_and_in_no_file() -> None:
    assert job()["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "fedray-token"}
    assert not any(document["kind"] == "Secret" for documents in MANIFESTS.values() for document in documents)
    assert "--from-file=auth_token=/dev/stdin" in (FOLDER / "README.md").read_text()


def test_pods_have_minimal_rights() -> None:
    for pod in pods():
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert pod["spec"]["automountServiceAccountToken"] is False
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_network_policy_covers_all_pods() -> None:
    policy = MANIFESTS["networkpolicy.yaml"][0]["spec"]
    assert all(pod["metadata"]["labels"] == policy["podSelector"]["matchLabels"] for pod in pods())


def test_volume_claims_are_shared_by_all_nodes() -> None:
    claims = {claim["metadata"]["name"]: claim["spec"]["accessModes"] for claim in MANIFESTS["storage.yaml"]}
    for pod in pods():
        volumes = pod["spec"].get("volumes", [])
        mounted = {mount["name"] for holder in pod["spec"]["containers"] for mount in holder.get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in volumes}
        for volume in volumes:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            assert claim is None or claims[claim] == ["ReadWriteMany"]


def submitted(entrypoint: str) -> str:
    """Return the command on the head: KubeRay passes the entrypoint to a shell, `ray job submit` joins the words."""
    return subprocess.list2cmdline(shlex.split(entrypoint))


def test_entrypoint_survives_two_shells() -> None:
    """The submitter's shell would run the part after a bare &&, in a pod that has no results."""
    assert shlex.split(submitted(job()["spec"]["entrypoint"])) == shlex.split(job()["spec"]["entrypoint"])


@pytest.mark.parametrize("pod", list(pods()))
def test_pre_stop_hook_is_valid_shell(pod: Any) -> None:
    for container in pod["spec"]["containers"]:
        command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["true"])
        if command[:2] == ["bash", "-c"]:
            assert subprocess.run(["bash", "-n", "-c", command[2]], check=False).returncode == 0
        else:
            assert command in (["ray", "stop"], ["true"])


@pytest.mark.slow
@pytest.mark.ray
def test_entrypoint_fails_when_stopped_and_then_resumes(tmp_path: Path) -> None:
    """A stopped sweep exits with an error, so that KubeRay retries it; the retry finishes the study."""
    write_space(tmp_path / "study.yaml", rounds=40)
    command = (
        submitted(job()["spec"]["entrypoint"]).replace("/specs", str(tmp_path)).replace("/results", f"{tmp_path}/r")
    )
    with cluster(2) as environment:
        with subprocess.Popen(["bash", "-c", command], env=environment, stderr=subprocess.PIPE, text=True) as first:
            wait_for_rounds(tmp_path / "r", first)
            assert (
                subprocess.run(["pkill", "-TERM", "-x", "fedray", "--parent", str(first.pid)], check=False).returncode
                == 0
            )
            assert first.wait(timeout=120) == 1, first.communicate()
        assert not (tmp_path / "r" / "study" / "DONE").exists()
        second = shell(["bash", "-c", command], environment)
        assert second.returncode == 0, second.stderr
        assert (tmp_path / "r" / "study" / "DONE").exists()


def wait_for_rounds(results: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a trial has finished its third round."""
    for _ in range(600):
        assert process.poll() is None, process.communicate()
        if any(path.read_text().count("\n") > 3 for path in results.glob("study/*/rounds.csv")):
            return
        time.sleep(0.2)
    raise AssertionError("no trial finished three rounds within two minutes")
