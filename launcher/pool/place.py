"""A machine that gives leases and starts supervisors: this one. Standard library only.

Each supervisor is in a session of its own, has its own cores and GPUs, and goes on when we end.

Why the line of a run of several machines is a port at which nobody answers: the supervisor inherits
it, as it does its lease. Connections to it stand as long as it lives, and the kernel ends them when
it does not, however it ended; nobody has to say so.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from launcher import process
from launcher.guard import keep_alive
from launcher.locks import use
from launcher.pool import cores
from launcher.pool.claim import failed, has_begun, is_on_its_way
from launcher.processes import HEARTBEAT_S
from launcher.store import RunFolder, last_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.pool.cores import Lease
    from launcher.process import Running

_CONNECT_S = 5.0
_WATCH_S = 1.0  # between two looks at runs that are no children of ours
_ALL = 128  # machines of a run


class LostError(OSError):
    """The connection to a machine ended: what was asked for may be done there or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine of a pool's list. ``order``: pools that share machines must order them alike."""

    name: str = ""  # to whoever configured it
    address: str = ""  # to the others
    order: str = ""
    slots: int | None = None  # leased in place of cores
    gpus: int | None = None  # leased by index; None: those that are there
    here: bool = False  # it is this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a run wants of one machine: ``slots`` where it has some, else ``cores``."""

    slots: int = 1
    cores: int
    gpus: int


class Place(Protocol):
    """A machine, as a pool sees it."""

    name: str
    address: str  # for the others
    order: str

    @property
    def up(self) -> bool:
        """Return whether it can be asked now."""

    @property
    def silent(self) -> bool:
        """Return whether it has not been heard of for so long that nothing is known of it."""

    @property
    def patience(self) -> float:
        """Return for how long to wait, in seconds, before it is looked at again."""

    def files(self) -> list[int]:
        """Return the files that can be read when something happens there."""

    def use(self, paths: Sequence[str]) -> None:
        """Have what runs will need there in use, so that nobody removes it, until we end."""

    def ask(self, need: Need) -> None:
        """Queue for so much; what was asked for before, if it is not the same, is dropped."""

    def has(self) -> bool:
        """Return whether what was asked for is ours now."""

    def drop(self) -> None:
        """Give back what is ours, or our place in the queue, and take back the line."""

    def line(self) -> int:
        """Return the port of the line of the run that is started next."""

    def keep(self, folder: RunFolder, address: str, port: int, start: str) -> None:
        """Have what is ours kept for a start until its line ends, and nothing of it lives there.

        LostError: ask later; OSError: there is no such line.
        """

    def start(self, folder: RunFolder, env: Mapping[str, str], claimed: int) -> None:
        """Start the run's supervisor, which holds what is ours to its own end; ``env`` is added."""

    def ended(self) -> list[str]:
        """Return the folders of runs that have ended since; hear what there is to be heard."""

    def missed(self) -> list[str]:
        """Return the folders of runs that were not started there after all, and never will be."""

    def close(self) -> None:
        """Let it go; what runs there goes on."""


