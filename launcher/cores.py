"""Cores and GPUs of this machine, on lease: who holds the lock of its file has it.

Why locks of files: whoever inherits an open file holds its lock, and the kernel frees it when the
last of them ends, however that is. So pools, of whatever project folders, share a machine without
knowing of each other, and none has to outlive the runs that it started. Source: flock(2).

Why a turn: who collects for a large run would never have enough while others take every core that
gets free for small ones. Why a door before it: who has had a turn must get behind those who wait.
Why one of GPUs and one of cores: who waits for a GPU must not keep others from cores.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.environment.answers import cache_dir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# The run whose pool has the cores that we are on: the pools that its script starts share those.
LEASED = "LAUNCHER_LEASED"
_ELSEWHERE = "/tmp"  # noqa: S108 - a folder of ours alone, below it


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Cores and GPUs that are ours as long as a process holds ``files``, which are open."""

    cores: tuple[int, ...]
    gpus: tuple[str, ...]
    files: tuple[int, ...]

    def close(self) -> None:
        """Hold it no longer; a process that has inherited it still does."""
        for file in self.files:
            os.close(file)


class Leases:
    """What one pool has collected so far, for the run that it starts next."""

    def __init__(self, folder: str, cores: Sequence[int], gpus: Sequence[str]) -> None:
        """Name what there is to share, and the folder of its locks, which is made."""
        self._folder = folder
        self._cores = tuple(cores)
        self._gpus = tuple(gpus)
        self._held: dict[str, int] = {}  # name of a lock -> its open file
        os.makedirs(folder, exist_ok=True)

    def take(self, cores: int, gpus: int) -> Lease | None:
        """Return so many, or all where there are less; None: ask again, others have them still."""
        if not (self._has("gpu", self._gpus, gpus) and self._has("core", self._cores, cores)):
            return None
        files, held, self._held = tuple(self._held.values()), self._held, {}
        return Lease(
            cores=tuple(each for each in self._cores if f"core-{each}" in held),
            gpus=tuple(each for each in self._gpus if f"gpu-{each}" in held),
            files=files,
        )

    def drop(self) -> None:
        """Free what was collected, and our turn."""
        for name in list(self._held):
            self._free(name)

    def _has(self, kind: str, there: Sequence[object], wanted: int) -> bool:
        """Return whether we hold as many of a kind as are wanted and there; collect in our turn."""
        left = min(wanted, len(there)) - sum(name.startswith(f"{kind}-") for name in self._held)
        if not left:
            return True
        door, turn = f"{kind}.door", f"{kind}.turn"
        if turn not in self._held:
            if not (self._lock(door) and self._lock(turn)):
                return False
            self._free(door)
        for name in (f"{kind}-{each}" for each in there):
            if left and name not in self._held:
                left -= self._lock(name)
        if not left:
            self._free(turn)
        return not left

    def _lock(self, name: str) -> bool:
        """Return whether the lock called ``name`` is ours now."""
        if name in self._held:
            return True
        path = os.path.join(self._folder, name.replace("/", "_"))
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._held[name] = file
        return True

    def _free(self, name: str) -> None:
        os.close(self._held.pop(name))


def folder(env: Mapping[str, str]) -> str:
    """Return where the locks lie of what we share, a folder that is there; OSError: there is none.

    A home, and so the cache, may be many machines', and its file system may have no locks.
    """
    machine, share = f"{os.uname().nodename}-{os.getuid()}", env.get(LEASED, "all")
    try:
        return _usable(os.path.join(cache_dir(), "leases", machine, share))
    except OSError:
        own = os.path.join(_ELSEWHERE, f"launcher-{machine}")
        os.makedirs(own, mode=0o700, exist_ok=True)
        if os.lstat(own).st_uid != os.getuid():
            raise
        return _usable(os.path.join(own, share))


def _usable(path: str) -> str:
    """Return ``path``, a folder in which files can be locked; else OSError."""
    os.makedirs(path, exist_ok=True)
    file = os.open(os.path.join(path, "tried"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(file)
    return path


def devices(env: Mapping[str, str]) -> list[str]:
    """Return the GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    told = env.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    names = [each.strip() for each in told.split(",")]
    # CUDA takes what stands before the first that is none. Source: CUDA's programming guide
    end = next((n for n, each in enumerate(names) if each in ("", "-1")), len(names))
    return list(dict.fromkeys(names[:end]))
