"""One a job, on its first node: runs launch.sh, keeps the run's state, handles signals.

Standard library only, in a session of its own: neither the terminal nor the submitting process
ends it. SIGTERM tells it to cancel the run.

Why signals are waited for, not caught: one loop sees the step's end, a signal, the time limit and
the next heartbeat in the order in which they come, and no handler runs in between.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

from launcher import process
from launcher.job import RunState
from launcher.observe import HEARTBEAT_S, observe, this_process
from launcher.store import RunFolder, Store, last_lines

if TYPE_CHECKING:
    from launcher.process import Running

_WATCHED = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_STEP_S = 0.05  # between two looks at ranks that are ending
_FAREWELL_S = 2.0  # for mpirun to end after its ranks have


class Supervisor:
    """Runs the step of one run and tells how it went."""

    def __init__(self, folder: RunFolder) -> None:
        """Read the run's record; raise StoreError or StateError when that cannot be done."""
        self.folder = folder
        self.record = folder.record()
        self.started = time.monotonic()
        self.stopped: RunState | None = None  # why we ended the step, if we did

    def run(self) -> RunState:
        """Run the step to its end, record the outcome, and return it."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self.folder.event(RunState.RUNNING, **this_process())
        os.makedirs(self.folder.file("logs"), exist_ok=True)
        with open(self.folder.file("logs", "launch.log"), "ab", buffering=0) as log:
            try:
                step, relayed = self._start(log)
            except OSError as error:
                log.write(f"launcher: launch.sh cannot be started: {error}\n".encode())
                self._prepare_for_the_end()
                return self._finish(127)
            process.adopt_orphans()
            self._prepare_for_the_end()
            self._watch(step)
            _sweep()
            if relayed is not None:
                relayed.join(timeout=1.0)
            self._tidy(log)
        return self._finish(step.returncode)

    def _start(self, log: IO[bytes]) -> tuple[Running, threading.Thread | None]:
        """Start launch.sh; where there are secrets, a thread keeps them out of its log."""
        env = {"MASTER_PORT": free_port()} if self.record.dist == "mpi" else {}
        words = ("bash", self.folder.file("launch.sh"))
        if not self.record.secrets:
            return process.start(words, log=log, env={**os.environ, **env}, dies_with_us=True), None
        from launcher.bootstrap import Relay, secret_values  # noqa: PLC0415

        source, output = os.pipe()
        with open(output, "wb") as pipe:
            step = process.start(words, log=pipe, env={**os.environ, **env}, dies_with_us=True)
        relay = Relay(source, log.fileno(), secret_values(list(self.record.secrets)))
        thread = threading.Thread(target=relay.run, daemon=True)
        thread.start()
        return step, thread

    def _prepare_for_the_end(self) -> None:
        # Now, while the ranks start: by the end of a long run our own files may be gone.
        from launcher import record, snapshot  # noqa: PLC0415

        self.remove_unchanged = snapshot.remove_unchanged
        self.record_outcome = record.record_outcome

    def _watch(self, step: Running) -> None:
        while step.poll() is None:
            _beat(self.folder)
            received = signal.sigtimedwait(_WATCHED, self._patience())
            if self._overdue():
                self._stop(step, RunState.TIMED_OUT)
            elif received is not None and received.si_signo != signal.SIGCHLD:
                self._stop(step, RunState.CANCELLED)

    def _patience(self) -> float:
        limit = self.record.time_s
        left = HEARTBEAT_S if limit is None else self.started + limit - time.monotonic()
        return max(0.0, min(HEARTBEAT_S, left))

    def _overdue(self) -> bool:
        limit = self.record.time_s
        return limit is not None and time.monotonic() >= self.started + limit

    def _stop(self, step: Running, state: RunState) -> None:
        """End the step: SIGTERM to each rank, a grace period, then SIGKILL to what is left.

        The ranks are told one by one and mpirun last: it gives ranks a quarter of a second.
        """
        self.stopped = state
        with contextlib.suppress(OSError):
            open(self.folder.file("stopping"), "wb").close()
        if self._end_ranks(step, time.monotonic() + self.record.grace_s):
            # All have ended: their guards, which wait for that, leave, and mpirun after them.
            self._forget_stopping()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(step.pid, signal.SIGTERM)
        end = time.monotonic() + _FAREWELL_S
        while step.poll() is None and time.monotonic() < end:
            signal.sigtimedwait(_WATCHED, _STEP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(step.pid, signal.SIGKILL)
        step.wait()
        self._forget_stopping()

    def _forget_stopping(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.folder.file("stopping"))

    def _end_ranks(self, step: Running, end: float) -> bool:
        """Return whether all ranks ended, each told by SIGTERM; at ``end`` they are killed.

        Only the rank itself is told: its workers would die before it has saved what they made.
        """
        told: set[int] = set()
        again = False
        while step.poll() is None:
            ranks = self.folder.ranks()
            left = [rank["pid"] for rank in ranks if "ended" not in rank]
            if again or time.monotonic() >= end:
                for pid in left:
                    _kill_group_of(pid)
                return False
            for pid in set(left) - told:
                told.add(pid)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGTERM)
            if not left:
                return len(ranks) == self.record.world_size
            received = signal.sigtimedwait(_WATCHED, _STEP_S)
            again = received is not None and received.si_signo != signal.SIGCHLD
        return False

    def _tidy(self, log: IO[bytes]) -> None:
        """Remove the source files that the run did not change; what it wrote stays."""
        try:
            self.remove_unchanged(
                git_dir=self.record.git_dir,
                index=self.folder.file("code.index"),
                worktree=self.folder.file("code"),
            )
        except Exception as error:  # noqa: BLE001 - a run's result does not hang on its tidying
            log.write(f"launcher: code/ was not tidied up: {error}\n".encode())

    def _finish(self, status: int) -> RunState:
        """Write the outcome: into the run's commit, its last event and the index."""
        outcome = judge(self.folder, status, self.stopped)
        ended = time.time()
        self._commit(outcome, ended)
        state = RunState(outcome.pop("state"))
        self.folder.event(state, **outcome)
        Store(os.path.dirname(self.folder.path)).add_to_index(observe(self.folder))
        return state

    def _commit(self, outcome: dict[str, Any], ended: float) -> None:
        started = ended - (time.monotonic() - self.started)
        shown = ", ".join(
            f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in outcome["metrics"].items()
        )
        message = (
            f"run {self.folder.id} ({self.record.name}): {outcome['state']} "
            f"after {ended - started:.1f} s{': ' if shown else ''}{shown}\n\n{outcome['reason']}"
        )
        try:
            self.record_outcome(
                self.record.git_dir,
                self.folder.id,
                {**outcome, "started": started, "ended": ended},
                message.strip() + "\n",
            )
        except Exception as error:  # noqa: BLE001 - the run folder still holds the outcome
            with open(self.folder.file("logs", "launch.log"), "ab") as log:
                log.write(f"launcher: the outcome was not committed: {error}\n".encode())


