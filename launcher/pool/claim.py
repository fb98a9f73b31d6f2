"""Whose a run is that waits: who makes the file ``job`` in its folder may start or cancel it.

Standard library only. The supervisor inherits that file's lock: where nobody has it, and the run
has not begun, nobody is about to start it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

from launcher.job import RunState
from launcher.locks import is_locked

if TYPE_CHECKING:
    from launcher.store import Folder


JOB = "job"
OVER = "over"  # file of a run that has ended on another machine than its pool's


def claim(folder: Folder, name: str = JOB) -> int | None:
    """Return the open file by which a run that waits is ours, to start or to cancel.

    None: another was first, or the run was removed. PermissionError when it is another user's.
    """
    try:
        file = os.open(folder.file(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except (FileExistsError, FileNotFoundError):
        return None
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def is_claimed(folder: Folder) -> bool:
    """Return whether a run waits no longer."""
    return os.path.exists(folder.file(JOB))


def is_on_its_way(folder: Folder, name: str = JOB) -> bool:
    """Return whether who has claimed a run lives: its supervisor, or one who cancels it."""
    return is_locked(folder.file(name))


def unclaim(folder: Folder) -> None:
    """Have a run wait again, which was ours and was not started."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder.file(JOB))


def has_begun(folder: Folder) -> bool:
    """Return whether the run's supervisor has had its first word."""
    late = (RunState.SUBMITTING.value, RunState.PENDING.value)
    return any(each["state"] not in late for each in folder.events())


def failed(folder: Folder, status: int, reason: str) -> None:
    """Write that a run failed before its supervisor could say anything."""
    with contextlib.suppress(OSError):  # of a run that was removed
        values = {"exit_status": status, "reason": reason, "failed": {}, "metrics": {}}
        folder.event(RunState.FAILED, **values)
