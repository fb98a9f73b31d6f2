"""One a job, on its first node: runs launch.sh, keeps the run's state, handles signals.

Standard library only, in a session of its own: neither the terminal nor the submitting process
ends it. SIGTERM tells it to cancel the run.

Why signals are waited for, not caught: one loop sees the step's end, a signal, the time limit and
the next heartbeat in the order in which they come, and no handler runs in between.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

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
                step = process.start(
                    ("bash", self.folder.file("launch.sh")),
                    log=log,
                    env={"MASTER_PORT": free_port()} if self.record.dist == "mpi" else {},
                    dies_with_us=True,
                )
            except OSError as error:
                log.write(f"launcher: launch.sh cannot be started: {error}\n".encode())
                return self._finish(127)
            process.adopt_orphans()
            self._watch(step)
            _sweep()
            self._tidy(log)
        return self._finish(step.returncode)

    def _watch(self, step: Running) -> None:
        heartbeat = self.folder.file("heartbeat")
        while step.poll() is None:
            with contextlib.suppress(OSError), open(heartbeat, "wb"):
                pass  # a full disk must not end the training
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
        self._end_ranks(step, time.monotonic() + self.record.grace_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(step.pid, signal.SIGTERM)
        end = time.monotonic() + _FAREWELL_S
        while step.poll() is None and time.monotonic() < end:
            signal.sigtimedwait(_WATCHED, _STEP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(step.pid, signal.SIGKILL)
        step.wait()

    def _end_ranks(self, step: Running, end: float) -> None:
        """Send each rank SIGTERM, once; at the time ``end``, or told to stop again, SIGKILL."""
        told: set[int] = set()
        again = False
        while step.poll() is None:
            ranks = self.folder.ranks()
            left = [rank["pid"] for rank in ranks if "ended" not in rank]
            over = again or time.monotonic() >= end
            for pid in left if over else [pid for pid in left if pid not in told]:
                told.add(pid)
                _signal_group_of(pid, signal.SIGKILL if over else signal.SIGTERM)
            if not left or over:
                return
            received = signal.sigtimedwait(_WATCHED, _STEP_S)
            again = received is not None and received.si_signo != signal.SIGCHLD

    def _tidy(self, log: Any) -> None:
        """Remove the source files that the run did not change; what it wrote stays."""
        from launcher import snapshot  # noqa: PLC0415 - while the ranks start is soon enough

        try:
            snapshot.remove_unchanged(
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
        from launcher import record  # noqa: PLC0415 - the ranks need not wait for it

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
            record.record_outcome(
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
    if stopped is not None:
        reasons = {
            RunState.CANCELLED: "cancelled",
            RunState.TIMED_OUT: "the time limit was reached",
        }
        return {**outcome, "state": stopped.value, "reason": reasons[stopped]}
    if status == 0 and not failed:
        return {**outcome, "state": RunState.SUCCEEDED.value}
    if failed:
        name = f"rank-{failed['rank']}.log"
        number = failed.get("signal", 0)
        how = signal_name(number) if number else f"exit status {failed['status']}"
        reason = f"rank {failed['rank']} on {failed['host']} failed first: {how}"
        outcome["exit_status"] = failed.get("status") or 128 + number
    else:
        name = "launch.log"
        reason = f"the ranks could not be started or did not end well: exit status {status}"
    failed["last_lines"] = last_lines(folder.file("logs", name))
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


def _signal_group_of(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(os.getpgid(pid), number)


def _sweep() -> None:
    """Kill every process that the step left behind; as their subreaper we have them all."""
    while left := process.descendants(os.getpid()):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def main() -> int:
    """Supervise the run whose folder is the first argument.

    ``--when-told``: begin when a byte comes on standard input; end when it ends without one. Our
    start then overlaps with the recording of the run, and a submit that dies starts nothing.
    """
    folder = RunFolder(sys.argv[1])
    if "--when-told" in sys.argv and not os.read(0, 1):
        return 0
    try:
        state = Supervisor(folder).run()
    except Exception as error:
        # Whatever happens, the run must not look as if it ran for ever.
        folder.event(RunState.FAILED, exit_status=1, reason=f"the supervisor failed: {error!r}")
        raise
    return 0 if state is RunState.SUCCEEDED else 1
