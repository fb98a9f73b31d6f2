"""A machine that is reached by ssh, as a pool sees it: what ``hold`` there tells of it.

Standard library only. A connection that is lost is made anew. Leases that no run had are gone with
it; of each run that we had started we ask again. One that was not started there waits again.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from launcher import process
from launcher.hosts import POOL
from launcher.job import WRITTEN
from launcher.pool.claim import JOB, OVER, failed
from launcher.pool.place import LostError
from launcher.processes import HEARTBEAT_S, START
from launcher.shell import ShellExpr, shell_line
from launcher.store import RunFolder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.pool.place import Host, Need
    from launcher.process import Running

_ANSWER_S = 15.0
_SOON_S, _LATER_S = 1.0, 15.0  # until a connection that was lost is tried again
_SILENT_S = 90.0  # after which runs there are no longer waited for
_HOLD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hold.py")
_OWN = (JOB, OVER, "heartbeat", "metrics.jsonl")  # files that are made as a run goes on
# A host that is off is noticed in 15 s; all else is in the configuration that the group has.
_OPTIONS = ("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")


class Elsewhere:
    """One machine, and the connection to it."""

    def __init__(
        self, host: Host, ssh: tuple[str, ...], supervisor: tuple[str, ...], log: str
    ) -> None:
        """Name the words that are ssh, and start a supervisor; ``log`` gets what ssh says."""
        self.name, self.address, self.order = host.name, host.address, host.order
        self.hello = {"hello": supervisor, "slots": host.slots, "gpus": host.gpus}
        hold = shell_line((ShellExpr("exec"), supervisor[0], "-I", "-S", _HOLD))
        self.argv = (*ssh, *_OPTIONS, "--", host.address, hold)
        self.log = log
        self.uses: Sequence[str] = ()
        self.child: Running | None = None
        self.answers: dict[str, Any] = {}
        self.read = b""
        self.up = False
        self.lost_at = self.again_at = self.said_at = time.monotonic()
        self.pause = _SOON_S
        self.need: Need | None = None
        self.asked = 0
        self.running: dict[str, str] = {}  # by folder, the word of its start
        self.over: list[str] = []
        self.unstarted: list[str] = []

    @property
    def silent(self) -> bool:
        """Return whether there has been no connection for a long time."""
        return not self.up and time.monotonic() > self.lost_at + _SILENT_S

    @property
    def patience(self) -> float:
        """Return for how long to wait until there is something to be said."""
        next_at = self.said_at + HEARTBEAT_S if self.child else self.again_at
        return max(0.0, next_at - time.monotonic())

    def files(self) -> list[int]:
        """Return where answers come."""
        return [self._output()] if self.child else []

    def use(self, paths: Sequence[str]) -> None:
        """Have it in use there; so it is each time when we are connected anew."""
        self.uses = paths
        self._say(use=paths)

    def ask(self, need: Need) -> None:
        """Queue for so much there."""
        if need != self.need and self.up:
            self.need = need
            self.asked += 1
            self._say(ask=self.asked, need=asdict(need))

    def has(self) -> bool:
        """Return whether what was asked for last is ours."""
        return self.up and self.need is not None and self.answers.get("held") == self.asked

    def drop(self) -> None:
        """Give back what is ours there."""
        if self.need:
            self.need = None
            self._say(drop=True)

    def line(self) -> int:
        """Return the port of the line of the run that is started next."""
        return int(self._answer("port", line=True))

    def keep(self, folder: RunFolder, address: str, port: int, start: str) -> None:
        """Have what is ours kept for a run."""
        to = {"address": address, "port": port, "word": start}
        self._answer("kept", keep=folder.path, files=_packed(folder), **to)
        self.need = None

    def start(self, folder: RunFolder, env: Mapping[str, str], claimed: int) -> None:  # noqa: ARG002
        """Have the run's supervisor started; what becomes of it is told later."""
        files = _packed(folder)
        word = self.running[folder.path] = env[START]
        self.need = None
        self._say(start=folder.path, word=word, files=files, env=dict(env))

    def ended(self) -> list[str]:
        """Return the runs that have ended since, after a look at the connection."""
        now = time.monotonic()
        if self.child is None and now >= self.again_at:
            self._connect()
        elif self.child and now >= self.said_at + HEARTBEAT_S:
            self._say()
        while self._hear(0.0):  # what is told as ours may end in the same breath
            pass
        over, self.over = self.over, []
        for path in over:
            self.running.pop(path, None)
        return over

    def missed(self) -> list[str]:
        """Return the runs whose start was lost on its way."""
        missed, self.unstarted = self.unstarted, []
        for path in missed:
            self.running.pop(path, None)
        return missed

    def close(self) -> None:
        """Hang up; what is there and no run's is given back."""
        if self.child:
            self._lose()

    def _connect(self) -> None:
        try:
            with open(self.log, "ab") as log:
                self.child = process.connect(self.argv, errors=log, prompts=False)
        except OSError:
            self.again_at = time.monotonic() + _LATER_S
            return
        os.set_blocking(self._output(), False)
        self._say(**self.hello)
        self._say(use=self.uses)
        for path, word in self.running.items():
            self._say(watch=path, word=word)

    def _output(self) -> int:
        assert self.child is not None  # noqa: S101 - for the type checker
        assert self.child.stdout is not None  # noqa: S101
        return self.child.stdout.fileno()

    def _say(self, **message: Any) -> None:
        """Say something, or nothing but that we live; the end of the connection is heard later."""
        self.said_at = time.monotonic()
        if self.child and self.child.stdin:
            line = json.dumps(message) if message else ""
            with contextlib.suppress(OSError):
                self.child.stdin.write(f"{line}\n".encode())
                self.child.stdin.flush()

    def _answer(self, key: str, **message: Any) -> Any:
        self._say(**message)
        end = time.monotonic() + _ANSWER_S
        while key not in self.answers:
            left = end - time.monotonic()
            if self.child is None or left <= 0:
                self.close()
                raise LostError(f"{self.name}: no answer")
            self._hear(left)
            if "refused" in self.answers:
                raise OSError(f"{self.name}: {self.answers.pop('refused')}")
        return self.answers.pop(key)

    def _hear(self, timeout_s: float) -> bool:
        """Hear what has come, or comes in time; return whether that was anything."""
        if self.child is None or not select.select([self._output()], [], [], timeout_s)[0]:
            return False
        data = os.read(self._output(), 1 << 16)
        *lines, self.read = (self.read + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):  # what a login script prints
                message = json.loads(line)
                if isinstance(message, dict):
                    self._note(message)
        if not data:
            self._lose()
        return bool(data)

    def _note(self, message: dict[str, Any]) -> None:
        if "hello" in message:
            self.up, self.pause = True, _SOON_S
        if "unstarted" in message:
            self.unstarted.append(message["unstarted"])
        elif "ended" in message:
            if "refused" in message:
                failed(RunFolder(message["ended"]), 1, f"{self.name}: {message['refused']}")
            self.over.append(message["ended"])
        else:
            self.answers |= message

    def _lose(self) -> None:
        """End the connection, to make it anew after a while."""
        assert self.child is not None  # noqa: S101 - for the type checker
        self.child.kill()
        with contextlib.suppress(OSError):
            self.child.communicate()
        self.child, self.read, self.need = None, b"", None
        self.answers.clear()
        now = time.monotonic()
        self.lost_at = now if self.up else self.lost_at
        self.again_at, self.up = now + self.pause, False
        self.pause = min(_LATER_S, 2 * self.pause)


def _packed(folder: RunFolder) -> list[tuple[str, int, str | None]]:
    """Return the files that were laid for a run, not what it has written: path, mode, text."""
    found: list[tuple[str, int, str | None]] = [(each, 0, None) for each in WRITTEN]
    for path, folders, names in os.walk(folder.path):
        inside = os.path.relpath(path, folder.path)
        folders[:] = [each for each in folders if inside != "." or each not in (*WRITTEN, POOL)]
        for name in names:
            each = os.path.normpath(os.path.join(inside, name))
            if each not in _OWN:
                with open(folder.file(each), encoding="utf-8", errors="surrogateescape") as file:
                    found.append((each, os.fstat(file.fileno()).st_mode & 0o777, file.read()))
    return found