def judge(folder: RunFolder, status: int, stopped: RunState | None) -> dict[str, Any]:
    """Return the outcome: state, exit status, reason, the first rank that failed, metrics.

    ``status`` is launch.sh's; ``stopped`` the state to give when the supervisor ended the run.
    """
    ranks = folder.ranks()
    ended = [rank for rank in ranks if rank.get("status", 0) or "signal" in rank]
    # A rank that was sent a signal followed another one, which mpirun had seen fail.
    ended.sort(key=lambda rank: (bool(rank["signals"]), rank["ended"]))
    failed = dict(ended[0]) if ended else {}
    outcome: dict[str, Any] = {"exit_status": status, "failed": {}, "reason": ""}
    outcome["metrics"] = folder.last_metrics()
    if failed:
        number = failed.get("signal", 0)
        how = signal_name(number) if number else f"exit status {failed['status']}"
        which = f"rank {failed['rank']} on {failed['host']} failed first"
        reason = f"{which if ranks[1:] else 'the script failed'}: {how}"
        outcome["exit_status"] = failed.get("status") or 128 + number
        logs = [f"rank-{failed['rank']}.log"]
    else:
        logs = ["launch.log", "rank-0.log"]
        reason = "the ranks could not be started or did not end well: " + (
            f"exit status {status} of launch.sh" if status else "none left a word"
        )
    if stopped is not None:
        reasons = {RunState.CANCELLED: "", RunState.TIMED_OUT: "the time limit was reached"}
        outcome["exit_status"] = outcome["exit_status"] if failed or not ranks else 0
        return {**outcome, "state": stopped.value, "reason": reasons[stopped]}
    if status == 0 and ranks and not failed:
        return {**outcome, "state": RunState.SUCCEEDED.value}
    failed["last_lines"] = [line for name in logs for line in last_lines(folder.file("logs", name))]
    return {**outcome, "state": RunState.FAILED.value, "reason": reason, "failed": failed}


def signal_name(number: int) -> str:
    """Return ``SIGSEGV`` for 11; ``signal 37`` where a number has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def free_port() -> str:
    """Return a TCP port that is free on this machine now."""
    import socket  # noqa: PLC0415 - several ranks only

    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


def _kill_group_of(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(os.getpgid(pid), signal.SIGKILL)


def _sweep() -> None:
    """Kill every process that the step left behind; as their subreaper we have them all.

    Other supervisors stay: a script may have submitted runs of its own.
    """
    while left := process.descendants(os.getpid(), but="/launcher/supervise.py"):
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def _told(folder: RunFolder) -> bool:
    """Return whether a byte comes on standard input before its end; beat meanwhile."""
    while not select.select([0], [], [], HEARTBEAT_S)[0]:
        _beat(folder)
    return bool(os.read(0, 1))


def _beat(folder: RunFolder) -> None:
    with contextlib.suppress(OSError), open(folder.file("heartbeat"), "wb"):
        pass  # a full disk must not end the training


def main() -> int:
    """Supervise the run whose folder is the first argument.

    ``--when-told``: begin when a byte comes on standard input; end when it ends without one. Our
    start then overlaps with the recording of the run, and a submit that dies starts nothing.
    """
    folder = RunFolder(sys.argv[1])
    if "--when-told" in sys.argv and not _told(folder):
        return 0
    try:
        state = Supervisor(folder).run()
    except Exception as error:
        # Whatever happens, the run must not look as if it ran for ever.
        folder.event(RunState.FAILED, exit_status=1, reason=f"the supervisor failed: {error!r}")
        raise
    return 0 if state is RunState.SUCCEEDED else 1
