"""Cores and GPUs of this machine, on lease: who holds the lock of its file has it.

Why locks of files: whoever inherits an open file holds its lock, and the kernel frees it when the
last of them ends, however that is. So pools, of whatever project folders, share a machine without
knowing of each other, and none has to outlive the runs that it started. Source: flock(2).

Why a turn: who collects for a large run would never have enough while others take every core that
gets free for small ones. Why a door before it: who has had a turn must get behind those who wait.
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

_DOOR, _TURN = "door", "turn"


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
        if not self._has_turn():
            return None
        own_cores = [each for each in self._cores if self._holds(f"core-{each}", cores)]
        own_gpus = [each for each in self._gpus if self._holds(f"gpu-{each}", gpus)]
        if len(own_cores) < min(cores, len(self._cores)) or len(own_gpus) < min(
            gpus, len(self._gpus)
        ):
            return None
        self._free(_TURN)
        files, self._held = tuple(self._held.values()), {}
        return Lease(cores=tuple(own_cores), gpus=tuple(own_gpus), files=files)

    def drop(self) -> None:
        """Free what was collected, and our turn."""
        for name in list(self._held):
            self._free(name)

    def _has_turn(self) -> bool:
        if _TURN in self._held:
            return True
        if not (self._lock(_DOOR) and self._lock(_TURN)):
            return False
        self._free(_DOOR)
        return True

    def _holds(self, name: str, wanted: int) -> bool:
        """Return whether we hold ``name``; take it where fewer of its kind are held than wanted."""
        kind = name.partition("-")[0] + "-"
        held = sum(each.startswith(kind) for each in self._held)
        return name in self._held or (held < wanted and self._lock(name))

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


def folder() -> str:
    """Return where this machine's locks lie; a home, and so the cache, may be many machines'."""
    return os.path.join(cache_dir(), "leases", os.uname().nodename)


def devices(env: Mapping[str, str]) -> list[str]:
    """Return the GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    told = env.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    names = [each.strip() for each in told.split(",")]
    # CUDA takes what stands before the first that is none. Source: CUDA's programming guide
    end = next((n for n, each in enumerate(names) if each in ("", "-1")), len(names))
    return list(dict.fromkeys(names[:end]))
