"""One a group of runs on this machine: starts them in order, as many at once as there is room for.

Standard library only, in a session of its own, as the supervisors are that it starts: each has
its own cores, and goes on when the pool is killed. What waits then is lost, and is seen to be.

Why a run is claimed first: to start it and to cancel it while it waits are for whoever makes the
file ``job`` in its folder. The supervisor inherits that file's lock: where nobody has it, and the
run has not begun, nobody is about to start it.

Why we ask again and again for cores that others have: locks cannot be waited for together. The end
of a run of our own wakes us at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher import cores, process
from launcher.job import RunState
from launcher.processes import HEARTBEAT_S, this_process
from launcher.store import RunFolder, last_lines
from launcher.sweep.store import GroupFolder

if TYPE_CHECKING:
    from launcher.cores import Lease
    from launcher.process import Running
    from launcher.store import Folder

_SOON_S, _LATER_S = 0.01, 0.2  # between two looks at what others hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A run that waits, and what it needs."""

    folder: RunFolder
    cores: int
    gpus: int
    max_parallel: int | None  # it starts while fewer runs of this pool run; None: no limit


class Pool:
    """Starts the runs of one group."""

    def __init__(self, group: GroupFolder, supervisor: tuple[str, ...]) -> None:
        """Read what is to be started, by the words ``supervisor`` and the run's folder."""
        self.group = group
        self.supervisor = supervisor
        self.waiting = deque(tasks(group))
        self.running: dict[RunFolder, Running] = {}
        self.cores = os.sched_getaffinity(0)
        gpus = cores.devices(os.environ)
        self.leases = cores.Leases(cores.folder(os.environ), sorted(self.cores), gpus)
        self.beaten = 0.0  # when we last gave a sign of life

    def run(self) -> None:
        """Start all runs, and wait for those that we started."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGCHLD,))
        pause = _SOON_S
        while self.waiting or self.running:
            self.beat()
            if self._look_after() or self._go_on():
                pause = _SOON_S
                continue
            pause = min(2 * pause, _LATER_S)
            signal.sigtimedwait((signal.SIGCHLD,), pause if self._asks() else HEARTBEAT_S)

    def beat(self) -> None:
        """Show other machines that we live."""
        if time.monotonic() >= self.beaten + HEARTBEAT_S:
            self.beaten = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk must not end the sweep
                open(self.group.file("heartbeat"), "ab").close()
                os.utime(self.group.file("heartbeat"))

    def _look_after(self) -> bool:
        """Return whether a run has ended; one that has not even begun is told to have failed."""
        ended = [folder for folder, running in self.running.items() if running.poll() is not None]
        for folder in ended:
            status = self.running.pop(folder).returncode
            if not _has_begun(folder):
                log = last_lines(folder.file("logs", "launch.log"))
                _failed(folder, status, f"the supervisor ended at once: {log}")
        return bool(ended)

    def _asks(self) -> bool:
        """Return whether a run waits for cores, and not for the end of one of ours."""
        most = self.waiting[0].max_parallel if self.waiting else 0
        return most is None or len(self.running) < most

    def _go_on(self) -> bool:
        """Return whether the first run that waits does so no longer."""
        if not self.waiting:
            return False
        task = self.waiting[0]
        if os.path.exists(task.folder.file("job")):
            self.leases.drop()  # they were for one that was cancelled
        elif not self._asks():
            return False
        else:
            lease = self.leases.take(task.cores, task.gpus)
            if lease is None:
                return False
            try:
                claimed = claim(task.folder)
                if claimed is not None:
                    self._start(task.folder, lease, claimed)
                    os.close(claimed)
            except OSError:  # a full disk: it may have room again
                return False
            finally:
                lease.close()
        self.waiting.popleft()
        return True

    def _start(self, folder: RunFolder, lease: Lease, claimed: int) -> None:
        """Start the run's supervisor; it inherits its cores, and holds them to its own end."""
        holds = (*lease.files, claimed)
        env = {**os.environ, cores.LEASED: folder.id}
        if lease.gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(lease.gpus)
        words = (*self.supervisor, folder.path)
        os.sched_setaffinity(0, lease.cores)
        try:
            os.makedirs(folder.file("logs"), exist_ok=True)
            with open(folder.file("logs", "launch.log"), "ab") as log:
                self.running[folder] = process.start(words, log=log, env=env, holds=holds)
        except OSError as error:
            _failed(folder, 127, f"its supervisor cannot be started: {error}")
        finally:
            os.sched_setaffinity(0, self.cores)


def tasks(group: GroupFolder) -> list[Task]:
    """Return the runs of a group and what each needs, in the order in which they start."""
    with open(group.file("group.json"), encoding="utf-8") as file:
        needs = json.load(file)["needs"]
    store = os.path.normpath(group.file(*[os.pardir] * 4))
    return [
        Task(folder=RunFolder(os.path.join(store, run_id)), **need)
        for run_id, need in zip(group.runs(), needs, strict=True)
    ]


def claim(folder: Folder) -> int | None:
    """Return the open file by which a run that waits is ours, to start or to cancel.

    None: another was first, or the run was removed. PermissionError when it is another user's.
    """
    try:
        file = os.open(folder.file("job"), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except (FileExistsError, FileNotFoundError):
        return None
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def is_on_its_way(folder: Folder) -> bool:
    """Return whether who has claimed a run lives: its supervisor, or one who cancels it."""
    with contextlib.suppress(FileNotFoundError), open(folder.file("job"), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _has_begun(folder: RunFolder) -> bool:
    late = (RunState.SUBMITTING.value, RunState.PENDING.value)
    return any(each["state"] not in late for each in folder.events())


def _failed(folder: RunFolder, status: int, reason: str) -> None:
    with contextlib.suppress(OSError):  # of a run that was removed
        folder.event(RunState.FAILED, exit_status=status, reason=reason)


def main() -> int:
    """Start the runs of the group whose folder is the first argument; the others are a supervisor.

    We begin when a byte comes on standard input, and end when that ends without one: a submit that
    dies starts nothing. Files that we inherit are held until the group's events tell of us.
    """
    pool = Pool(GroupFolder(sys.argv[1]), tuple(sys.argv[2:]))
    if not os.read(0, 1):
        return 0
    pool.beat()
    pool.group.event(RunState.PENDING, **this_process())
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    pool.run()
    return 0
