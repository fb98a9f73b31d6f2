"""A launched sweep, from Python: its runs and what they reported; wait for them, cancel them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from launcher.run import Run
from launcher.store import RunFolder
from launcher.sweep.live import polled
from launcher.sweep.status import SweepLooks, counts, points_of
from launcher.sweep.stop import stop

if TYPE_CHECKING:
    from launcher.sweep.store import SweepFolder


class LaunchedSweep:
    """A handle on one sweep. It holds nothing: every call looks at the folders."""

    def __init__(self, folder: SweepFolder) -> None:
        """Name the sweep by its folder."""
        self.folder = folder
        self.id = folder.id

    def __repr__(self) -> str:
        return f"<LaunchedSweep {self.id} {self.states}>"

    @property
    def runs(self) -> list[Run]:
        """Return the runs of its points, in their order; a point that was left out has none."""
        entries = self.folder.entries()
        return [Run(RunFolder(self.folder.run_path(each.run))) for each in entries if each.run]

    @property
    def states(self) -> dict[str, int]:
        """Return how many points are in each state, as far as any are."""
        return counts(point.state for point in points_of(self.folder))

    @property
    def points(self) -> list[dict[str, Any]]:
        """Return each point as JSON values: what varies, its run's state, times and metrics."""
        return [point.to_json() for point in points_of(self.folder)]

    def wait(self, timeout_s: float | None = None) -> dict[str, int]:
        """Return how many points ended how, once all have; TimeoutError after ``timeout_s``."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        for points in polled(SweepLooks(self.folder)):
            states = counts(point.state for point in points)
            left = any(point.status and not point.status.state.final for point in points)
            if left and end is not None and time.monotonic() >= end:
                raise TimeoutError(f"sweep {self.id} has {states} after {timeout_s} s")
        return states

    def cancel(self, *, give_up: bool = False) -> dict[str, int]:
        """End all its runs, and return how many points ended how; StateError as Run.cancel."""
        return counts(point.state for point in stop(self.folder, give_up=give_up))
