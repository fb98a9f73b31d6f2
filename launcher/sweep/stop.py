"""End the runs of a sweep: those that wait by one call, those that run all at once."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from launcher.errors import LaunchError, StateError
from launcher.job import RunState
from launcher.run import PATIENCE_S, given_up
from launcher.scheduler import scheduler
from launcher.sweep import heal
from launcher.sweep.status import SweepLooks

if TYPE_CHECKING:
    from collections.abc import Collection

    from launcher.scheduler import Open
    from launcher.sweep.status import Point
    from launcher.sweep.store import SweepFolder

_POLL_S = 0.1
_AGAIN_S = 5.0  # until what still waits is cancelled anew
_SHARE = 5  # times as long as a look took, at least, is the pause


def stop(sweep: SweepFolder, *, give_up: bool = False) -> list[Point]:
    """Return the points, once all their runs have ended; what had ended is left alone.

    Ranks have their run's ``grace_s`` between SIGTERM and SIGKILL, all of them the same one.
    StateError, when all others have ended, for runs that cannot be reached from this machine; who
    will ``give_up`` has them end here only.
    """
    heal.stop(sweep)
    looks, stopping = SweepLooks(sweep), _Stopping()
    while True:
        before = time.monotonic()
        points = looks.now()
        known = {each.entry.run: each.status for each in points if each.status}
        states = {run: status.state for run, status in known.items()}
        left = {run for run, state in states.items() if not state.final} - set(stopping.beyond)
        if not left:
            break
        runs = [run for run_id, run in looks.looks.open.items() if run_id in left]
        going = [run for run in runs if states[run.folder.id] is RunState.RUNNING]
        waiting = [run for run in runs if states[run.folder.id] is not RunState.RUNNING]
        # One that waits may start meanwhile: the next look shows it among those that run.
        stopping.cancel_waiting(waiting)
        stopping.interrupt(going)
        time.sleep(max(_POLL_S, (time.monotonic() - before) * _SHARE))
    lost = {run: why for run, why in stopping.beyond.items() if not states[run].final}
    for run, why in lost.items():
        if not give_up:
            raise StateError(
                f"{len(lost)} runs of sweep {sweep.id} go on: {known[run].reason or why}",
                hint=f"To have them end here only: launcher cancel --give-up {sweep.id}",
            )
        given_up(looks.looks.open[run], why)
    return looks.now() if lost else points


class _Stopping:
    """What has been told to whom."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()
        self._until: dict[str, float] = {}  # then a run is told again, or given up
        self._again = 0.0  # when those that wait are cancelled anew
        self.beyond: dict[str, str] = {}  # runs that are given up, and why

    def cancel_waiting(self, runs: Collection[Open]) -> None:
        """Have runs that wait cancelled, by one call for each scheduler."""
        now = time.monotonic()
        if not runs or now < self._again:
            return
        self._again = now + _AGAIN_S
        for kind in dict.fromkeys(run.record.compute for run in runs):
            kept = [run for run in runs if run.record.compute == kind]
            self.beyond |= scheduler(kind).cancel_waiting(kept)
        for run in runs:
            if now > self._until.setdefault(run.folder.id, now + 2 * PATIENCE_S):
                self.beyond[run.folder.id] = f"run {run.folder.id} still waits"

    def interrupt(self, runs: Collection[Open]) -> None:
        """Have runs ended; at once when they have had their time; give up on the third time."""
        now = time.monotonic()
        for run in runs:
            name = run.folder.id
            if self._times[name] and now < self._until[name]:
                continue
            self._times[name] += 1
            self._until[name] = now + PATIENCE_S + run.record.grace_s
            try:
                if self._times[name] > 2:
                    raise StateError(f"run {name} does not end")
                scheduler(run.record.compute).interrupt(run, waits=False)
            except LaunchError as error:
                self.beyond[name] = error.message
