"""What state a run is in: its own events, and what its scheduler says of those that go on.

Why an end that only the scheduler saw is written down: it forgets its jobs, many within minutes.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.job import RunState
from launcher.scheduler import Open, View, scheduler
from launcher.store import RunFolder, RunStatus, Store, last_lines
from launcher.sweep.store import Groups, link_log

if TYPE_CHECKING:
    from collections.abc import Iterable

# Between the submitting process's end and the supervisor's first word.
_HANDOVER_S = 10.0
_STARTERS = ("launch.log", "slurm.log")  # of who starts the ranks
_FIRST_S = 60.0  # in which a rank begins, unless something is wrong


def observe(folder: RunFolder) -> RunStatus:
    """Return the status of one run; raise StoreError or StateError."""
    run = read(folder)
    return _ended(run) or _status_of_open([run])[0]


def observe_all(store: Store) -> list[RunStatus]:
    """Return the status of every run, oldest first; folders that are no runs are left out."""
    there = observe_some(store, store.ids())
    return sorted(there.values(), key=lambda status: status.created)  # ids have whole seconds


def observe_some(store: Store, run_ids: Iterable[str]) -> dict[str, RunStatus]:
    """Return the statuses of these runs, by id; what is no run is left out."""
    return Looks(store, run_ids).now()


class Looks:
    """Looks at the same runs, again and again, each with one question a scheduler.

    Why apart from ``observe``: of ten thousand runs most have ended or wait. What has ended is not
    looked at again, and a file that has not grown is not read again.
    """

    def __init__(self, store: Store, run_ids: Iterable[str]) -> None:
        """Name the runs, and find those that are known to have ended."""
        self._store = store
        self._ids: list[str] = []
        self._ended: dict[str, RunStatus] = {}
        self._read: dict[str, tuple[int, Open]] = {}  # with the size of its events
        self.open: dict[str, Open] = {}  # runs that had not ended at the last look
        self.add(run_ids)

    def add(self, run_ids: Iterable[str]) -> None:
        """Look at these too."""
        new = dict.fromkeys(run_ids)
        if new:
            self._ids = list(dict.fromkeys((*self._ids, *new)))
            self._ended |= self._store.index(new)

    def now(self) -> dict[str, RunStatus]:
        """Return the runs' statuses, by id, in their order; what is no run is left out."""
        groups = Groups(self._store.path)
        self.open = {}
        for run_id in self._ids:
            if run_id not in self._ended:
                with contextlib.suppress(LaunchError, OSError):
                    self._look(run_id, groups)
        judged = {each.id: each for each in _status_of_open(list(self.open.values()))}
        for status in judged.values():
            if status.state.final and status.state is not RunState.LOST:
                self._end(status)
        known = judged | self._ended
        return {run_id: known[run_id] for run_id in self._ids if run_id in known}

    def _look(self, run_id: str, groups: Groups) -> None:
        folder = self._store.folder(run_id)
        size = 0
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(folder.file("events.jsonl")).st_size
        before, run = self._read.pop(run_id, (-1, None))
        if not size and before > 0:
            return  # its submit was interrupted, and it is taken away
        if run is None:
            run = Open(folder=folder, record=folder.record(), events=folder.events())
        elif size != before:
            run = replace(run, events=folder.events())
        self._read[run_id] = (size, run)
        run = replace(run, events=groups.joined(run.events))
        status = _ended(run)
        if status is None:
            self.open[run_id] = run
        else:
            self._end(status)

    def _end(self, status: RunStatus) -> None:
        self._ended[status.id] = status
        self._read.pop(status.id, None)
        self.open.pop(status.id, None)


def read(folder: RunFolder, groups: Groups | None = None) -> Open:
    """Return a run as its folder, and the group that it was queued with, tell of it."""
    groups = groups or Groups(os.path.dirname(folder.path))
    return Open(folder=folder, record=folder.record(), events=groups.joined(folder.events()))


def index(folder: RunFolder) -> None:
    """Add a run that ended to its store's index."""
    status = _ended(read(folder))
    if status is not None:
        Store(os.path.dirname(folder.path)).add_to_index(status)


def _ended(run: Open) -> RunStatus | None:
    return _status(run, run.last, {}) if RunState(run.last["state"]).final else None


def _status_of_open(runs: list[Open]) -> list[RunStatus]:
    """Return the status of runs whose events tell no end, after one question a scheduler."""
    views: dict[str, View] = {}
    for kind in dict.fromkeys(run.record.compute for run in runs):
        views |= scheduler(kind).look([run for run in runs if run.record.compute == kind])
    return [_judge(run, views[run.folder.id]) for run in runs]


