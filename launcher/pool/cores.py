"""Cores, slots and GPUs of this machine, on lease: whose socket has the name of one has it.

Why names of sockets: of one name in the abstract namespace the kernel lets one socket be bound at a
time, whoever asks. Whoever inherits that socket has the name, and it is free when the last of them
ends, however that is. So pools of whatever users and folders share a machine without knowing of
each other, and none has to outlive the runs that it started. No file lies anywhere that is one
user's, that another cannot lock, or that somebody tidies away. It is an agreement all the same: who
does not ask is not kept from anything. Containers with networks of their own are machines of their
own. Source: unix(7).

Why a queue, of names with the time in them: first come, first served, and who dies has left it. Why
a turn as well: of two who come at once each may see itself as the first. Why one queue for GPUs and
one for cores: who waits for a GPU must not keep others from cores.

Why a slot is the lease of a core, as long as there are cores, but no place to run: how much of a
machine a slot is, is for who configures slots; who counts in cores sees one less for each, so that
both can share a machine. Those beyond the cores are names alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import process
from launcher.processes import START

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from launcher.process import Running
    from launcher.store import RunFolder

# The run whose pool has the cores that we are on: the pools that its script starts share those.
LEASED = "LAUNCHER_LEASED"
_SOCKETS = "/proc/net/unix"
_PREFIX = "launcher/"  # of all names
_KEEP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keep.py")
_QUEUES, _TURN = ("core.", "gpu."), ".turn"
_SOON_S, _LATER_S = 0.05, 1.0  # between two looks of the first in a queue; of the last


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What is ours as long as a process holds ``files``, which are open."""

    cores: tuple[int, ...]  # to run on; () where slots are leased
    gpus: tuple[str, ...]
    files: tuple[int, ...]

    def close(self) -> None:
        """Hold it no longer; a process that has inherited it still does."""
        for file in self.files:
            os.close(file)


class Leases:
    """What one pool has collected so far, for the run that it starts next."""

    def __init__(
        self, share: str, cores: Collection[int], gpus: Sequence[str], slots: int | None = None
    ) -> None:
        """Name what there is to share, with all of the same ``share``; nothing is taken.

        ``slots``: so many are leased in place of cores.
        """
        self._share = share
        self._cores = tuple(sorted(cores)) if slots is None else ()
        self._gpus = tuple(gpus)
        names = [f"core-{each}" for each in sorted(cores)][:slots]
        self._units = [*names, *(f"slot-{each}" for each in range(len(names), slots or 0))]
        self._held: dict[str, int] = {}  # name -> its open socket
        self._tickets: dict[str, str] = {}  # queue -> our name in it
        self.ahead = 0  # how many are before us

    @property
    def patience(self) -> float:
        """Return for how long to wait, in seconds, until asking once more is worth it."""
        return min(_LATER_S, _SOON_S * (1 + self.ahead))

    def told(self) -> dict[str, int]:
        """Return how many units and GPUs there are, how many of them nobody has, and who waits."""
        taken = self._names("")
        gpus = [f"gpu-{each}" for each in self._gpus]
        waiting = [each for each in taken if each.startswith(_QUEUES) and not each.endswith(_TURN)]
        return {
            "units": len(self._units),
            "units_free": sum(each not in taken for each in self._units),
            "gpus": len(gpus),
            "gpus_free": sum(each not in taken for each in gpus),
            "waiting": len(waiting),
        }

    def take(self, units: int, gpus: int) -> Lease | None:
        """Return so many cores or slots, and GPUs, or all where there are less.

        None: ask again, others have them still.
        """
        names = [f"gpu-{each}" for each in self._gpus]
        if not (self._has("gpu", names, gpus) and self._has("core", self._units, units)):
            return None
        files, held, self._held = tuple(self._held.values()), self._held, {}
        return Lease(
            cores=tuple(each for each in self._cores if f"core-{each}" in held),
            gpus=tuple(each for each in self._gpus if f"gpu-{each}" in held),
            files=files,
        )

    def drop(self) -> None:
        """Free what was collected, and our places in the queues."""
        for name in list(self._held):
            self._free(name)
        self._tickets.clear()

    def _has(self, queue: str, there: Sequence[str], wanted: int) -> bool:
        """Return whether we hold as many as are wanted and there; collect in our turn."""
        left = min(wanted, len(there)) - sum(name in self._held for name in there)
        if left > 0 and not self._is_first(queue):
            return False
        for name in there:
            if left > 0 and name not in self._held:
                left -= self._bind(name)
        if left > 0:
            return False
        for name in (f"{queue}{_TURN}", self._tickets.pop(queue, "")):
            if name in self._held:
                self._free(name)
        return True

    def _is_first(self, queue: str) -> bool:
        """Return whether it is our turn; stand in the queue until it is."""
        turn = f"{queue}{_TURN}"
        if turn in self._held:
            return True
        if queue not in self._tickets:
            ticket = f"{queue}.{time.monotonic_ns():020}.{os.getpid()}"
            if not self._bind(ticket):
                return False
            self._tickets[queue] = ticket
        mine = self._tickets[queue]
        self.ahead = sum(name < mine for name in self._names(f"{queue}.") if name != turn)
        return not self.ahead and self._bind(turn)

    def _names(self, prefix: str) -> list[str]:
        """Return the names that anybody has, those that begin so; none where that is not told."""
        mark = f" @{self._prefix}"
        with contextlib.suppress(OSError), open(_SOCKETS, encoding="utf-8", errors="replace") as at:
            found = (line.rstrip("\n").partition(mark)[2] for line in at)
            return [name for name in found if name.startswith(prefix)]
        return []

    @property
    def _prefix(self) -> str:
        return f"{_PREFIX}{self._share}/"

    def _bind(self, name: str) -> bool:
        """Return whether the name is ours now."""
        own = socket.socket(socket.AF_UNIX)
        try:
            own.bind(f"\0{self._prefix}{name}")
        except OSError as error:
            own.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._held[name] = own.detach()
        return True

    def _free(self, name: str) -> None:
        os.close(self._held.pop(name))


