"""Queue a sweep: decide what is missing, write it down, record it, hand it to its schedulers.

Why what was launched before is known by its content: a command that was interrupted, or widened,
is typed again; what has run, and what waits, must not be queued a second time.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from launcher.errors import LaunchError, SubmitError
from launcher.scheduler import scheduler
from launcher.store import Store
from launcher.submission import secret_values, variables, warn, write_files
from launcher.sweep import heal
from launcher.sweep.choose import choose, content, told
from launcher.sweep.plan import Planner, groups, room
from launcher.sweep.records import New, record_all
from launcher.sweep.store import Entry, GroupFolder, SweepRecord, Sweeps

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from launcher.git import Place
    from launcher.job import GroupPlan
    from launcher.sweep.choose import Content
    from launcher.sweep.plan import Draft, Left, Room
    from launcher.sweep.store import SweepFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A sweep with all its jobs: everything is decided but which of them are there already."""

    id: str
    name: str
    runs_dir: str
    overrides: tuple[str, ...]  # as typed, secrets masked
    keys: tuple[str, ...]  # those that vary
    rerun_policy: str  # missing, failed, all
    wait: bool  # a submit follows the sweep to its end
    drafts: tuple[Draft, ...]
    left: tuple[Left, ...]
    sources: Mapping[str, Place]  # by source directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """What a submit did: the sweep's folder, and the groups of this submit.

    ``room``: that limits left for its missing points; those beyond it are not launched.
    """

    folder: SweepFolder
    groups: tuple[GroupPlan, ...]
    runs: tuple[str, ...]  # ids, by draft, those that were there before too; "": no room for it
    room: Room


class _How(NamedTuple):
    say: Callable[[str], None]
    lock: int  # what a scheduler's program holds to its end
    hide: bool  # from git, each folder by itself


def submit(sweep: Sweep, say: Callable[[str], None]) -> Queued:
    """Return the sweep, its missing points queued; raise LaunchError when that failed half way.

    What was queued before the error stays, and is said; the same sweep again queues the rest.
    """
    made = content(sweep.drafts, sweep.sources, say)
    store = Store(sweep.runs_dir)
    sweeps = Sweeps(store)
    own = store.prepare()
    with sweeps.locked() as lock:
        for folder in sweeps.all():
            heal.heal(folder)
        choice = choose(sweep.drafts, made.signatures, sweeps, sweep.rerun_policy)
        for line in told(choice, sweep.rerun_policy):
            say(line)
        there = room(choice.new)
        digest = hashlib.sha256("".join(made.signatures).encode()).hexdigest()[:32]
        same = next((each for each in sweeps.all() if each.record().digest == digest), None)
        folder = same or sweeps.folder(sweep.id)
        if there.beyond and not there.fits:
            raise there.error(folder.id)
        if same is not None and not choice.new:
            known = tuple(choice.runs[name] for name in made.signatures)
            return Queued(folder=same, groups=(), room=there, runs=known)
        runs = dict(zip(there.fits, heal.next_ids(folder, len(there.fits)), strict=True))
        every = {**choice.runs, **runs}
        _write_down(sweep, made, every, folder, digest)
        try:
            how = _How(say, lock, hide=not own)
            planned = _launch(sweep, made, there.fits, runs, folder, how)
        except BaseException as error:
            raise _partly(error, folder, runs.values()) from error
        heal.unmark(folder)
        return Queued(
            folder=folder,
            groups=planned,
            room=there,
            runs=tuple(every.get(name, "") for name in made.signatures),
        )


def _write_down(
    sweep: Sweep, made: Content, runs: Mapping[str, str], folder: SweepFolder, digest: str
) -> None:
    """Write which run each point is, before there are any; ``runs``: ids, by signature."""
    entries = [
        Entry(point=draft.number, run=runs.get(name, ""), signature=name, values=draft.values)
        for draft, name in zip(sweep.drafts, made.signatures, strict=True)
    ]
    git_dirs = sorted({draft.facts.git_dir for draft in sweep.drafts})
    if folder.exists():
        heal.mark(folder, git_dirs)
        known = {entry.point: entry.run for entry in folder.entries()}
        folder.append([entry for entry in entries if known.get(entry.point) != entry.run])
        return
    entries += [Entry(point=e.number, run="", signature="", values=e.values) for e in sweep.left]
    record = SweepRecord(
        id=sweep.id,
        name=sweep.name,
        created=time.time(),
        user=sweep.drafts[0].facts.user,
        host=sweep.drafts[0].facts.host,
        overrides=sweep.overrides,
        keys=sweep.keys,
        digest=digest,
    )
    folder.create(record, entries, lambda new: heal.mark(new, git_dirs))


def _launch(
    sweep: Sweep,
    made: Content,
    new: Mapping[str, Draft],
    runs: Mapping[str, str],
    folder: SweepFolder,
    how: _How,
) -> tuple[GroupPlan, ...]:
    """Write, record and queue the new runs; return their groups."""
    drafts = list(new.values())
    known = len(folder.groups())
    job_name = f"{sweep.name}-{folder.id}"
    planned = groups(drafts, list(runs.values()), folder.path, job_name, known)
    folders = [GroupFolder(plan.folder) for plan in planned]
    for group, plan in zip(folders, planned, strict=True):
        write_files(group, plan.files)
    by_run = dict(zip(runs.values(), new.items(), strict=True))
    record_all(_new_runs(planned, by_run, folder), made, folder, hide=how.hide)
    for draft in {id(draft.facts): draft for draft in drafts}.values():
        warn(draft.job, draft.facts, how.say)
    for group, plan in zip(folders, planned, strict=True):
        if heal.is_stopped(folder):
            raise SubmitError(f"sweep {folder.id} was cancelled meanwhile")
        _, first = by_run[plan.runs[0]]
        env = variables(secret_values(first.job, first.secrets))
        scheduler(plan.kind).queue(group, plan, env, how.say, how.lock)
    return planned


def _new_runs(
    planned: tuple[GroupPlan, ...], by_run: Mapping[str, tuple[str, Draft]], folder: SweepFolder
) -> list[New]:
    planner, new = Planner(), []
    for plan in planned:
        group = f"{folder.id}/{plan.folder.rpartition('/')[2]}"
        for task, run in enumerate(plan.runs):
            name, draft = by_run[run]
            made = planner.plan(draft, run)
            new.append(New(draft=draft, plan=made, signature=name, group=group, task=task))
    return new


def _partly(error: BaseException, folder: SweepFolder, runs: Collection[str]) -> BaseException:
    """Return the error of a submit that ended early, with what is queued all the same."""
    try:
        gone = heal.heal(folder)
    except LaunchError as unknown:
        message = f"what of sweep {folder.id} is queued is not known: {unknown}"
        return SubmitError(message, hint="The same command asks again, and queues the rest.")
    queued = sum(run not in gone for run in runs)
    if not isinstance(error, LaunchError) or not queued:
        return error
    message = f"{queued} of {len(runs)} runs of sweep {folder.id} are queued: {error.message}"
    return SubmitError(message, hint=f"{error.hint} The same command queues the rest.".strip())
