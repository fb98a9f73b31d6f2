"""Which points of a sweep are there already, and which are to be launched.

Why content decides, not the command: what was launched by another line, for the same code, data
and environment, is the same run.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher import snapshot
from launcher.environment import build
from launcher.job import RunState
from launcher.observe import Looks
from launcher.plan import late
from launcher.sweep.plan import signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from launcher.git import Place
    from launcher.snapshot import Snapshot
    from launcher.store import RunStatus
    from launcher.sweep.plan import Draft
    from launcher.sweep.store import Sweeps


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What the jobs are made of, beside their configuration."""

    snapshots: Mapping[str, Snapshot]  # by source directory
    locks: Mapping[int, str]  # of environments, by id() of their facts; "": built inside the job
    signatures: tuple[str, ...]  # of the drafts, in their order


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is to be done, by signature: ``new`` are launched; ``kept`` have a run that stays.

    ``runs``: the latest run of each that has had one, the new ones too. ``changed``: how many new
    ones had a run of the same values, of other content.
    """

    new: Mapping[str, Draft]
    kept: Mapping[str, RunStatus]
    runs: Mapping[str, str]
    alike: int  # points that are the same as others in all that decides how a run ends
    changed: int


def content(
    drafts: Sequence[Draft], sources: Mapping[str, Place], say: Callable[[str], None]
) -> Content:
    """Return the content of the drafts: snapshots are taken, environments are built."""
    snapshots = {path: snapshot.take(place) for path, place in sources.items()}
    locks: dict[int, str] = {}
    for draft in drafts:
        if id(draft.facts) not in locks:
            locks[id(draft.facts)] = _built(draft, say)
    data: dict[str, Any] = {}
    signatures = []
    for draft in drafts:
        lock = locks[id(draft.facts)] or draft.facts.prefix.path  # named by what it will hold
        taken = snapshots[draft.job.source_directory]
        own: dict[str, Any] = {"source": [taken.tree, taken.prefix], "lock": lock}
        paths = draft.job.data.items()
        digests = {each.name: each.digest for each in draft.facts.data}
        if paths:
            here = draft.facts.hosts is None
            own["data"] = [
                [
                    name,
                    digests.get(name) or data.setdefault(path, _identity(path) if here else [path]),
                ]
                for name, path in paths
            ]
        signatures.append(signature(draft, own))
    return Content(snapshots=snapshots, locks=locks, signatures=tuple(signatures))


def _built(draft: Draft, say: Callable[[str], None]) -> str:
    """Return the lock of the draft's environment, built where it is used; "": inside the job."""
    job, facts = draft.job, draft.facts
    if late(job, facts):
        return ""
    if facts.hosts is None:
        return build.lock_text(build.ensure(facts.prefix, say))
    from launcher.ssh.build import on_hosts  # noqa: PLC0415 - other computes need it not

    return on_hosts(facts.hosts, job, facts.prefix, facts.data, say)


def _identity(path: str) -> list[Any]:
    """Return what tells a data file, or folder, from another: where, how large and how old."""
    try:
        found = os.stat(path)
    except OSError:  # of another machine
        return [path]
    return [path, found.st_size, found.st_mtime_ns]


def choose(
    drafts: Sequence[Draft], signatures: Sequence[str], sweeps: Sweeps, policy: str
) -> Choice:
    """Return which drafts are launched, by what became of the runs that they have had.

    ``policy``: missing, failed (those too that ended otherwise than well) or all.
    """
    wanted = {*signatures}
    last: dict[str, str] = {}
    seen: set[tuple[tuple[str, str], ...]] = set()  # what varied, of all points that have run
    for folder in sweeps.all():
        run = [entry for entry in folder.entries() if entry.run]
        last |= {entry.signature: entry.run for entry in run if entry.signature in wanted}
        seen |= {tuple(sorted(entry.values.items())) for entry in run}
    statuses = Looks(sweeps.store, last.values()).now()
    kept: dict[str, RunStatus] = {}
    first: dict[str, Draft] = {}
    again: dict[str, Draft] = {}  # after the others: there may not be room for all
    for draft, name in zip(drafts, signatures, strict=True):
        status = statuses.get(last.get(name, ""))
        if status is None:
            first.setdefault(name, draft)
        elif _stays(status, policy) and _has_outputs(draft, status, sweeps):
            kept[name] = status
        else:
            again.setdefault(name, draft)
    changed = sum(tuple(sorted(each.values.items())) in seen for each in first.values())
    alike = len(signatures) - len(wanted)
    return Choice(new={**first, **again}, kept=kept, runs=last, alike=alike, changed=changed)


def _stays(status: RunStatus, policy: str) -> bool:
    """Return whether a point that has had this run is not launched again."""
    if not status.state.final:
        return True
    if status.state is RunState.LOST and status.started is None:
        return False  # it was never launched
    return policy == "missing" or (policy == "failed" and status.state is RunState.SUCCEEDED)


def _has_outputs(draft: Draft, status: RunStatus, sweeps: Sweeps) -> bool:
    """Return whether the folder is still there that a Hydra application's outputs lie in."""
    application = draft.job.application
    if application is None or not application.outputs:
        return True
    return os.path.isdir(sweeps.store.folder(status.id).file("outputs"))


def told(choice: Choice, policy: str) -> Iterator[str]:
    """Yield which points are not launched, and which are although there was one like them."""
    if choice.alike:
        points = "1 point is" if choice.alike == 1 else f"{choice.alike} points are"
        yield f"launcher: {points} the same as others, and share their runs"
    if choice.changed:
        like = "point" if choice.changed == 1 else "points"
        yield (
            f"launcher: {choice.changed} {like} ran before with other code, configuration, "
            "environment or data, and so is new (any file of the source directory counts)"
        )
    if not choice.kept:
        return
    states = Counter(status.state.value for status in choice.kept.values())
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    points = "1 point is" if len(choice.kept) == 1 else f"{len(choice.kept)} points are"
    yield f"launcher: {points} there already ({counts}): not launched again (rerun_policy={policy})"
