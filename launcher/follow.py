"""Follow the logs of a run: files that grow, read from where we were.

Why polling: it works on any file system, on files that others write, and costs one stat a file.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

from launcher.job import RunState
from launcher.observe import observe, read
from launcher.scheduler import scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.store import RunFolder, RunStatus

_POLL_S, _IDLE_S = 0.01, 0.2  # between two looks at logs, while output comes and long after
_SETTLES_S = 3.0  # a scheduler gives passing reasons at first
_LOOK_S = 0.5  # between two looks at the state, at most
_CHUNK = 1 << 20  # bytes of a log at once
_START = re.compile(rb"(?<=\n)(?!\Z)|(?<=\r)(?![\n]|\Z)|\A")  # of a line

# Of Open MPI 5's mpirun, where the ssh that it started was quicker than it was itself to put that
# into a group: it is in one, and all is well. The log has it.
_NOISE = re.compile(
    rb"^\[\S+\] plm:ssh: Warning: setpgid\(\d+,\d+\) failed in parent with errno="
    rb"Permission denied\(13\)\n",
    re.MULTILINE,
)


class Tail:
    """The logs of one run, from their beginning."""

    def __init__(
        self, folder: RunFolder, *, world_size: int, rank: int | None = None, label: str = ""
    ) -> None:
        """Follow all logs, or those of one ``rank``; with several ranks each line has its rank.

        ``label``: what each line has before it, where the logs of several runs are mixed.
        """
        self._names = [f"rank-{rank}.log"] if rank is not None else None
        self.folder = folder
        self._label = f"[{label}] ".encode() if label else b""
        self._ranked = world_size > 1 and rank is None
        self._offsets: dict[str, int] = {}
        self._held: dict[str, bytes] = {}

    def read(self, *, last: bool = False) -> bytes:
        """Return what has come since the last call, some megabytes at most: b"" when nothing has.

        With ``last``, lines that have no end yet come too.
        """
        return b"".join(self._new(name, last=last) for name in self._names or self._list())

    def drain(self, write: Callable[[bytes], object]) -> None:
        """Write all that is there."""
        while data := self.read(last=True):
            write(data)

    def _list(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            names = [n for n in os.listdir(self.folder.file("logs")) if n.endswith(".log")]
            # launch.log first: what came before the ranks
            return sorted(names, key=lambda name: (name != "launch.log", len(name), name))
        return []

    def _new(self, name: str, *, last: bool) -> bytes:
        data = b""
        with (
            contextlib.suppress(FileNotFoundError),
            open(self.folder.file("logs", name), "rb") as file,
        ):
            file.seek(self._offsets.get(name, 0))
            data = file.read(_CHUNK)
        self._offsets[name] = self._offsets.get(name, 0) + len(data)
        return self._lines(name, data, last=last) if self._label or self._ranked else data

    def _lines(self, name: str, data: bytes, *, last: bool) -> bytes:
        """Return the whole lines of ``data``, each with its label; hold the rest back."""
        data = self._held.pop(name, b"") + data
        cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        if (last and len(data) < _CHUNK) or len(data) - cut >= _CHUNK:
            data += b"" if cut == len(data) else b"\n"
            cut = len(data)
        if cut < len(data):
            self._held[name] = data[cut:]
        data = data[:cut] if name != "launch.log" else _NOISE.sub(b"", data[:cut])
        rank = name.removeprefix("rank-").removesuffix(".log")
        label = self._label + (f"[{rank}] ".encode() if self._ranked and rank.isdigit() else b"")
        return _START.sub(lambda _: label, data) if data else b""


class Waiting:
    """Says why a run waits, or is not seen, once for each reason that lasts."""

    def __init__(self, say: Callable[[str], object]) -> None:
        """Begin now."""
        self.say, self.begun, self.told = say, time.monotonic(), ""

    def look(self, status: RunStatus) -> None:
        """Say what is new."""
        why = status.reason.partition("; ")[0]  # the rest may change all the time
        new = not status.state.final and why not in ("", self.told)
        if new and time.monotonic() - self.begun > _SETTLES_S:
            self.told = why
            self.say(f"launcher: {status.reason}")
            if status.advice:
                self.say(f"  may help: {status.advice}")


def refresh(folder: RunFolder) -> None:
    """Have a run's folder show what it has written, wherever it runs."""
    run = read(folder)
    if not RunState(run.last["state"]).final:
        scheduler(run.record.compute).refresh([run])


def follow(tail: Tail, write: Callable[[bytes], object], say: Callable[[str], object]) -> RunStatus:
    """Return the final status of the run, after writing its logs as they come.

    ``say`` gets why the run waits, as long as it does.
    """
    waiting = Waiting(say)
    run = read(tail.folder)
    keeper = scheduler(run.record.compute)
    begun = last = time.monotonic()
    look = 0.0
    while True:
        now = time.monotonic()
        status = observe(tail.folder) if now >= look else None
        if status is not None:
            look = now + min((now - begun) / 50, _LOOK_S)
            waiting.look(status)
        keeper.refresh([run])
        data = tail.read()
        if data:
            write(data)
            last = time.monotonic()
        if status is not None and status.state.final:
            tail.drain(write)
            return status
        # The longer nothing came, the less a run on other hosts is to feel of being watched.
        time.sleep(min(_POLL_S + (time.monotonic() - last) / 50, _IDLE_S))
