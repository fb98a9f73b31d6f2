"""What the guard does once its rank is forked: keeps its log, tells how it is, passes signals on.

Standard library only: copied into the run's folder beside bootstrap.py. Nothing in here is loaded
before the rank has been forked, nor in the rank itself.

Why a line to the supervisor: on other nodes it can signal no process, and a shared file system
shows a file late. Records go there as lines of JSON, numbers of signals come back, a byte each; 0
says that the rank's end is known and that the guard may leave. Why ``ranks/N.json`` otherwise:
launch.sh run by hand has no supervisor, and a network may fail.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import threading
import time

TYPE_CHECKING = False  # typing's own costs 3 ms
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from typing import Any

_LOST = 4096  # bytes of a log that are told over the line
_CONNECT_S = 30.0  # tried for so long, if the rank lives so long
_ATTEMPT_S = 5.0
_ANSWER_S = 10.0  # what a supervisor may take to answer that it knows of the end
_QUIET_S = 60  # after which the kernel asks whether the other end still lives


def secret_values(names: list[str]) -> list[bytes]:
    """Return the values to mask in the log: each line of each secret, longest first."""
    values = [os.environb.get(name.encode(), b"") for name in names]
    # To mask less than four bytes would only garble the log.
    parts = {part for value in values for part in value.splitlines() if len(part) >= 4}
    return sorted(parts, key=len, reverse=True)


class Relay:
    """Copies a pipe into a log, both file descriptors, with each of ``secrets`` masked."""

    def __init__(self, source: int, log: int, secrets: list[bytes]) -> None:
        self.source, self.log, self.secrets, self.held = source, log, secrets, b""
        self.last = self.lost = b""  # the end of all, and of what a full disk did not take
        self.bell, self.ring = os.pipe()
        self.copying = threading.Thread(target=self.run, daemon=True)

    def end(self) -> None:
        """Have all copied that is in the pipe; processes that the rank left may hold it open."""
        os.write(self.ring, b"!")
        self.copying.join(timeout=10.0)  # a disk that hangs is not waited for

    def run(self) -> None:
        """Copy until the pipe ends or, after the bell, nothing comes for a second."""
        watched = [self.source, self.bell]
        while ready := select.select(watched, (), (), None if self.bell in watched else 1.0)[0]:
            if self.source not in ready:
                watched.remove(self.bell)
                continue
            if not (read := os.read(self.source, 1 << 16)):
                break
            data = self.held + read
            for secret in self.secrets:
                data = data.replace(secret, b"***")
            # What may be the beginning of a secret waits for the rest of it.
            cut = len(data) - max((_overlap(data, each) for each in self.secrets), default=0)
            self.held = data[cut:]
            self._keep(data[:cut])
        self._keep(self.held)

    def _keep(self, data: bytes) -> None:
        self.last = (self.last + data)[-_LOST:]
        # A full disk costs log lines, never the training: the rank must not block on its pipe.
        with contextlib.suppress(OSError):
            while data:
                data = data[os.write(self.log, data) :]
        self.lost = (self.lost + data)[-_LOST:]


def _overlap(data: bytes, secret: bytes) -> int:
    ends = range(min(len(data), len(secret) - 1), 0, -1)
    return next((n for n in ends if data.endswith(secret[:n])), 0)


class Line:
    """The line to the supervisor: PORT:TOKEN, or PORT:TOKEN:S where S seconds of silence end it."""

    def __init__(self, address: str, hosts: list[str], heed: Callable[[int], None]) -> None:
        port, token, silence_s = f"{address}:0".split(":")[:3]
        self.port, self.hosts, self.heed, self.silence_s = int(port), hosts, heed, int(silence_s)
        self.waiting = token.encode() + b"\n"
        self.socket: socket.socket | None = None
        self.lock = threading.Lock()
        self.hurry = threading.Event()  # there is no time for another attempt
        self.over = threading.Event()
        self.released = False  # the other end has said 0: it knows all that it must

    def run(self) -> None:
        """Connect, then hear what comes until the line ends or 0 comes."""
        try:
            line = self._connect()
            with self.lock:
                self.socket = line
                self._send()
            while not self.released and (data := line.recv(64)):
                for number in filter(None, data):
                    self.heed(number)
                self.released = 0 in data
        except OSError:
            pass  # without the line the training goes on
        finally:
            self.over.set()

    def _connect(self) -> socket.socket:
        import socket  # noqa: PLC0415 - 2 ms, while the rank starts

        end = time.monotonic() + _CONNECT_S
        pause = 0.1
        while True:
            for host in self.hosts:
                with contextlib.suppress(OSError):
                    line = socket.create_connection((host, self.port), timeout=_ATTEMPT_S)
                    line.settimeout(None)
                    keep_alive(line, self.silence_s)
                    return line
            if self.hurry.wait(pause) or time.monotonic() > end:
                raise TimeoutError
            pause = min(2 * pause, 2.0)

    def send(self, entry: dict[str, Any]) -> bool:
        """Send a record, as soon as there is a connection; return False if the line is over."""
        with self.lock:
            self.waiting += json.dumps(entry).encode() + b"\n"
            with contextlib.suppress(OSError):
                self._send()
            return not self.over.is_set()

    def _send(self) -> None:
        if self.socket is not None:
            data, self.waiting = self.waiting, b""
            self.socket.sendall(data)


def keep_alive(line: socket.socket, silence_s: int) -> None:
    """Have the kernel end a line whose other end is silent, after ``silence_s`` where given."""
    import socket  # noqa: PLC0415

    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, silence_s // 2 or _QUIET_S)
    if silence_s:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, silence_s // 6 or 1)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * silence_s)


class Guard:
    """The process that starts one rank, keeps its log, and tells how it ended."""

    def __init__(self, folder: str, rank: int, pid: int = 0, noted: Sequence[int] = ()) -> None:
        """Begin the record of ``rank``, and the line if there is a supervisor.

        ``pid``: the forked rank, if it was; ``noted``: the signals that this process has blocked.
        """
        self.folder, self.pid, self.noted = folder, pid, noted  # pid 0: not to be signalled
        self.told, self.signals = list[int](), list[int]()  # by the supervisor; to all of us
        self.signalling, self.filing = threading.Lock(), threading.Lock()
        self.entry: dict[str, Any] = {"rank": rank, "host": os.uname().nodename}
        self.entry |= {"pid": pid or os.getpid(), "guard": os.getpid(), "started": time.time()}
        names = os.environ.get("LAUNCHER_CONTROL_HOST") or "127.0.0.1"
        # srun's own address too: names of nodes need not be known to every node.
        hosts = [*names.split(","), os.environ.get("SLURM_LAUNCH_NODE_IPADDR", "")]
        address = os.environ.get("LAUNCHER_CONTROL")
        self.line = Line(address, [each for each in hosts if each], self._heed) if address else None
        if self.line:
            self.listening = threading.Thread(target=self._listen, daemon=True)
            self.listening.start()

    def keep(self, source: int, refusal: int, secrets: list[str]) -> int:
        """Wait for the rank; return the exit status to leave with.

        ``source``: the pipe of its output; ``refusal``: the pipe of why it cannot run the script.
        """
        # Before anything of the rank can be seen: who ends the run must know that there is a rank,
        # and a line takes its time.
        self._file()
        self._tell()
        relay = Relay(source, self._log(), secret_values(secrets))
        relay.copying.start()
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with self.signalling:  # from here on, its number may become another process's
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            self.pid = 0
        self.entry |= {"ended": time.time(), "signals": self._came()}
        os.set_blocking(refusal, False)  # a process that it left may hold the other end
        with contextlib.suppress(BlockingIOError):
            if reason := os.read(refusal, 4096):
                self.entry["reason"] = reason.decode("utf-8", "replace")
        relay.end()
        if relay.lost:
            self.entry["lost"] = relay.lost.decode("utf-8", "replace")
        self.entry |= {"status": code} if code >= 0 else {"signal": -code}
        if code:  # who judges may be on another machine
            self.entry["last"] = relay.last.decode("utf-8", "replace")
        self._leave()
        if self.line and self.line.silence_s and not self.line.released:
            self.listening.join(2 * _ANSWER_S)  # it ends us, and mpirun's daemon
        return code if code >= 0 else 128 - code

    def refuse(self, status: int, reason: str) -> int:
        """Tell that no rank was started, and why; return ``status``."""
        self.entry |= {"ended": time.time(), "signals": [], "status": status, "reason": reason}
        self._leave()
        return status

    def _listen(self) -> None:
        assert self.line is not None  # noqa: S101 - for the type checker
        self.line.run()
        if not self.line.released:
            self.entry["alone"] = True
            self._file()
            if self.line.silence_s and self.line.socket is not None and self.pid:
                # Its supervisor's host is lost: nobody else ends the rank, and mpirun's daemon.
                self._heed(signal.SIGTERM)
                time.sleep(_ANSWER_S)
                os.kill(os.getppid(), signal.SIGKILL)  # and so us, and the rank

    def _tell(self) -> bool:
        """Send the record, or write it; return whether it was sent."""
        if self.line is not None and self.line.send(self.entry):
            return True
        self._file()
        return False

    def _leave(self) -> None:
        """Tell of the end, and wait until that is known.

        While a run is stopped, mpirun would kill all ranks once one of them ends: the first to end
        waits, so that the others have their grace period.
        """
        if not self._tell() or self.line is None:
            return
        self.line.hurry.set()
        while not self.line.over.wait(_ANSWER_S) and signal.SIGTERM in self.told:
            pass
        if not self.line.released:
            self._file()

    def _file(self) -> None:
        path = os.path.join(self.folder, "ranks", f"{self.entry['rank']}.json")
        with self.filing, contextlib.suppress(OSError):
            with open(path + ".new", "w", encoding="utf-8") as file:
                file.write(json.dumps(self.entry))  # at once, unlike dump: a thread may add to it
            os.replace(path + ".new", path)

    def _heed(self, number: int) -> None:
        """Pass a signal on to the rank, not to its workers: they may be needed to save its work."""
        self.told.append(number)
        with self.signalling:
            if number == signal.SIGUSR1 and self.pid:
                # The end is near: a script that does not handle that goes on, unharmed.
                if not _catches(self.pid, number):
                    return
                self.entry["heard"] = True
            if self.pid and number not in self._came():
                with contextlib.suppress(OSError):
                    os.kill(self.pid, number)

    def _came(self) -> list[int]:
        """Return the signals that this process got: the scheduler sent them to the rank, too."""
        while self.noted and (came := signal.sigtimedwait(self.noted, 0)):
            self.signals.append(came.si_signo)
        return self.signals[:]

    def _log(self) -> int:
        """Return the rank's log, opened; our own output where a full disk does not let us."""
        path = os.path.join(self.folder, "logs", f"rank-{self.entry['rank']}.log")
        try:
            log = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError:
            return 2
        restart = os.environ.get("LAUNCHER_RESTART_COUNT", "")
        if restart.isdigit() and int(restart):
            size = os.fstat(log).st_size
            broken = "\n" if size and os.pread(log, 1, size - 1) != b"\n" else ""
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            mark = f"{broken}--- restart {restart} on {self.entry['host']}, {now} ---\n"
            with contextlib.suppress(OSError):
                os.write(log, mark.encode())
        return log


def _catches(pid: int, number: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", encoding="utf-8") as file:
        caught = next((line for line in file if line.startswith("SigCgt:")), "SigCgt: 0")
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)
    return False
