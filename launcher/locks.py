"""Locks of the kernel on files and folders: those of whoever is killed are gone. Source: flock(2).

Standard library only, and sent to hosts as it is.

Why a file is open for writing wherever it is locked exclusively: on NFS it must be, or there is no
lock. A folder cannot be; its locks are those of one machine there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os


def is_locked(path: str, *, shared: bool = False) -> bool:
    """Return whether somebody has a file or a folder for themselves; or ``shared``, at all.

    Where there is none, or its disk knows no locks, nobody has.
    """
    try:
        file = _opened(path, os.O_RDWR if shared else os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, (fcntl.LOCK_EX if shared else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _opened(path: str, how: int) -> int:
    """Return a file, opened, if need be to be read only."""
    more = os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):  # a folder, or another user's
        return os.open(path, how | more)
    return os.open(path, os.O_RDONLY | more)


def use(path: str) -> int | None:
    """Return a file or folder, opened: as long as it is, it is in use; its time tells so later.

    None: there is none.
    """
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # of a disk without locks
            os.utime(file)
            fcntl.flock(file, fcntl.LOCK_SH)  # who looks at it has it for a moment
        return file
    return None
