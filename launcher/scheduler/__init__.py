"""Who keeps jobs: starts them, knows where they are, ends them. One for each kind of compute.

A compute says in words what is to be done, and is pure; its scheduler does it. All that reads runs
asks here once for all of them, whatever their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from launcher.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.environment.locate import Prefix
    from launcher.job import GroupPlan, JobSpec, LaunchPlan, RunRecord, RunState
    from launcher.snapshot import Snapshot
    from launcher.store import RunFolder
    from launcher.sweep.store import GroupFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A run that has not ended as far as its own events tell."""

    folder: RunFolder
    record: RunRecord
    events: list[dict[str, Any]]

    @property
    def last(self) -> dict[str, Any]:
        """Return the last event, but for what a submit writes after the job has begun."""
        late = ("SUBMITTING", "PENDING")
        begun = any(each["state"] not in late for each in self.events)
        told = (
            each
            for each in reversed(self.events)
            if not begun or each["state"] not in late or "restart" in each
        )
        return next(told, {"state": "SUBMITTING"})

    @property
    def started(self) -> float | None:
        """Return when the run began, in seconds since the epoch; None: it has not."""
        return next((each["time"] for each in self.events if each["state"] == "RUNNING"), None)

    @property
    def given_up(self) -> bool:
        """Return whether the run was ended here only: something may still run where it was."""
        return bool(self.last.get("given_up"))

    def told(self, name: str) -> Any:
        """Return what the latest event that has ``name`` says; None where none has."""
        return latest(self.events, name)


def latest(events: Sequence[dict[str, Any]], name: str) -> Any:
    """Return what the latest event that has ``name`` says; None where none has."""
    return next((each[name] for each in reversed(events) if name in each), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a scheduler says of a run.

    ``holds``: it still has the job; None: it could not be asked. ``state``: where the job is, or
    how it ended; None: the scheduler does not know better than the run's events. ``brought``: what
    the run wrote was brought here by the look.
    """

    holds: bool | None
    state: RunState | None = None
    reason: str = ""
    job_id: str = ""
    brought: bool = False
    details: dict[str, Any] | None = None  # of an end: what the outcome holds beside the state


class Start(Protocol):
    """A job on its way: prepared while the run is recorded, then let go, or taken back."""

    def provide(self, source: Snapshot, job: JobSpec, prefix: Prefix) -> str:
        """Have the environment, and the code, where the ranks look for it; return its lock.

        ProvisionError, SubmitError: it cannot be built, or be brought there.
        """

    def go(self) -> None:
        """Let the job start; raise SubmitError when it cannot."""

    def report(self) -> None:
        """Say what is known of its start."""

    def undo(self) -> bool:
        """Leave nothing of it; return whether that is certain."""


class Scheduler(Protocol):
    """A keeper of jobs."""

    def begin(
        self,
        folder: RunFolder,
        plan: LaunchPlan,
        env: Mapping[str, str],
        say: Callable[[str], None],
    ) -> Start:
        """Return the start of the job that ``plan`` describes; ``env``: all its variables."""

    def queue(
        self,
        group: GroupFolder,
        plan: GroupPlan,
        env: Mapping[str, str],
        say: Callable[[str], None],
        lock: int,
    ) -> None:
        """Queue the runs of a group by one call; raise SubmitError when that cannot be done.

        The group's events tell of it: SUBMITTING before the call, PENDING after it. ``lock``: an
        open file that what is called holds until its end, should we die meanwhile.
        """

    def find(self, group: GroupFolder) -> bool:
        """Return whether a group is queued whose submit was killed; nothing is under way."""

    def look(self, runs: Sequence[Open]) -> dict[str, View]:
        """Return what is known of each run, by id; one question for all."""

    def refresh(self, runs: Sequence[Open]) -> None:
        """Have the runs' folders show what they have written elsewhere, as far as that is known."""

    def cancel_waiting(self, runs: Sequence[Open]) -> dict[str, str]:
        """Have runs cancelled that have not started, as far as they still have not.

        Returns why that could not be asked for, by run.
        """

    def interrupt(self, run: Open, *, waits: bool) -> None:
        """Have the run ended; do not wait. StateError when it cannot be reached from here.

        ``waits``: its job is not running at the moment.
        """

    def end_left(self, run: Open) -> None:
        """End what is left of a run that failed or is lost; StateError when that is not certain."""


def scheduler(kind: str) -> Scheduler:
    """Return the keeper of the jobs of a compute; PlanError when there is none yet."""
    if kind == "slurm":
        from launcher.scheduler.slurm import Slurm  # noqa: PLC0415 - local runs need it not

        return Slurm()
    if kind == "local":
        from launcher.scheduler.local import Local  # noqa: PLC0415

        return Local()
    if kind == "ssh":
        from launcher.scheduler.ssh import Ssh  # noqa: PLC0415

        return Ssh()
    raise PlanError(f"compute={kind}: there is nothing that keeps its jobs")