def keep(folder: RunFolder, line: socket.socket, files: Sequence[int], start: str) -> None:
    """Have a program of its own hold leases of a run, too; see ``keep.py``."""
    with open(os.devnull, "ab") as log:
        words = _keeper(folder, line.fileno(), start)
        process.start(words, log=log, env={}, holds=(*files, line.fileno()))


def keep_ours(folder: RunFolder) -> Running:
    """Return a program that holds our leases, too, and knows by its standard input that we live.

    It is a shell until we do not: each run starts one, and most are never needed.
    """
    start = os.environ.get(START, "")
    words = ("/bin/sh", "-c", 'read -r _; exec "$@"', "sh", *_keeper(folder, 0, start))
    with open(os.devnull, "ab") as log:
        return process.start(words, log=log, env={}, holds=_inherited(), waits=True)


def _keeper(folder: RunFolder, line: int, start: str) -> tuple[str, ...]:
    record = folder.record()
    times = (str(record.grace_s), str(record.silence_s))
    return (sys.executable, "-I", "-S", _KEEP, folder.path, *times, str(line), start)


def _inherited() -> list[int]:
    """Return the leases that this process was started with, open files."""
    found = []
    for file in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the listing's own, and what is no socket
            own = socket.socket(fileno=file)
            try:
                name = own.getsockname()
            finally:
                own.detach()
            if isinstance(name, bytes) and name.startswith(f"\0{_PREFIX}".encode()):
                found.append(file)
    return found


def share(env: Mapping[str, str]) -> str:
    """Return the name of what we share: the machine, or what a run has leased that we are in."""
    return env.get(LEASED, "all")


def devices(env: Mapping[str, str]) -> list[str]:
    """Return the GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    told = env.get("CUDA_VISIBLE_DEVICES")
    if told is None:
        return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    names = [each.strip() for each in told.split(",")]
    # CUDA takes what stands before the first that is none. Source: CUDA's programming guide
    end = next((n for n, each in enumerate(names) if each in ("", "-1")), len(names))
    return list(dict.fromkeys(names[:end]))