def _judge(run: Open, view: View) -> RunStatus:
    run = read(run.folder) if view.brought else run
    state = RunState(run.last["state"])
    if view.holds is not False and not state.final:
        last = {**run.last, "reason": view.reason, "state": (view.state or state).value}
        return _explained(run, _status(run, last, view.details or {}))
    # It may have ended, and said so, between our two looks: its word counts.
    run = read(run.folder)
    state = RunState(run.last["state"])
    if state.final:
        return _status(run, run.last, {})
    if view.state is not None:
        return _settle(run, view)
    if state is RunState.SUBMITTING and time.time() - run.last.get("time", 0) < _HANDOVER_S:
        return _status(run, run.last, {})
    reason = view.reason or _lost(state, run.last)
    return _status(run, {**run.last, "state": "LOST", "reason": reason, "time": None}, {})


def _lost(state: RunState, last: dict[str, Any]) -> str:
    what = "submitting process" if state is RunState.SUBMITTING else "supervisor"
    where = f" on {last['host']}" if "host" in last else ""
    return f"the {what}{where} (process {last.get('pid', '?')}) is gone and left no result"


def _settle(run: Open, view: View) -> RunStatus:
    """Return an end that only the scheduler saw; if the run is ours, write it down."""
    from launcher.outcome import conclude, judge  # noqa: PLC0415 - seldom
    from launcher.record import record_outcome  # noqa: PLC0415

    assert view.state is not None  # noqa: S101 - for the type checker
    link_log(run.folder)
    result = judge(run.folder, run.folder.ranks(), 0, view.state.value)
    result["exit_status"] = result["exit_status"] or None  # a rank's that failed; else nobody knows
    result |= {"reason": view.reason, "job_id": view.job_id, **(view.details or {})}
    started = run.started
    # Nothing was run of one that was cancelled while it waited, so none is committed: a thousand
    # are cancelled at once.
    nothing = view.state is RunState.CANCELLED and started is None
    commit = (lambda *_: None) if nothing else record_outcome
    if os.stat(run.folder.path).st_uid == os.getuid():
        conclude(run.folder, run.record, result, commit, started=started, insist=False)
        run = read(run.folder)
    return _ended(run) or _status(run, {**run.last, **result, "time": time.time()}, {})


def _explained(run: Open, status: RunStatus) -> RunStatus:
    """Return a run's status, with a sentence where it waits in Slurm, or for its first rank."""
    if status.state is RunState.RUNNING and not status.reason:
        return replace(status, reason=_no_rank(run))
    waits = status.state is RunState.PENDING and status.reason
    if run.record.compute != "slurm" or not waits:
        return status
    from launcher.outcome import explained  # noqa: PLC0415

    given: dict[str, Any] = {
        "state": "PENDING",
        "scheduler_state": "PENDING",
        "scheduler_reason": status.reason,
    }
    given |= {"reason": run.last.get("reason", "")}
    told = explained(run.folder, run.record, {**given, "restart": status.restarts})
    return replace(status, reason=told["reason"], advice=told["advice"])


def _no_rank(run: Open) -> str:
    """Return that no rank has begun, and what was said last, where that takes long; else ""."""
    silent_s = time.time() - run.last["time"]
    if silent_s < _FIRST_S or _has_begun(run.folder):
        return ""
    logs = ((name, last_lines(run.folder.file("logs", name), 1)) for name in _STARTERS)
    said = next((f"{name} says: {lines[0]}" for name, lines in logs if lines), "nobody says why")
    since = time.strftime("%H:%M:%S", time.localtime(run.last["time"]))
    return f"no rank has begun since {since}; {said}"


def _has_begun(folder: RunFolder) -> bool:
    """Return whether a rank has; a full disk may have had room for one of the two only."""
    for name, begins in (("ranks", ""), ("logs", "rank-")):
        with contextlib.suppress(FileNotFoundError):
            if any(each.startswith(begins) for each in os.listdir(folder.file(name))):
                return True
    return False


def _status(run: Open, last: dict[str, Any], details: dict[str, Any]) -> RunStatus:
    record, state = run.record, RunState(last["state"])
    metrics = last.get("metrics") if state.final else None
    return RunStatus(
        id=record.id,
        name=record.name,
        state=state,
        compute=record.compute,
        host=record.host,
        world_size=record.world_size,
        created=record.created,
        expected=details.get("expected"),
        started=run.started,
        ended=last.get("time") if state.final else None,
        exit_status=last.get("exit_status") if state.final else None,
        reason=last.get("reason", ""),
        advice=last.get("advice", ""),
        failed=last.get("failed", {}),
        metrics=run.folder.last_metrics() if metrics is None else metrics,
        job_id=str(run.told("job_id") or ""),
        nodes=tuple(details.get("nodes") or run.told("nodes") or _hosts(run)),
        restarts=int(run.told("restart") or 0),
    )


def _hosts(run: Open) -> list[str]:
    hosts = run.record.hosts
    return run.told("hosts") or ([each.name for each in hosts.hosts] if hosts else [])
