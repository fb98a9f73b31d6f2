"""A launched run, from Python: its state, logs, metrics; wait for it, cancel it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from launcher.errors import StateError
from launcher.follow import Tail, Waiting, refresh
from launcher.job import RunState
from launcher.observe import observe, read
from launcher.scheduler import scheduler

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.scheduler import Open
    from launcher.store import RunFolder, RunStatus

_POLL_S = 0.05  # between two looks, at first
PATIENCE_S = 20.0  # for a scheduler to end a job, beside the ranks' own time


class Run:
    """A handle on one run. It holds nothing: every call looks at the run's folder."""

    def __init__(self, folder: RunFolder) -> None:
        """Name the run by its folder."""
        self.folder = folder
        self.id = folder.id

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.state.value}>"

    @property
    def status(self) -> RunStatus:
        """Return all that is known of the run now."""
        return observe(self.folder)

    @property
    def state(self) -> RunState:
        """Return where the run is now."""
        return self.status.state

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Return what the script reported, oldest first."""
        refresh(self.folder)
        return self.folder.metrics()

    def logs(self, rank: int | None = None) -> str:
        """Return the output so far: of one rank, or of all, each line with its rank.

        ValueError when the run has no such rank.
        """
        world_size = self.folder.record().world_size
        if rank is not None and not 0 <= rank < world_size:
            raise ValueError(f"run {self.id} has ranks 0 to {world_size - 1}, not {rank}")
        refresh(self.folder)
        tail = Tail(self.folder, world_size=world_size, rank=rank)
        parts: list[bytes] = []
        tail.drain(parts.append)
        return b"".join(parts).decode("utf-8", "replace")

    def fetch(self, *paths: str, say: Callable[[str], object] = lambda _: None) -> list[str]:
        """Return where files of the run's outputs and checkpoints are here, brought if need be.

        ``paths``: files, folders or patterns, such as ``checkpoints/last.pt``; none: all that the
        run has now. SubmitError: a host is not reached. StoreError: there is no such file.
        """
        from launcher.results import fetch  # noqa: PLC0415 - most runs are waited for only

        return [each.place for each in fetch(self.folder, paths, say)]

    def wait(
        self, timeout_s: float | None = None, say: Callable[[str], object] = lambda _: None
    ) -> RunState:
        """Return the final state; raise TimeoutError when it is not reached in ``timeout_s``.

        ``say`` gets why the run waits in a queue, as long as it does.
        """
        waiting = Waiting(say)
        begun = time.monotonic()
        while not (state := (status := self.status).state).final:
            waiting.look(status)
            waited = time.monotonic() - begun
            if timeout_s is not None and waited >= timeout_s:
                why = f": {status.reason}" if status.reason else ""
                raise TimeoutError(f"run {self.id} is {state.value} after {timeout_s} s{why}")
            time.sleep(min(_POLL_S + waited / 50, 1.0))
        return state

    def cancel(self, *, give_up: bool = False) -> RunState:
        """End the run, ranks included, and return its final state; that of a run that ended stays.

        Ranks have the run's ``grace_s`` between SIGTERM and SIGKILL; so has what is left of a run
        that failed or is lost. StateError when the run cannot be reached from this machine; who
        will ``give_up`` has it end here only, and has the rest of it ended by a later call.
        """
        try:
            if (run := read(self.folder)).given_up and not give_up:
                scheduler(run.record.compute).interrupt(run, waits=False)
                return _conclude(run, "given up, and ended later")
            state = self.state
            if not state.final:
                self.interrupt()
            elif state in (RunState.FAILED, RunState.LOST):
                self._end_left()
        except StateError as error:
            if not give_up:
                raise
            run = read(self.folder)
            state = RunState(run.last["state"])
            return state if state.final else given_up(run, error.message)
        grace_s = self.folder.record().grace_s
        try:
            return self.wait(grace_s + PATIENCE_S)
        except TimeoutError:
            self.interrupt()  # at once, this time
            return self.wait(PATIENCE_S)

    def interrupt(self) -> None:
        """Have the run ended, at once when told twice; do not wait."""
        state = observe(self.folder).state
        if not state.final:
            run = _started(self.folder)
            waits = state is not RunState.RUNNING
            scheduler(run.record.compute).interrupt(run, waits=waits)

    def _end_left(self) -> None:
        run = read(self.folder)
        if run.started is not None:
            scheduler(run.record.compute).end_left(run)


def given_up(run: Open, why: str) -> RunState:
    """Return how a run that cannot be reached ends here: it is cancelled, as far as is known."""
    later = f"launcher cancel {run.folder.id} ends what it may still run, once that is reached"
    return _conclude(run, f"given up: {later}; {why}", given_up=True)


def _conclude(run: Open, why: str, **told: Any) -> RunState:
    from launcher.outcome import cancelled  # noqa: PLC0415 - seldom
    from launcher.record import record_outcome  # noqa: PLC0415

    told |= {"reason": why}
    return cancelled(run.folder, run.record, record_outcome, started=run.started, told=told)


def _started(folder: RunFolder) -> Open:
    """Return the run; wait a moment for one that is just on its way to its scheduler."""
    for _ in range(100):
        run = read(folder)
        if RunState(run.last["state"]) is not RunState.SUBMITTING:
            break
        time.sleep(_POLL_S)
    return run
