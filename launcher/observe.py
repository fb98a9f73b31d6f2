"""What state a run is in: its own events, and what its scheduler says of those that go on.

Why an end that only the scheduler saw is written down: it forgets its jobs, many within minutes.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import Any

from launcher.errors import LaunchError
from launcher.job import RunState
from launcher.scheduler import Open, View, scheduler
from launcher.store import RunFolder, RunStatus, Store

# Between the submitting process's end and the supervisor's first word.
_HANDOVER_S = 10.0


def observe(folder: RunFolder) -> RunStatus:
    """Return the status of one run; raise StoreError or StateError."""
    run = read(folder)
    return _ended(run) or _status_of_open([run])[0]


def observe_all(store: Store) -> list[RunStatus]:
    """Return the status of every run, oldest first; folders that are no runs are left out."""
    found = store.index()
    ids = store.ids()
    going: list[Open] = []
    for run_id in ids:
        if run_id not in found:
            with contextlib.suppress(LaunchError):
                run = read(store.folder(run_id))
                status = _ended(run)
                if status is None:
                    going.append(run)
                else:
                    found[run_id] = status
    found |= {status.id: status for status in _status_of_open(going)}
    there = [found[run_id] for run_id in ids if run_id in found]
    return sorted(there, key=lambda status: status.created)  # ids have whole seconds


def read(folder: RunFolder) -> Open:
    """Return a run as its folder tells of it."""
    return Open(folder=folder, record=folder.record(), events=folder.events())


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
    state = RunState(run.last["state"])
    if view.holds is not False:
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
    result = judge(run.folder, run.folder.ranks(), 0, view.state.value)
    result |= {"reason": view.reason, "job_id": view.job_id, **(view.details or {})}
    started = _started(run)
    if os.stat(run.folder.path).st_uid == os.getuid():
        conclude(run.folder, run.record, result, record_outcome, started=started, insist=False)
        run = read(run.folder)
    return _ended(run) or _status(run, {**run.last, **result, "time": time.time()}, {})


def _explained(run: Open, status: RunStatus) -> RunStatus:
    """Return the status of a run that waits, with the reason as a sentence."""
    if status.state is not RunState.PENDING or not status.reason:
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
        started=_started(run),
        ended=last.get("time") if state.final else None,
        exit_status=last.get("exit_status") if state.final else None,
        reason=last.get("reason", ""),
        advice=last.get("advice", ""),
        failed=last.get("failed", {}),
        metrics=run.folder.last_metrics() if metrics is None else metrics,
        job_id=str(run.told("job_id") or ""),
        nodes=tuple(details.get("nodes") or run.told("nodes") or ()),
        restarts=int(run.told("restart") or 0),
    )


def _started(run: Open) -> float | None:
    return next((each["time"] for each in run.events if each["state"] == "RUNNING"), None)
