"""One start of a run's job, as its supervisor sees it: how long it may take, and what follows.

Why a checkpoint decides after a time limit: a job that has saved nothing since it started would
run into the same limit for ever; one that has gets further each time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher.job import RunState
from launcher.pool.cores import LEASED
from launcher.slurm.inside import Allocation
from launcher.slurm.refusal import passes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.job import RunRecord
    from launcher.store import RunFolder

MARGIN_S = 5.0  # before the scheduler's own end of a job, to write down how it went
_MINUTE_S = 60.0
_PAUSES_S = (1, 2, 4, 8, 16)  # between two tries to have a job queued again
_TIME_LIMIT = "time limit"
# What the scheduler starts again by itself, where the job allows it.
_LOST_PLACE = ("preempted", "node failure", "requeued")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a step was ended before its own end. ``state``: PENDING when the job starts again."""

    state: str
    why: str
    reason: str = ""
    requeued: bool = False  # the scheduler starts the job again by itself


class Attempt:
    """The first start of a run's job, or a later one. Times are time.monotonic()'s."""

    def __init__(self, folder: RunFolder, record: RunRecord, allocation: Allocation | None) -> None:
        """Begin now. ``allocation``: the scheduler's; None on a machine of our own."""
        self.folder = folder
        self.record = record
        self.allocation = allocation
        self.restart = allocation.restarts if allocation else 0
        self.since = _newest(folder.file("checkpoints"))  # of what earlier attempts saved
        limit = record.time_s
        self.stop_at = None if limit is None else time.monotonic() + limit
        self.warn_at: float | None = None
        if allocation:
            self._leave_time()

    @classmethod
    def of(cls, folder: RunFolder, record: RunRecord) -> Attempt:
        """Return the attempt that this process supervises."""
        scheduled = record.compute == "slurm"
        return cls(folder, record, Allocation.from_environment(os.environ) if scheduled else None)

    def _leave_time(self) -> None:
        """Set when ranks are stopped and when they are told before, so that all ends in time."""
        if self.stop_at is not None:
            self.stop_at -= self.record.grace_s + MARGIN_S
            self.warn_at = self.stop_at - self.record.signal_s

    def look(self) -> None:
        """Ask the scheduler for the job's end, where the configuration has no limit of its own."""
        end = self.allocation.deadline() if self.allocation and self.stop_at is None else None
        if end is not None:
            self.stop_at = time.monotonic() + end - time.time()
            self._leave_time()

    def claims(self) -> bool:
        """Return whether the run is this job's; a job that is not the first cancels itself.

        There are two where an sbatch that seemed to fail had queued one after all.
        """
        path = self.folder.file("job")
        if os.environ.get(LEASED) == self.folder.id:
            return True  # its pool has claimed it for us
        if self.allocation is None:
            return True
        first = mine = self.allocation.job_id
        new = f"{path}-{mine}"
        # Whole at once: a file that is still empty would tell the other job nothing.
        with contextlib.suppress(OSError):  # it is there; or a disk is full, or has no links
            with open(new, "w", encoding="utf-8") as file:
                file.write(mine)
            os.link(new, path)
        with contextlib.suppress(OSError):
            os.unlink(new)
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            first = file.read()
        if first not in ("", mine):
            self.allocation.cancel()
            return False
        return True

    def where(self) -> dict[str, Any]:
        """Return what an event tells of the place."""
        if self.allocation is None:
            return {}
        here = self.allocation
        return {"job_id": here.job_id, "restart": self.restart, "nodes": list(here.nodes)}

    def addresses(self) -> tuple[str, ...]:
        """Return by what other hosts reach this one, where that is known."""
        hosts = self.record.hosts.hosts if self.record.hosts else ()
        chosen = os.environ.get("LAUNCHER_HOSTS", "")  # by the pool, first this one
        return (chosen.partition(",")[0],) if chosen else tuple(each.address for each in hosts[:1])

    def environment(self) -> dict[str, str]:
        """Return what the ranks are told of this attempt."""
        ranks = {"MASTER_PORT": _free_port()} if self.record.dist == "mpi" else {}
        return {"LAUNCHER_RESTART_COUNT": str(self.restart), **ranks}

    def refused(self) -> Ending | None:
        """Return why this attempt must not start: cancelled, or as many as the run may have."""
        if self.allocation and self._cancelled():
            return Ending(state=RunState.CANCELLED.value, why="cancelled")
        if self.restart <= self.record.max_restarts:
            return None
        reasons = [event.get("reason", "") for event in self.folder.events()]
        last = next((each for each in reversed(reasons) if each), "")
        reason = f"the scheduler has started it again {self.restart} times, and "
        reason += f"compute.max_restarts={self.record.max_restarts}"
        reason += f" (last: {last})" if last else ""
        return Ending(state=RunState.FAILED.value, why="refused", reason=reason)

    def _cancelled(self) -> bool:
        return os.path.exists(self.folder.file("cancel"))

    def over(self) -> bool:
        """Return whether the time limit, less what ending takes, is reached."""
        if self.stop_at is None or time.monotonic() < self.stop_at:
            return False
        end = self.allocation.deadline() if self.allocation else None
        left = 0.0 if end is None else end - time.time() - self.record.grace_s - MARGIN_S
        # Slurm counts whole minutes; what is more was given by an administrator meanwhile.
        if left > _MINUTE_S + 1:
            self.stop_at = time.monotonic() + left
            return False
        return True

    def warns(self, number: int) -> bool:
        """Return whether the ranks are to be told that the end is near; ``number``: a signal.

        Slurm sends its SIGUSR1 up to a minute early: where we know the end, we tell it in time.
        """
        now = time.monotonic()
        if self.warn_at is not None and now >= self.warn_at:
            return True
        early = self.warn_at is not None and now >= self.warn_at - _MINUTE_S - 5
        return number == signal.SIGUSR1 and not early

    def time_limit(self) -> Ending:
        """Return the ending of a run that takes too long."""
        reason = "the time limit was reached"
        return Ending(state=RunState.TIMED_OUT.value, why=_TIME_LIMIT, reason=reason)

    def lost(self, rank: dict[str, Any]) -> Ending:
        """Return the ending of a run one of whose nodes is silent."""
        known = self.record.hosts.hosts if self.record.hosts else ()
        host = next((each.name for each in known if each.hostname == rank["host"]), rank["host"])
        reason = f"{host} no longer answers, where rank {rank['rank']} ran"
        return Ending(state=RunState.FAILED.value, why="lost", reason=reason)

    def why(self) -> Ending:
        """Return what a SIGTERM means: someone cancels the run, or what the scheduler says."""
        cancelled = Ending(state=RunState.CANCELLED.value, why="cancelled")
        if self.allocation is None or self._cancelled():
            return cancelled
        told = self.allocation.why()
        if told.kind == "cancelled":
            return cancelled
        if told.kind == _TIME_LIMIT:
            return self.time_limit()
        if told.kind not in _LOST_PLACE:  # it could not be asked: later it will tell who asks
            return Ending(state=RunState.PENDING.value, why=told.kind)
        reason = f"node {told.node} failed" if told.node else f"the job was {told.kind}"
        goes_on = self.restart < self.record.max_restarts
        state = RunState.PENDING if goes_on else RunState.FAILED
        return Ending(state=state.value, why=told.kind, reason=reason, requeued=goes_on)

    def taken(self, ranks: Sequence[dict[str, Any]]) -> Ending | None:
        """Return why the scheduler ended the ranks before it told us, if it did.

        In a partition with a GraceTime, a preempted job's ranks are told that much earlier.
        """
        if self.allocation is None or all(
            signal.SIGTERM not in rank.get("signals", ()) for rank in ranks
        ):
            return None
        ending = replace(self.why(), requeued=False)
        return ending if ending.why in (*_LOST_PLACE, _TIME_LIMIT) else None

    def again(
        self,
        ending: Ending | None,
        result: dict[str, Any],
        ranks: Sequence[dict[str, Any]],
        *,
        warned: bool,
    ) -> dict[str, Any]:
        """Return the details of the event that the job starts again; {} when it does not.

        ``result``: the outcome so far, whose reason may be added to. ``warned``: ranks were told
        that the end is near; a rank that caught that and left wants to go on.
        """
        if self.allocation is None:
            return {}
        if ending is not None and ending.why in _LOST_PLACE:
            return self._again(ending.reason) if ending.state == RunState.PENDING.value else {}
        if ending is None:
            left = warned and any(rank.get("heard") for rank in ranks)
            reason = "the script saved its work when it was told that the end is near"
            return self._again(reason) if left and self.restart < self.record.max_restarts else {}
        if ending.why != _TIME_LIMIT:
            return {}
        if self.restart >= self.record.max_restarts:
            if self.restart:
                result["reason"] += f", after {self.restart} restarts (compute.max_restarts)"
        elif _newest(self.folder.file("checkpoints")) > self.since:
            return self._again(ending.reason)
        else:
            result["reason"] += (
                ", and nothing was written to LAUNCHER_CHECKPOINT_DIR: it was not started again"
            )
        return {}

    def _again(self, reason: str) -> dict[str, Any]:
        return {**self.where(), "restart": self.restart + 1, "reason": reason}

    def requeue(self, ending: Ending | None) -> str:
        """Have the job started again; return why that failed, "" if it did not."""
        if self.allocation is None or (ending is not None and ending.requeued):
            return ""
        for pause in (*_PAUSES_S, 0):
            if self._cancelled():
                return "it was cancelled"
            error = self.allocation.requeue()
            # A controller that does not answer cannot end the job either.
            if not error or not passes(error):
                break
            time.sleep(pause)
        return error or ""

    def leave(self, state: RunState, ending: Ending | None) -> None:
        """Have the job cancelled, as its run was, or when it must not be started once more."""
        stays = ending is not None and ending.why in _LOST_PLACE
        if self.allocation and (state is RunState.CANCELLED or stays):
            self.allocation.cancel()


def _free_port() -> str:
    """Return a TCP port that is free on this machine now."""
    import socket  # noqa: PLC0415 - several ranks only

    with socket.socket() as probe:
        probe.bind(("", 0))
        return str(probe.getsockname()[1])


def _newest(folder: str) -> float:
    """Return when the newest file below ``folder`` was written; 0.0 where there is none."""
    times = [0.0]
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                times.append(os.stat(os.path.join(path, name)).st_mtime)
    return max(times)
