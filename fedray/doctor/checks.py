"""From facts to what is wrong, in the order in which it should be put right. Asks nobody."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from fedray.backends.ray.placement import Plan, plan_actors, portion
from fedray.config.experiment import Experiment
from fedray.doctor import machine_checks
from fedray.doctor.finding import Finding, counted, node_names
from fedray.doctor.report import SOURCE, ClusterReport, File, Node, Place, Requirements
from fedray.errors import SpecError


def judge(facts: ClusterReport) -> list[Finding]:
    """What must be put right first, then what is worth knowing; each in the order of its weight."""
    found = [
        *machine_checks.silent(facts),
        *machine_checks.no_actor(facts),
        *_versions(facts),
        *_results(facts),
        *_files(facts),
        *_fit(facts),
        *_held(facts),
        *_teacher_cache(facts),
        *machine_checks.gpus(facts),
        *machine_checks.arithmetic(facts),
        *machine_checks.disks(facts),
        *machine_checks.clocks(facts),
        *machine_checks.left(facts),
    ]
    return sorted(found, key=lambda finding: not finding.must)


def _versions(facts: ClusterReport) -> Iterator[Finding]:
    """What differs from most; where there is no most, from this process."""
    software = {"": facts.software} | {node.name: node.answer.software for node in facts.alive if node.answer}
    versions = {name: each.versions() for name, each in software.items()}
    differing = set[str]()
    for package in {package: None for each in versions.values() for package in each}:
        has = {name: each.get(package, "") for name, each in versions.items()}
        usual = Counter(has.values()).most_common(1)[0][0]
        others = dict[str, list[str]]()
        for name, version in has.items():
            if version != usual and not (package == SOURCE and name in differing):
                others.setdefault(version, []).append(name)
        for version, names in others.items():
            differing |= set(names) if package == "fedray" else set()
            yield _version_finding(package, version, usual, _where(names, software[names[0]].executable))


def _where(names: Sequence[str], executable: str) -> str:
    """This process has no name."""
    nodes = [name for name in names if name]
    parts = ["in this process"] if "" in names else []
    return " and ".join([*parts, f"on {node_names(nodes)} ({executable})"] if nodes else parts)


def _version_finding(package: str, version: str, wanted: str, where: str) -> Finding:
    if not version:
        return Finding(f"{package} is missing {where}, and {wanted} elsewhere: install the same everywhere.")
    return Finding(
        f"{package} is {version} {where}, and {wanted or 'missing'} elsewhere: install the same everywhere.",
        must=_essential(package, version, wanted),
    )


def _essential(package: str, one: str, other: str) -> bool:
    """Another build of a version, and another patch of Python, do no harm but to the last bits."""
    if package == "python":
        return one.split(".")[:2] != other.split(".")[:2]
    return one.partition("+")[0] != other.partition("+")[0]


def _results(facts: ClusterReport) -> Iterator[Finding]:
    place, wanted = facts.results, facts.wanted
    if place is None:
        return
    if place.problem:
        yield Finding(
            f"the results at {place.path} cannot be written from here ({place.problem}): choose other --results."
        )
    must = wanted.study if wanted else facts.results_meant
    for why, names in _apart(place):
        advice = (
            "see to credentials and network there"
            if place.is_uri
            else "give --results on a disk that all nodes share, or a URI such as s3://bucket/path"
        )
        what = f"the results at {place.path} are not shared with {names}{why}"
        yield Finding(f"{what}: a sweep's trials run on every node and write there; {advice}.", must)


def _teacher_cache(facts: ClusterReport) -> Iterator[Finding]:
    place, wanted = facts.teacher_cache, facts.wanted
    if place is None or (wanted and not wanted.targets):
        return
    if place.problem:
        what = f"the teacher bank {place.path} cannot be written from here ({place.problem})"
        yield Finding(f"{what}: set FEDRAY_CACHE to a folder that can.", must=bool(wanted))
    if wanted and not wanted.study:
        return
    for why, names in _apart(place):
        what = f"the teacher bank {place.path} is not shared with {names}{why}"
        yield Finding(
            f"{what}: a sweep's trials there ask the teachers anew; set FEDRAY_CACHE to a folder that all nodes share.",
            must=False,
        )


def _apart(place: Place) -> Iterator[tuple[str, str]]:
    """Why not, and the nodes that do not share it."""
    by_reason = dict[str, list[str]]()
    for name, reach in place.reached.items():
        if not reach.shared:
            by_reason.setdefault(reach.problem, []).append(name)
    for problem, names in by_reason.items():
        yield f" ({problem})" if problem else "", node_names(names)


def _files(facts: ClusterReport) -> Iterator[Finding]:
    for file in facts.wanted.files if facts.wanted else ():
        told = {node.name: node for node in facts.alive if node.answer and (file.everywhere or node.here)}
        sizes = {name: node.answer.files.get(file.text) for name, node in told.items() if node.answer}
        missing = [name for name, size in sizes.items() if size is None]
        if missing and file.text.startswith("torchvision:"):
            what = f"{file.field}: {file.text} is not on {node_names(missing)} yet"
            yield Finding(f"{what}; it will be downloaded there, which needs the internet.", must=False)
        elif missing:
            what = f"{file.field}: there is no '{file.text}' on {node_names(missing)}"
            yield Finding(f"{what}; {_how_to_bring(file, told[missing[0]])}.")
        yield from _other_contents(file, sizes)


def _how_to_bring(file: File, node: Node) -> str:
    path = file.text.rpartition(":")[2]
    if not path.startswith(("/", "~")) and node.answer:
        return (
            f"Ray's processes look for it from {node.answer.folder}, so give its absolute path, or start Ray elsewhere"
        )
    return "copy it there, or put it on a disk that all nodes share"


def _other_contents(file: File, sizes: Mapping[str, int | None]) -> Iterator[Finding]:
    there = {name: size for name, size in sizes.items() if size is not None}
    usual = Counter(there.values()).most_common(1)
    other = [name for name, size in there.items() if size != usual[0][0]]
    if other:
        yield Finding(
            f"{file.field}: '{file.text}' has other contents on {node_names(other)} than elsewhere; copy it anew."
        )


def _fit(facts: ClusterReport) -> Iterator[Finding]:
    wanted = facts.wanted
    if wanted is None:
        return
    try:
        planned = plans(wanted, facts.total)[1]
    except SpecError as error:
        yield Finding(f"{str(error).rstrip('.')}: ask for less, or add nodes.")
        return
    for plan in set(planned.values()):
        room = sum(node.fits(plan.cpus_per_actor, plan.gpus_per_actor) for node in facts.alive)
        if room < plan.actors:
            yield Finding(
                f"the plan is for {counted(plan.actors, 'actor')} of {share(plan)}, but the nodes have room for "
                f"{room}, as an actor lies on one node and a part of a GPU on one GPU: ask for less per client.",
                must=room == 0,
            )


def plans(wanted: Requirements, total: Mapping[str, float]) -> tuple[int, dict[Experiment, Plan]]:
    """How many trials run at once, and the actors of each. Raises SpecError where nothing fits."""
    at_once, part = portion(wanted.sizes, total, wanted.most) if wanted.study else (1, total)
    return at_once, {each: plan_actors(each, clients, part) for each, clients in wanted.sizes.items()}


def _held(facts: ClusterReport) -> Iterator[Finding]:
    held = sum(node.cores - node.free_cores for node in facts.alive)
    held_gpus = sum(node.gpus - node.free_gpus for node in facts.alive)
    if held < 0.01 and held_gpus < 0.01:
        return
    what = [f"{held:g} of {facts.total['CPU']:g} cores"] if held >= 0.01 else []
    what += [f"{held_gpus:g} of {facts.total['GPU']:g} GPUs"] if held_gpus >= 0.01 else []
    sentence = f"other jobs hold {' and '.join(what)}"
    if facts.wanted is None:
        yield Finding(f"{sentence}: whoever needs more than the rest waits until they end.", must=False)
        return
    try:
        at_once, planned = plans(facts.wanted, facts.total)
    except SpecError:
        return
    plan = max(planned.values(), key=lambda plan: plan.actors)
    now = sum(node.fits(plan.cpus_per_actor, plan.gpus_per_actor, now=True) for node in facts.alive)
    actors = plan.actors * at_once
    if now < actors:
        yield Finding(
            f"{sentence}: {now} of {counted(actors, 'actor')} can start now, the rest when those jobs end.", must=False
        )


def share(plan: Plan) -> str:
    """What an actor reserves: `1 core`, `2 cores and 0.5 GPU`."""
    gpus = f" and {plan.gpus_per_actor:g} GPU" if plan.gpus_per_actor else ""
    return f"{counted(plan.cpus_per_actor, 'core')}{gpus}"
