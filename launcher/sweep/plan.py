"""The points of a sweep -> its runs, and the groups that queue them. Pure.

Why one plan is made for all jobs that differ in nothing but their script's arguments: launch.sh is
the same text for them, and to render it a thousand times takes longer than all the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher.errors import SubmitError
from launcher.job import GroupPlan, PlannedFile
from launcher.plan import own_files, plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from launcher.cluster import Limit
    from launcher.compute import Compute
    from launcher.job import Facts, JobSpec, LaunchPlan

# How a run is called, where it is put and how it is queued does not decide how it ends.
_NOT_CONTENT = ("name", "runs_dir", "source_directory", "wait", "detach")
_NOT_COMPUTED_WITH = (
    *("max_parallel", "comment", "mail_type", "mail_user"),
    *("hosts", "ssh_config"),  # so that one that is lost may be left out, or given more slots
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A point that can be launched: its job, and what was seen of the place that it is for."""

    number: int
    values: dict[str, str]  # what varies, as it was typed
    job: JobSpec
    facts: Facts
    secrets: dict[str, str]  # values that the configuration holds; never printed, never written


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """A point that cannot be composed or planned, and why."""

    number: int
    values: dict[str, str]
    reason: str


class Planner:
    """Plans of runs, each kind of them rendered once."""

    def __init__(self) -> None:
        """Begin without any."""
        self._known: dict[tuple[Any, ...], tuple[JobSpec, LaunchPlan]] = {}

    def check(self, draft: Draft) -> None:
        """Raise PlanError as ``plan`` does, where no such job was planned before."""
        self._first(draft, "")

    def plan(self, draft: Draft, run_id: str) -> LaunchPlan:
        """Return the plan of ``draft`` as ``run_id``; raise PlanError as ``plan`` does."""
        job = draft.job
        first, known = self._first(draft, run_id)
        if first is job and known.run_id == run_id:
            return known
        own = {file.path: file for file in own_files(job)}
        return replace(
            known,
            name=job.name,
            run_id=run_id,
            run_dir=f"{job.runs_dir}/{run_id}",
            job_name=f"{job.name}-{run_id}",
            files=tuple(own.get(file.path, file) for file in known.files),
        )

    def _first(self, draft: Draft, run_id: str) -> tuple[JobSpec, LaunchPlan]:
        """Return the first job of this kind, and its plan."""
        job, facts = draft.job, draft.facts
        # The objects of a group are the same one for the same content; the first job keeps them.
        parts = (id(job.compute), id(job.environment), id(job.dist), id(facts))
        rest = (job.secrets, job.grace_s, job.hydra, len(own_files(job)))
        key = (*parts, job.resources, tuple(job.env.items()), *rest)
        if key not in self._known:
            self._known[key] = (job, plan(job, facts, run_id, alone=False))
        return self._known[key]


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What limits leave room for: ``fits``; ``beyond``: how many drafts each limit keeps out."""

    fits: Mapping[str, Draft]
    beyond: Mapping[Limit, int]

    def error(self, sweep_id: str) -> SubmitError:
        """Return the error that tells what is not queued, and why."""
        queued, kept = len(self.fits), sum(self.beyond.values())
        return SubmitError(
            f"{queued} of {queued + kept} runs of sweep {sweep_id} are queued: {self.told()}",
            hint="The same command queues the rest, once others have ended.",
        )

    def told(self) -> str:
        """Return which limits keep how many out."""
        return ", ".join(f"{limit} keeps {count} out" for limit, count in self.beyond.items())


def room(drafts: Mapping[str, Draft]) -> Room:
    """Return which of these can be queued: the first ones, as far as there is room."""
    taken: Counter[tuple[str, str]] = Counter()
    beyond: Counter[Limit] = Counter()
    fits = {}
    for name, draft in drafts.items():
        limits = draft.job.compute.limits(draft.facts)
        full = next((each for each in limits if taken[each.name, each.of] >= each.room), None)
        if full is None:
            fits[name] = draft
            taken.update((each.name, each.of) for each in limits)
        else:
            beyond[full] += 1
    return Room(fits=fits, beyond=beyond)


def groups(
    drafts: Sequence[Draft], runs: Sequence[str], folder: str, name: str, first: int = 0
) -> tuple[GroupPlan, ...]:
    """Return the groups that queue ``drafts`` as ``runs``: one a shape, where the place allows it.

    ``folder``: of the sweep; ``name``: its name and id, for the scheduler; ``first``: the number
    of the first group.
    """
    shapes: dict[tuple[Any, ...], list[tuple[Draft, str]]] = {}
    for draft, run in zip(drafts, runs, strict=True):
        shape = json.dumps(draft.job.compute.shape(draft.job), sort_keys=True, default=str)
        secrets = tuple(sorted(draft.secrets.items()))
        key = (draft.job.compute.kind, shape, secrets, draft.job.secrets, id(draft.facts))
        shapes.setdefault(key, []).append((draft, run))
    parts = [part for shape in shapes.values() for part in _parts(shape)]
    kinds = Counter(members[0][0].job.compute.kind for members in parts)
    made = []
    for number, members in enumerate(parts, first):
        compute = members[0][0].job.compute
        place = compute.shared(kinds[compute.kind])
        made.append(_group(members, place, f"{folder}/groups/{number}", f"{name}-{number}"))
    return tuple(made)


def _parts(members: list[tuple[Draft, str]]) -> Iterator[list[tuple[Draft, str]]]:
    """Yield the runs of one shape in parts that the place takes at once."""
    cluster = members[0][0].facts.slurm
    most = (cluster.max_array if cluster else None) or len(members)
    for begin in range(0, len(members), most):
        yield members[begin : begin + most]


def _group(
    members: list[tuple[Draft, str]], compute: Compute, folder: str, job_name: str
) -> GroupPlan:
    drafts, runs = zip(*members, strict=True)
    jobs = [draft.job for draft in drafts]
    details, files, commands = compute.group(jobs, drafts[0].facts, folder, job_name)
    values = {"kind": compute.kind, "runs": runs, **details}
    text = json.dumps(values) + "\n"
    return GroupPlan(
        kind=compute.kind,
        folder=folder,
        job_name=job_name,
        runs=runs,
        points=tuple(draft.number for draft in drafts),
        files=(PlannedFile(path="group.json", text=text), *files),
        commands=commands,
    )


def signature(draft: Draft, content: Mapping[str, Any]) -> str:
    """Return the name of all that decides the point's outcome.

    Its resolved configuration, without names and paths of ours, and ``content``: its source tree,
    its environment's lock and what its data are.
    """
    config = {key: each for key, each in draft.job.config.items() if key not in _NOT_CONTENT}
    if draft.job.application is not None:
        config["script_params"] = draft.job.application.identity
    compute = {k: each for k, each in config["compute"].items() if k not in _NOT_COMPUTED_WITH}
    text = json.dumps({**config, "compute": compute, **content}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
