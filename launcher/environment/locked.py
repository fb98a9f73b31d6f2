"""One builder at a time: a lock that its log file carries.

Why the log: every program of a build writes to it, so each inherits the lock with its output. A
builder that is killed leaves its pip running for a while; the next builder then waits for that one
too, instead of two of them writing into one folder. The kernel drops the lock with the last of
them, so nothing is ever left to be cleaned up. Source: flock(2).
"""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from launcher.errors import ProvisionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def held(file: Path, waits: Callable[[], None]) -> Iterator[IO[bytes]]:
    """Give ``file``, open for appending and locked; ``waits`` is called before a wait."""
    log = _locked(file, waits)
    try:
        yield log
    finally:
        # Closed, not unlocked: to unlock would take the lock from a child that still runs.
        log.close()


def _locked(file: Path, waits: Callable[[], None]) -> IO[bytes]:
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        log = file.open("ab", buffering=0)
        try:
            _lock(log, file, waits)
            # Who removes an environment removes this file: a lock on a removed file guards nothing.
            if file.exists() and os.path.samestat(os.fstat(log.fileno()), file.stat()):
                return log
        except BaseException:
            log.close()
            raise
        log.close()


def _lock(log: IO[bytes], file: Path, waits: Callable[[], None]) -> None:
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        waits()
        fcntl.flock(log, fcntl.LOCK_EX)
    except OSError as error:
        raise ProvisionError(
            f"{file.parent}: this file system has no locks ({error.strerror})",
            hint="Set LAUNCHER_CACHE to a folder on another file system.",
        ) from error
