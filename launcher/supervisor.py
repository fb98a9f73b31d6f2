"""One a job, on its first node: runs launch.sh, keeps the run's state, handles signals.

Standard library only, in a session of its own: neither the terminal nor the submitting process
ends it. SIGTERM ends the run: because someone cancels it, or because the scheduler says so, which
is asked why. SIGUSR1 is handed on to every rank: the end is near. Of one that is killed itself, a
program beside it (pool/keep.py) ends what ranks leave.

Why signals are waited for, not caught: one loop sees the step's end, a signal, the time limit and
the next heartbeat in the order in which they come, and no handler runs in between.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

from launcher import outcome, process
from launcher.attempt import Attempt, Ending
from launcher.control import Control
from launcher.job import RunState
from launcher.pool import cores
from launcher.processes import HEARTBEAT_S, next_signal, this_process
from launcher.store import RunFolder
from launcher.sweep.store import GroupFolder, link_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.guard import Relay
    from launcher.process import Running

_WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
_STEP_S, _KILL_S = 0.05, 1.0  # between two looks at ranks that are ending; for SIGKILL
_HEARD_S = 2.0  # for the word of a rank that has just started
_FAREWELL_S = 2.0  # for mpirun or srun to end after their ranks have
# A script may have submitted runs of its own, which stay.
_SUPERVISORS = "/launcher/supervise.py"
_BUILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "environment", "here.py")


class Supervisor:
    """Runs the step of one run and tells how it went."""

    def __init__(self, folder: RunFolder) -> None:
        """Read the run's record; raise StoreError or StateError when that cannot be done."""
        self.folder = folder
        self.record = folder.record()
        self.started = time.time()
        self.attempt = Attempt.of(folder, self.record)
        self.control = Control(
            folder,
            several_nodes=self.record.nodes > 1,
            addresses=self.attempt.addresses(),
            silence_s=self.record.silence_s,
        )
        self.warned = False  # the ranks know that the end is near
        self.ending: Ending | None = None  # why we ended the step, if we did
        self.keeper: Running | None = None  # sees our end, and then ends what the step left

    def run(self) -> RunState:
        """Run the step to its end, record how it went, and return the run's state."""
        signal.pthread_sigmask(signal.SIG_BLOCK, (*_WATCHED, signal.SIGALRM))
        if not self.attempt.claims():
            return RunState.LOST  # another job has this run
        _beat(self.folder)  # before it is said to run, for who looks from another machine
        self.folder.event(RunState.RUNNING, **this_process(), **self.attempt.where())
        outcome.keep_room(self.folder)
        os.makedirs(self.folder.file("logs"), exist_ok=True)
        self.folder.forget_ranks()
        self.ending = self.attempt.refused()
        with _log(self.folder) as log:
            status = 1 if self.ending else self._steps(log)
        self._prepare_for_the_end()  # where there was no step
        self.control.close()
        result = outcome.judge(
            self.folder, self.control.ranks(), status, self.ending.state if self.ending else ""
        )
        if self.ending:
            result["reason"] = self.ending.reason
        return self._finish(result)

    def _steps(self, log: IO[bytes]) -> int:
        """Return the exit status of the run's step, or of the build before it when that failed."""
        process.adopt_orphans()
        if os.path.exists(self.folder.file("build.json")):
            built = self._through((sys.executable, _BUILD, self.folder.path), log)
            if built or self.ending:
                return built
        return self._through(("bash", self.folder.file("launch.sh")), log, ranks=True)

    def _through(self, words: tuple[str, ...], log: IO[bytes], *, ranks: bool = False) -> int:
        """Run ``words``, which start the ``ranks`` or not, under our watch; return their status."""
        self._have_a_keeper(log)
        try:
            step, relay = self._start(words, log)
        except OSError as error:
            _note(log, f"{words[0]} cannot be started: {error}")
            self._prepare_for_the_end()
            return 127
        self._prepare_for_the_end()
        if ranks:  # the last fork, which no thread of ours must see
            self.control.start()
            # A scheduler that does not answer must not keep us from what happens here.
            threading.Thread(target=self.attempt.look, daemon=True).start()
        self._watch(step)
        if self.ending is None and step.returncode:
            self.ending = self.attempt.taken(self.control.ranks())
        process.kill_descendants(but=_SUPERVISORS)  # what keeps our leases as well
        if relay is not None:
            relay.end()
        return step.returncode

    def _have_a_keeper(self, log: IO[bytes]) -> None:
        try:
            if self.attempt.allocation is None:  # else the scheduler ends what we leave
                self.keeper = cores.keep_ours(self.folder)
        except OSError as error:  # unless we are killed, none is needed
            _note(log, f"the run's keeper cannot be started: {error}")

    def _start(self, words: tuple[str, ...], log: IO[bytes]) -> tuple[Running, Relay | None]:
        """Start the step; where there are secrets, a thread keeps them out of its log."""
        env = {**os.environ, **self.control.environment(), **self.attempt.environment()}
        env["LAUNCHER_RUN_ID"] = self.record.id
        if not self.record.secrets:
            return process.start(words, log=log, env=env, dies_with_us=True), None
        from launcher.guard import Relay, secret_values  # noqa: PLC0415

        source, output = os.pipe()
        with open(output, "wb") as pipe:
            step = process.start(words, log=pipe, env=env, dies_with_us=True)
        relay = Relay(source, log.fileno(), secret_values(list(self.record.secrets)))
        relay.copying.start()
        return step, relay

    def _prepare_for_the_end(self) -> None:
        # Now, while the ranks start: by the end of a long run our own files may be gone.
        from launcher import explain, record, snapshot  # noqa: F401, PLC0415

        self.remove_unchanged = snapshot.remove_unchanged
        self.record_outcome = record.record_outcome if self.record.hosts is None else _elsewhere

    def _watch(self, step: Running) -> None:
        while step.poll() is None:
            _beat(self.folder)
            number = next_signal(_WATCHED, self._patience())
            if self.attempt.over():
                self._stop(step, self.attempt.time_limit)
            elif self.record.silence_s and (lost := self.control.lost()):
                self._stop(step, functools.partial(self.attempt.lost, lost))
            elif self.attempt.warns(number) and not self.warned:
                self.warned = True
                self.control.tell(signal.SIGUSR1)
            elif number not in (0, signal.SIGCHLD, signal.SIGUSR1):
                self._stop(step, self.attempt.why)

    def _patience(self) -> float:
        times = [self.attempt.stop_at, None if self.warned else self.attempt.warn_at]
        left = [each - time.monotonic() for each in times if each is not None]
        return max(0.0, min(HEARTBEAT_S, *left)) if left else HEARTBEAT_S

    def _stop(self, step: Running, why: Callable[[], Ending]) -> None:
        """End the step: SIGTERM to each rank, a grace period, then SIGKILL to what is left.

        The ranks are told one by one and their starter last: mpirun gives ranks a quarter of a
        second. The scheduler is asked why meanwhile.
        """
        end = time.monotonic() + self.record.grace_s
        self.control.tell(signal.SIGTERM)
        self.ending = why()
        if not self._all_end(step, end):
            self.control.tell(signal.SIGKILL)
            # The starter would tell SIGTERM once more.
            self._all_end(step, time.monotonic() + _KILL_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(step.pid, signal.SIGTERM)
        self.control.release()
        end = time.monotonic() + _FAREWELL_S
        while step.poll() is None and time.monotonic() < end:
            next_signal(_WATCHED, _STEP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(step.pid, signal.SIGKILL)
        step.wait()

    def _all_end(self, step: Running, end: float) -> bool:
        """Return whether all ranks ended by themselves before ``end``, or a second signal."""
        heard_by = time.monotonic() + _HEARD_S
        while step.poll() is None and time.monotonic() < end:
            ranks = self.control.ranks()
            if all("ended" in rank for rank in ranks):
                if len(ranks) == self.record.world_size:
                    return True
                if time.monotonic() > heard_by:  # they never started: their starter waits for ever
                    return False
            if next_signal(_WATCHED, _STEP_S) in (signal.SIGTERM, signal.SIGINT):
                return False
        return step.poll() is not None

    def _tidy(self) -> None:
        """Remove the source files that the run did not change; what it wrote stays."""
        if self.record.hosts is not None:
            return  # the last rank of each host does it
        with contextlib.suppress(OSError):
            os.unlink(self.folder.file("code.tar"))
        try:
            self.remove_unchanged(
                git_dir=self.record.git_dir,
                index=self.folder.file("code.index"),
                worktree=self.folder.file("code"),
            )
        except Exception as error:  # noqa: BLE001 - a run's result does not hang on its tidying
            with _log(self.folder) as log:
                _note(log, f"code/ was not tidied up: {error}")

    def _finish(self, result: dict[str, Any]) -> RunState:
        """Leave the job to be started again, or conclude the run; return its state."""
        again = self.attempt.again(self.ending, result, self.control.ranks(), warned=self.warned)
        if again:
            with contextlib.suppress(OSError):  # of a full disk: the job goes on all the same
                self.folder.event(RunState.PENDING, **again)
            error = self.attempt.requeue(self.ending)
            if not error:
                return RunState.PENDING
            result |= {"state": RunState.FAILED.value} if self.ending is None else {}
            result["reason"] += f"; it could not be requeued: {error}"
        if not RunState(result["state"]).final:
            return RunState.LOST  # the scheduler has the last word
        result |= self.attempt.where()
        self._tidy()
        commit = self.record_outcome
        state = outcome.conclude(
            self.folder, self.record, result, commit, started=self.started, insist=True
        )
        self.attempt.leave(state, self.ending)
        return state


def _elsewhere(*_: object) -> None:
    """Leave the commit to who submitted the run: on a host there is no repository."""


def _log(folder: RunFolder) -> IO[bytes]:
    try:
        return open(folder.file("logs", "launch.log"), "ab", buffering=0)
    except OSError:  # a disk without room for one more file
        return open(os.devnull, "ab", buffering=0)


def _note(log: IO[bytes], text: str) -> None:
    with contextlib.suppress(OSError):  # of a full disk
        log.write(f"launcher: {text}\n".encode())


def _told(folder: RunFolder) -> bool:
    """Return whether a byte comes on standard input before its end; beat meanwhile."""
    while not select.select([0], [], [], HEARTBEAT_S)[0]:
        _beat(folder)
    return bool(os.read(0, 1))


def _beat(folder: RunFolder) -> None:
    path = folder.file("heartbeat")
    with contextlib.suppress(OSError):  # a full disk must not end the training
        if not os.path.exists(path):
            open(path, "wb").close()
        os.utime(path)  # an empty file that is truncated may keep its time on NFS


def main() -> int:
    """Supervise the run whose folder is the first argument.

    ``--task``: that is a group's folder, and the run is the one of this task of a job array.
    ``--when-told``: begin when a byte comes on standard input; end when it ends without one. Our
    start then overlaps with the recording of the run, and a submit that dies starts nothing.
    """
    folder = RunFolder(sys.argv[1])
    if "--task" in sys.argv:
        folder = GroupFolder(sys.argv[1]).run(int(os.environ["SLURM_ARRAY_TASK_ID"]))
        link_log(folder)
    if "--when-told" in sys.argv and not _told(folder):
        return 0
    try:
        state = Supervisor(folder).run()
    except Exception as error:
        # Whatever happens, the run must not look as if it ran for ever.
        with contextlib.suppress(OSError):
            folder.event(RunState.FAILED, exit_status=1, reason=f"the supervisor failed: {error!r}")
        raise
    return 0 if state in (RunState.SUCCEEDED, RunState.PENDING) else 1
