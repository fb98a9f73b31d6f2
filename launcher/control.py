"""The supervisor's end of the line to the guards of all ranks.

Standard library only. Every guard connects, says the token, and sends records of its rank as lines
of JSON; numbers of signals go back, a byte each, and 0 when the end of its rank is known.

Why the records are kept in memory as well as in ``ranks/``: a full disk must not make a rank that
ended look as if it ran. Why ``start`` apart: before the step is forked there is to be no thread.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import selectors
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from launcher.guard import keep_alive
from launcher.store import write_atomically

if TYPE_CHECKING:
    from launcher.store import RunFolder

_LOOPBACK = "127.0.0.1"
_LONGEST = 1 << 16  # a record is far shorter
_HELLO_S = 10.0  # for a new connection to say the token
_LOST_S = 5.0  # since a line broke off, until its rank counts as lost
_BACKLOG = 4096  # ranks that may come at once


class _Guard:
    """One connection, and what is known of its rank."""

    def __init__(self, line: socket.socket) -> None:
        self.line = line
        self.read = b""
        self.since = time.monotonic()
        self.known = False  # it has said the token
        self.rank = -1
        self.ended = False

    def say(self, number: int) -> None:
        """Send a byte; a guard that does not take it is lost anyway."""
        with contextlib.suppress(OSError):
            self.line.send(bytes([number]))


class Control:
    """Hears of the ranks of one run, and tells them signals. Any thread may call it."""

    def __init__(
        self,
        folder: RunFolder,
        *,
        several_nodes: bool,
        addresses: tuple[str, ...] = (),
        silence_s: int = 0,
    ) -> None:
        """Listen, on every interface if ``several_nodes``; OSError when there is no port to be had.

        ``addresses``: of this node, beside its names. ``silence_s``: that end a line; 0: for good.
        Records that lie in ``ranks/`` already count: forget those of an earlier attempt first.
        """
        self._folder = folder
        self._token = os.urandom(16).hex()
        self._lock = threading.Lock()  # of all that follows
        self._ranks: dict[int, dict[str, Any]] = {}
        self._guards: set[_Guard] = set()
        self._unwritten: set[int] = set()
        self._missed: set[int] = set()  # records that could not be written
        self._told: list[int] = []
        self._released = False
        self._silence_s = silence_s
        self._end: float | None = None  # when to wait no longer for what is still to come
        # A node's name for itself may be unknown to the others, or Slurm's name to the resolver.
        names = (*addresses, os.environ.get("SLURMD_NODENAME", ""), os.uname().nodename)
        self._hosts = ",".join(filter(None, dict.fromkeys(names))) if several_nodes else _LOOPBACK
        address = ("" if several_nodes else _LOOPBACK, 0)
        self._server = socket.create_server(address, backlog=_BACKLOG)
        self._server.setblocking(False)
        self._port = self._server.getsockname()[1]
        self._bell, self._ring = os.pipe()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def variable(self) -> str:
        """Return the value of LAUNCHER_CONTROL for the ranks. Not for argv: the token is secret."""
        silence = f":{self._silence_s}" if self._silence_s else ""
        return f"{self._port}:{self._token}{silence}"

    def environment(self) -> dict[str, str]:
        """Return the variables by which guards find this line."""
        return {"LAUNCHER_CONTROL": self.variable, "LAUNCHER_CONTROL_HOST": self._hosts}

    def start(self) -> None:
        """Begin to hear, in a thread, if we do not yet; until then the guards' words wait."""
        if self._thread.ident is None:
            self._thread.start()

    def tell(self, number: int) -> None:
        """Have every rank that has not ended signalled, those that are still to come as well."""
        with self._lock:
            if number not in self._told:
                self._told.append(number)
            for guard in self._guards:
                if guard.known and not guard.ended:
                    guard.say(number)

    def release(self) -> None:
        """Let the guards go whose ranks have ended since SIGTERM was told, and those to follow."""
        with self._lock:
            self._released = True
            for guard in self._guards:
                self._answer(guard)

    def ranks(self) -> list[dict[str, Any]]:
        """Return what is known of each rank that has been heard of, by rank."""
        with self._lock:
            found = dict(self._ranks)
            heard = {guard.rank for guard in self._guards}
        heard |= {rank for rank, entry in found.items() if "ended" in entry}
        # A guard that has no line writes its record itself.
        with contextlib.suppress(OSError):
            for name in os.listdir(self._folder.file("ranks")):
                rank, _, kind = name.partition(".")
                if kind == "json" and rank.isdigit() and int(rank) not in heard:
                    path = self._folder.file("ranks", name)
                    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
                        found[int(rank)] = {**found.get(int(rank), {}), **json.load(file)}
        return [dict(found[rank]) for rank in sorted(found)]

    def lost(self) -> dict[str, Any]:
        """Return the record of a rank whose line broke off before its end was told; {} if none."""
        with self._lock:
            before = time.time() - _LOST_S
            lost = (each for each in self._ranks.values() if each.get("gone", before) < before)
            return dict(next(lost, {}))

    def close(self, timeout_s: float = 1.0) -> None:
        """Release all, hear what is still on its way, and end the lines."""
        self.release()
        with self._lock:
            self._end = time.monotonic() + timeout_s
            if self._ring >= 0:
                os.write(self._ring, b"!")
        if self._thread.ident is None:
            self._hang_up()
        else:
            self._thread.join(timeout_s + 1.0)  # a file system may hold it up

    def _run(self) -> None:
        try:
            while self._round():
                pass
            with self._lock:
                self._unwritten, self._missed = self._missed, set()
            while self._unwritten:
                self._write_one()
        finally:
            # Whatever happens: a guard whose line ends goes on by itself.
            self._hang_up()

    def _hang_up(self) -> None:
        with self._lock:
            if self._ring < 0:
                return
            for guard in self._guards:
                guard.line.close()
            self._guards.clear()
            self._selector.close()
            self._server.close()
            os.close(self._bell)
            os.close(self._ring)
            self._ring = -1

    def _round(self) -> bool:
        """Hear what has come; write a record when nothing has. Return False at the end."""
        ready = self._selector.select(self._patience())
        for key, _ in ready:
            if key.fileobj is self._server:
                self._accept()
            elif isinstance(key.data, _Guard):
                self._hear(key.data)
            else:
                os.read(self._bell, 64)
        now = time.monotonic()
        for guard in [each for each in self._guards if not each.known]:
            if now > guard.since + _HELLO_S:
                self._drop(guard)
        if not ready and self._unwritten:
            self._write_one()
        elif not ready and self._end is not None:
            return bool(self._guards) and now < self._end
        return True

    def _patience(self) -> float | None:
        """Return for how long to wait for words; None: until they come."""
        if self._unwritten:
            return 0.0
        if self._end is not None:
            return min(0.1, max(0.0, self._end - time.monotonic())) if self._guards else 0.0
        return None if all(each.known for each in self._guards) else 1.0

    def _accept(self) -> None:
        try:
            line, _ = self._server.accept()
        except OSError as error:
            if error.errno == errno.EMFILE:
                _allow_more_files()
            return
        line.setblocking(False)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(line, self._silence_s)
        guard = _Guard(line)
        with self._lock:
            self._guards.add(guard)
        self._selector.register(line, selectors.EVENT_READ, guard)

    def _drop(self, guard: _Guard) -> None:
        self._selector.unregister(guard.line)
        with self._lock:
            self._guards.discard(guard)
            if self._silence_s and guard.rank >= 0 and not guard.ended:
                self._ranks[guard.rank]["gone"] = time.time()
            guard.line.close()

    def _hear(self, guard: _Guard) -> None:
        try:
            data = guard.line.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, guard.read = (guard.read + data).split(b"\n")
        fine = bool(data) and len(guard.read) < _LONGEST
        for line in lines:
            fine = fine and (self._note(guard, line) if guard.known else self._greet(guard, line))
        if not fine:
            self._drop(guard)

    def _greet(self, guard: _Guard, word: bytes) -> bool:
        """Return whether ``word`` is the token; a rank that comes late learns what was told."""
        with self._lock:
            guard.known = word == self._token.encode()
            for number in self._told if guard.known else ():
                guard.say(number)
        return guard.known

    def _note(self, guard: _Guard, line: bytes) -> bool:
        """Keep a record; return False when it is none."""
        try:
            entry = json.loads(line)
            rank = int(entry["rank"])
        except (ValueError, TypeError, KeyError):
            return False
        with self._lock:
            self._ranks[rank] = entry
            self._unwritten.add(rank)
            guard.rank = rank
            guard.ended = "ended" in entry
            self._answer(guard)
        return True

    def _answer(self, guard: _Guard) -> None:
        """Let a guard leave whose rank has ended, unless it is to wait for the others."""
        if guard.ended and (self._released or signal.SIGTERM not in self._told):
            guard.say(0)

    def _write_one(self) -> None:
        """Write a record into ``ranks/``, for whoever reads the folder."""
        with self._lock:
            rank = self._unwritten.pop()
            entry = self._ranks[rank]
            lost = all(guard.rank != rank for guard in self._guards)
        if lost and "ended" not in entry:
            return  # its guard writes by itself, and knows more
        try:
            os.makedirs(self._folder.file("ranks"), exist_ok=True)
            write_atomically(self._folder.file("ranks", f"{rank}.json"), json.dumps(entry))
        except OSError:
            self._missed.add(rank)  # a full disk: once more at the end


def _allow_more_files() -> None:
    """Raise our limit of open files as far as it goes: a connection a rank needs it."""
    import resource  # noqa: PLC0415 - a thousand ranks

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        time.sleep(0.1)  # they wait, until others leave
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
