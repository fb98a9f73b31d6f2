"""A submit of a sweep that did not come to its end: what it queued stays, the rest is taken away.

Why this is done for errors and for kills alike: a mark lies in the sweep's folder as long as its
submit is under way, and whoever holds the lock and sees it knows that nobody works there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from typing import TYPE_CHECKING

from launcher import record
from launcher.errors import LaunchError
from launcher.job import RunState
from launcher.scheduler import scheduler
from launcher.store import read_lines, write_atomically

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.sweep.store import GroupFolder, SweepFolder

_MARK = "submitting"
_STOP = "stop"  # beside it: who submits is to queue no more


def mark(folder: SweepFolder, git_dirs: Sequence[str]) -> None:
    """Mark a sweep whose runs are being queued; ``git_dirs``: where they are recorded."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder.file(_STOP))  # of somebody who was killed
    write_atomically(folder.file(_MARK), json.dumps(git_dirs))


def under_way(folder: SweepFolder) -> bool:
    """Return whether runs of the sweep are being queued at this moment."""
    return os.path.exists(folder.file(_MARK)) and folder.sweeps().is_locked()


def stop(folder: SweepFolder) -> None:
    """Return when nothing of the sweep is being queued; what was not queued by then will not be."""
    if under_way(folder):
        with contextlib.suppress(OSError):
            open(folder.file(_STOP), "wb").close()
        with folder.sweeps().locked():
            pass


def is_stopped(folder: SweepFolder) -> bool:
    """Return whether somebody has the submit of the sweep stop."""
    return os.path.exists(folder.file(_STOP))


def unmark(folder: SweepFolder) -> None:
    """Say that nothing is half done there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder.file(_MARK))


def heal(folder: SweepFolder) -> frozenset[str]:
    """Take away what interrupted submits left and did not queue; return those runs.

    LaunchError when a scheduler cannot be asked what it has: then nothing is changed.
    """
    try:
        with open(folder.file(_MARK), encoding="utf-8") as file:
            git_dirs: list[str] = json.load(file)
    except FileNotFoundError:
        return frozenset()
    queued = {group.path: group.runs() for group in folder.groups() if is_queued(group)}
    stay = {run for runs in queued.values() for run in runs}
    gone = [run for run in _own_runs(folder) if run not in stay]
    for run in gone:
        shutil.rmtree(folder.run_path(run), ignore_errors=True)
    for git_dir in git_dirs if gone else ():
        with contextlib.suppress(LaunchError):
            record.forget(git_dir, *gone)
    for group in folder.groups():
        if group.path not in queued:
            shutil.rmtree(group.path, ignore_errors=True)
    entries = folder.entries()
    left = {*gone}
    if all(entry.run in left or not entry.run for entry in entries):
        shutil.rmtree(folder.path)  # nothing of it was queued
    else:
        folder.append([entry.without_run() for entry in entries if entry.run in left])
        unmark(folder)
    return frozenset(gone)


def is_queued(group: GroupFolder) -> bool:
    """Return whether a group's call has come through; nothing may be under way.

    LaunchError when its scheduler cannot be asked.
    """
    states = {event["state"] for event in group.events()}
    if RunState.PENDING.value in states:
        return True
    return RunState.SUBMITTING.value in states and scheduler(group.kind()).find(group)


def next_ids(folder: SweepFolder, count: int) -> tuple[str, ...]:
    """Return ids for new runs of a sweep: its own, and the next numbers."""
    used = [int(run.rpartition("-")[2]) for run in _own_runs(folder)]
    first = max(used, default=-1) + 1
    return tuple(f"{folder.id}-{number:04}" for number in range(first, first + count))


def _own_runs(folder: SweepFolder) -> list[str]:
    """Return all runs that the sweep ever launched, those of lines that no longer count too."""
    own = re.compile(re.escape(folder.id) + r"-\d+")
    lines = read_lines(folder.file("points.jsonl"))
    runs = (str(line.get("run", "")) for line in lines)
    return list(dict.fromkeys(run for run in runs if own.fullmatch(run)))
