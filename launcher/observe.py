"""What state a run is in: its own events, and whether the process that keeps them is alive.

Why a process is known by its start time too: ids of processes are used again.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError
from launcher.job import RunState
from launcher.store import RunFolder, RunStatus, Store

if TYPE_CHECKING:
    from launcher.job import RunRecord

HEARTBEAT_S = 5.0
# On another machine only the heartbeat tells; shared file systems may show it late.
_SILENT_S = 90.0
# Between the submitting process's end and the supervisor's first word.
_HANDOVER_S = 10.0


def this_process() -> dict[str, Any]:
    """Return what identifies this process, on this machine and after it."""
    return {"host": os.uname().nodename, "pid": os.getpid(), "born": _born(os.getpid())}


def _born(pid: int) -> str | None:
    """Return when ``pid`` started, in this boot's ticks; None when it is gone or a zombie."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read(8).decode()
        if fields[0] not in (b"Z", b"X"):
            return f"{boot}-{int(fields[19])}"
    return None


def alive(process: dict[str, Any], heartbeat: str) -> bool:
    """Return whether ``process`` lives; by the age of the file ``heartbeat`` on another host."""
    if process.get("host") == os.uname().nodename:
        return _born(int(process["pid"])) == process.get("born")
    with contextlib.suppress(OSError):
        return time.time() - os.stat(heartbeat).st_mtime < _SILENT_S
    return False


def observe(folder: RunFolder) -> RunStatus:
    """Return the status of one run, from its folder; raise StoreError or StateError."""
    record = folder.record()
    events = folder.events()
    started = [each for each in events if each["state"] == RunState.RUNNING.value]
    last = events[-1] if events else {"state": RunState.SUBMITTING.value}
    state = RunState(last["state"])
    if state.final:
        return _status(record, state, started, last)
    if not alive(last, folder.file("heartbeat")):
        # The supervisor may have ended between our two looks: its word counts.
        last = (folder.events() or [last])[-1]
        state = RunState(last["state"])
        if state is RunState.SUBMITTING and time.time() - float(last.get("time", 0)) < _HANDOVER_S:
            return _status(record, state, started, {})
        if not state.final:
            lost = {"reason": _lost(state, last)}
            return _status(record, RunState.LOST, started, lost, folder.last_metrics())
        return _status(record, state, started, last)
    return _status(record, state, started, {}, folder.last_metrics())


def _lost(state: RunState, last: dict[str, Any]) -> str:
    what = "submitting process" if state is RunState.SUBMITTING else "supervisor"
    where = f" on {last['host']}" if "host" in last else ""
    return f"the {what}{where} (process {last.get('pid', '?')}) is gone and left no result"


def _status(
    record: RunRecord,
    state: RunState,
    started: list[dict[str, Any]],
    last: dict[str, Any],
    metrics: dict[str, Any] | None = None,
) -> RunStatus:
    return RunStatus(
        id=record.id,
        name=record.name,
        state=state,
        compute=record.compute,
        host=record.host,
        world_size=record.world_size,
        created=record.created,
        started=started[0]["time"] if started else None,
        ended=last.get("time") if state.final else None,
        exit_status=last.get("exit_status"),
        reason=last.get("reason", ""),
        failed=last.get("failed", {}),
        metrics=last.get("metrics", {}) if metrics is None else metrics,
    )


def observe_all(store: Store) -> list[RunStatus]:
    """Return the status of every run, oldest first; folders that are no runs are left out."""
    index = store.index()
    found = []
    for run_id in store.ids():
        status = index.get(run_id)
        if status is None:
            with contextlib.suppress(LaunchError):
                status = observe(store.folder(run_id))
        if status is not None:
            found.append(status)
    return found
