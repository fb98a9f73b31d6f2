"""Looks at a disk, and removals from it, that no symbolic link leads elsewhere.

Standard library only: it is sent to hosts with what needs it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Hold a folder's lock, which is waited for."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def unbuilt(paths: Iterable[str]) -> Iterator[None]:
    """Have the locks of what is built, of these; BlockingIOError: somebody builds it."""
    with contextlib.ExitStack() as locks:
        for path in paths:
            if path.endswith((".log", ".lock")):
                file = locks.enter_context(open(path, "r+b"))  # see launcher.locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def text_of(path: str) -> str:
    """Return what a file holds, as text; "" where there is none."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
    return ""


def changed_at(path: str) -> float:
    """Return when a file or a folder itself was changed; 0 where there is none."""
    with contextlib.suppress(OSError):
        return os.lstat(path).st_mtime
    return 0.0


def walk(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield a file, or a folder and all that is below it; links are not followed."""
    with contextlib.suppress(OSError):
        about = os.lstat(folder)
        yield folder, about
        if stat.S_ISDIR(about.st_mode):
            for path, folders, files in os.walk(folder):
                for each in (*folders, *files):
                    with contextlib.suppress(OSError):
                        inside = os.path.join(path, each)
                        yield inside, os.lstat(inside)


def latest_change(folder: str) -> float:
    """Return when anything in a folder was changed last."""
    return max((about.st_mtime for _, about in walk(folder)), default=0.0)


def size_of(paths: Iterable[str], seen: set[tuple[int, int]] | None = None) -> int:
    """Return the bytes that files, and folders with all that is in them, take on their disk.

    What has several names counts once, and not at all where it was ``seen``.
    """
    seen, size = set() if seen is None else seen, 0
    for path in paths:
        for _, about in walk(path):
            if (about.st_dev, about.st_ino) not in seen:
                seen.add((about.st_dev, about.st_ino))
                size += about.st_blocks * 512
    return size


def remove(path: str) -> None:
    """Remove a file or a folder, whatever modes its folders have; links are not followed."""
    if not os.path.isdir(path) or os.path.islink(path):
        os.unlink(path)
        return
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
    for folder, folders, _ in os.walk(path):
        for each in folders:  # before it is entered
            inside = os.path.join(folder, each)
            with contextlib.suppress(OSError):
                if not os.path.islink(inside):
                    os.chmod(inside, 0o700)
    shutil.rmtree(path)