class Here:
    """This machine."""

    up, silent = True, False

    def __init__(self, supervisor: tuple[str, ...], host: Host) -> None:
        """Name the words that start a supervisor, and what this machine is to others."""
        self.name, self.address, self.order = host.name, host.address, host.order
        self.slots = host.slots
        self.supervisor = supervisor
        self.cores = os.sched_getaffinity(0)
        gpus = cores.devices(os.environ)
        if host.gpus is not None:
            gpus = [str(each) for each in range(host.gpus)]
        self.leases = cores.Leases(cores.share(os.environ), self.cores, gpus, host.slots)
        self.uses: list[int | None] = []  # open
        self.need: Need | None = None
        self.lease: Lease | None = None
        self.listens: socket.socket | None = None
        self.running: dict[str, Running | None] = {}  # by folder; None: it is not our child

    @property
    def patience(self) -> float:
        """Return for how long to wait until others may have given something back."""
        if self.need and not self.lease:
            return self.leases.patience
        return _WATCH_S if None in self.running.values() else HEARTBEAT_S

    def files(self) -> list[int]:
        """Return []: the end of a child is a signal."""
        return []

    def use(self, paths: Sequence[str]) -> None:
        """Have it in use, as far as it is there."""
        self.uses = [use(path) for path in paths]

    def ask(self, need: Need) -> None:
        """Queue for so much."""
        if need != self.need:
            self.drop()
            self.need = need

    def has(self) -> bool:
        """Return whether what was asked for is ours now."""
        if self.need and self.lease is None:
            units = self.need.cores if self.slots is None else self.need.slots
            self.lease = self.leases.take(units, self.need.gpus)
        return self.lease is not None

    def drop(self) -> None:
        """Give all back that no run has."""
        self.leases.drop()
        if self.lease:
            self.lease.close()
        if self.listens:
            self.listens.close()
        self.need = self.lease = self.listens = None

    def line(self) -> int:
        """Return the port of a line, which ends with the run that is started next."""
        self.listens = socket.create_server(("", 0), backlog=_ALL)
        return int(self.listens.getsockname()[1])

    def keep(self, folder: RunFolder, address: str, port: int, start: str) -> None:
        """Have a program of its own hold what is ours."""
        assert self.lease is not None  # noqa: S101 - for the type checker
        with socket.create_connection((address, port), timeout=_CONNECT_S) as line:
            line.settimeout(None)
            keep_alive(line, folder.record().silence_s)
            cores.keep(folder, line, self.lease.files, start)
        self.drop()

    def start(self, folder: RunFolder, env: Mapping[str, str], claimed: int) -> None:
        """Start the run's supervisor on the cores that are ours."""
        assert self.lease is not None  # noqa: S101 - for the type checker
        lines = (self.listens.fileno(),) if self.listens else ()
        values = {**os.environ, **env, cores.LEASED: folder.id}
        if self.lease.gpus:
            values["CUDA_VISIBLE_DEVICES"] = ",".join(self.lease.gpus)
        os.sched_setaffinity(0, self.lease.cores or self.cores)
        try:
            os.makedirs(folder.file("logs"), exist_ok=True)
            with open(folder.file("logs", "launch.log"), "ab") as log:
                self.running[folder.path] = process.start(
                    (*self.supervisor, folder.path),
                    log=log,
                    env=values,
                    holds=(*self.lease.files, claimed, *lines),
                )
        except OSError as error:
            failed(folder, 127, f"its supervisor cannot be started: {error}")
            self.watch(folder.path)
        finally:
            os.sched_setaffinity(0, self.cores)
            self.drop()

    def watch(self, path: str) -> None:
        """Tell of the end of a run that another started here."""
        self.running[path] = None

    def ended(self) -> list[str]:
        """Return the runs that have ended; one that has not even begun is told to have failed."""
        over = [path for path, running in self.running.items() if _is_over(path, running)]
        for path in over:
            running, folder = self.running.pop(path), RunFolder(path)
            if running is not None and not has_begun(folder):
                log = "\n".join(last_lines(folder.file("logs", "launch.log")))
                failed(folder, running.returncode, f"the supervisor ended at once: {log}")
        return over

    def missed(self) -> list[str]:
        """Return []: we start runs ourselves."""
        return []

    def close(self) -> None:
        """Give all back that no run has."""
        self.drop()


def _is_over(path: str, running: Running | None) -> bool:
    if running is not None:
        return running.poll() is not None
    return not is_on_its_way(RunFolder(path))


def wakes() -> int:
    """Return a file that can be read when a child of ours has ended; see ``woken``."""
    bell, ring = os.pipe()
    for each in (bell, ring):
        os.set_blocking(each, False)
    signal.set_wakeup_fd(ring, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return bell


def woken(bell: int) -> None:
    """Make ready to be woken again."""
    with contextlib.suppress(BlockingIOError):
        os.read(bell, 4096)
