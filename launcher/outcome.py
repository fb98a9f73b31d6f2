"""How a run ended: judged from what its ranks, its step and its scheduler said, and recorded.

Who ends a run calls this: its supervisor, or whoever finds that the scheduler ended both.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from launcher.job import RunState
from launcher.observe import index
from launcher.store import append_line, last_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.job import RunRecord
    from launcher.store import RunFolder


_ROOM = 16 << 10  # bytes that the last event takes, at most
_KEEP_SIZE = 1  # Source: fallocate(2)


def keep_room(folder: RunFolder) -> None:
    """Have room for a run's last event, whatever fills the disk by then, where that can be had."""
    with contextlib.suppress(OSError), open(folder.file("events.jsonl"), "ab") as file:
        start, size = ctypes.c_long(file.tell()), ctypes.c_long(_ROOM)
        ctypes.CDLL(None).fallocate(file.fileno(), _KEEP_SIZE, start, size)


def judge(
    folder: RunFolder, ranks: Sequence[dict[str, Any]], status: int, stopped: str = ""
) -> dict[str, Any]:
    """Return the outcome: state, exit status, reason, the first rank that failed, metrics.

    ``ranks``: what the guards said, by rank. ``status``: launch.sh's. ``stopped``: the state to
    give when the step did not end by itself.
    """
    failed = _first_to_fail(ranks) or (_cut_off(folder, ranks) if status else {})
    outcome: dict[str, Any] = {"exit_status": status, "failed": {}, "reason": ""}
    outcome["metrics"] = folder.last_metrics()
    if failed:
        outcome["exit_status"] = failed.get("status") or 128 + failed.get("signal", 0)
    if stopped:
        outcome["exit_status"] = outcome["exit_status"] if failed or not ranks else 0
        return {**outcome, "state": stopped}
    if status == 0 or any("gone" in rank for rank in ranks):
        failed = failed or _silent(ranks)
    if status == 0 and ranks and not failed:
        return {**outcome, "state": RunState.SUCCEEDED.value}
    logs = [f"rank-{failed['rank']}.log"] if failed else ["launch.log", "rank-0.log"]
    last = [line for name in logs for line in last_lines(folder.file("logs", name))]
    told = failed.pop("last", "").splitlines()  # by its guard
    last = last or told[-20:]
    reason = _reason(failed, status, several=len(ranks) > 1)
    last += failed.get("lost", "").splitlines()
    failed = {**failed, "last_lines": last}
    return {**outcome, "state": RunState.FAILED.value, "reason": reason, "failed": failed}


def _first_to_fail(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ended = [rank for rank in ranks if rank.get("status", 0) or "signal" in rank]
    # A rank that was sent a signal followed another one, which mpirun had seen fail.
    ended.sort(key=lambda rank: (bool(rank.get("signals")), rank.get("ended", 0)))
    return dict(ended[0]) if ended else {}


def _silent(ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the first rank that went without a word of its end; mpirun may yet end well.

    One of another node comes before those that mpirun killed here for its sake.
    """
    silent = [rank for rank in ranks if "ended" not in rank]
    here = os.uname().nodename
    silent.sort(key=lambda rank: (rank["host"] == here, float(rank.get("gone", 0))))
    return dict(silent[0]) if silent else {}


def _cut_off(folder: RunFolder, ranks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the rank whose log tells of a crash that its guard had no time to tell of.

    srun kills a step, guards included, as soon as an MPI library says that its process crashed.
    """
    for rank in ranks:
        if "ended" not in rank:
            text = "\n".join(last_lines(folder.file("logs", f"rank-{rank['rank']}.log"), 200))
            number = re.search(r"^\[\S+\] Signal: [^(\n]*\((\d+)\)$", text, re.MULTILINE)
            if number:
                return {**rank, "signal": int(number[1])}
            if "Traceback (most recent call last)" in text or "Fatal Python error" in text:
                return {**rank, "status": 1}
    return {}


def _reason(failed: dict[str, Any], status: int, *, several: bool) -> str:
    if not failed:
        return "the ranks could not be started or did not end well: " + (
            f"exit status {status} of launch.sh" if status else "none left a word"
        )
    if "reason" in failed:
        return str(failed["reason"])
    if "status" not in failed and "signal" not in failed:
        return f"rank {failed['rank']} on {failed['host']} went without a word"
    number = failed.get("signal", 0)
    how = signal_name(number) if number else f"exit status {failed['status']}"
    who = f"rank {failed['rank']} on {failed['host']} failed first"
    return f"{who if several else 'the script failed'}: {how}"


def signal_name(number: int) -> str:
    """Return ``SIGSEGV`` for 11; ``signal 37`` where a number has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def explained(folder: RunFolder, record: RunRecord, outcome: dict[str, Any]) -> dict[str, Any]:
    """Return ``outcome`` with its reason as one sentence, and an override that may help."""
    from launcher.explain import Evidence, explain  # noqa: PLC0415 - of runs that failed only

    # What stands in no log, as a full disk did not take it, was told by the rank's guard.
    failed = outcome.get("failed", {})
    told = failed.get("lost", "").splitlines()
    log = f"rank-{failed.get('rank', 0)}.log"
    launch = [
        *last_lines(folder.file("logs", "launch.log"), 60),  # mpirun says much after what counts
        *last_lines(folder.file("logs", "slurm.log")),
    ]
    found = explain(
        Evidence(
            state=RunState(outcome["state"]),
            record=record,
            config=record.config,
            scheduler_state=outcome.get("scheduler_state", ""),
            scheduler_reason=outcome.get("scheduler_reason", ""),
            nodes=",".join(outcome.get("nodes", ())),
            failed=failed,
            exit_status=outcome.get("exit_status"),
            restarts=outcome.get("restart", 0),
            last_lines=(*_last(folder.file("logs", log), failed), *told),
            launch_lines=tuple(launch),
            reason=outcome.get("reason", ""),
            cluster=record.cluster,
        )
    )
    return {**outcome, "reason": found.sentence, "advice": found.override}


def _last(log: str, failed: dict[str, Any]) -> list[str]:
    """Return the last lines of the failed rank; what its guard told where its log is not here."""
    return last_lines(log, 200) or failed.get("last_lines", [])


def conclude(
    folder: RunFolder,
    record: RunRecord,
    outcome: dict[str, Any],
    commit: Callable[..., object],
    *,
    started: float | None,
    insist: bool,
) -> RunState:
    """Write the outcome: as the run's last event, into the index and its commit; return the state.

    ``commit``: record.record_outcome. A full disk, or a repository that is gone, costs what cannot
    be written there, no more; who does not ``insist`` commits only what the event could be told.
    """
    state = RunState(outcome["state"])
    if state not in (RunState.SUCCEEDED, RunState.CANCELLED):
        with contextlib.suppress(Exception):  # never worth the loss of the outcome itself
            outcome = explained(folder, record, outcome)
    ended = time.time()
    if not _told(folder, state, outcome, ended) and not insist:
        return state
    record_told(folder, record, {**outcome, "started": started, "ended": ended}, commit)
    return state


def cancelled(
    folder: RunFolder,
    record: RunRecord,
    commit: Callable[..., object],
    *,
    started: float | None = None,
    told: Mapping[str, Any] = MappingProxyType({}),
) -> RunState:
    """Conclude a run whose supervisor has never begun, or cannot be asked; see ``conclude``.

    ``told``: what the outcome says beside that.
    """
    ranks = folder.ranks() if started else ()
    result = judge(folder, ranks, 0, RunState.CANCELLED.value)
    result |= {"exit_status": None, **told}  # nobody has seen one
    return conclude(folder, record, result, commit, started=started, insist=False)


def record_told(
    folder: RunFolder, record: RunRecord, values: dict[str, Any], commit: Callable[..., object]
) -> None:
    """Commit an outcome that the run's last event tells."""
    try:
        text = _message(record, values)
        commit(record.git_dir, folder.id, values, text, _late_files(folder, record))
    except Exception as error:  # noqa: BLE001 - the run's folder still holds the outcome
        with contextlib.suppress(OSError), open(folder.file("logs", "launch.log"), "ab") as log:
            log.write(f"launcher: the outcome was not committed: {error}\n".encode())


def _told(folder: RunFolder, state: RunState, outcome: dict[str, Any], ended: float) -> bool:
    """Write the last event, and with it the index; return whether the event could be written."""
    event = {name: each for name, each in outcome.items() if name != "state"}
    # A disk without room for the failed rank's last lines may have some for the outcome.
    for values in (event, {**event, "failed": {}, "metrics": {}}):
        with contextlib.suppress(OSError):
            line = {"time": ended, "state": state.value, **values}
            append_line(folder.file("events.jsonl"), line)
            break
    else:
        return False
    with contextlib.suppress(Exception):  # without its line in the index, a list is only slower
        index(folder)
    return True


def _message(record: RunRecord, values: dict[str, Any]) -> str:
    shown = ", ".join(
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values["metrics"].items()
    )
    took = (
        "" if values["started"] is None else f" after {values['ended'] - values['started']:.1f} s"
    )
    head = f"run {record.id} ({record.name}): {values['state']}{took}"
    return f"{head}{': ' if shown else ''}{shown}\n\n{values['reason']}".strip() + "\n"


def _late_files(folder: RunFolder, record: RunRecord) -> dict[str, str]:
    """Return the environment's lock where it was not known when the run was committed."""
    if not record.late:
        return {}
    with contextlib.suppress(OSError), open(folder.file("environment.lock"), encoding="utf-8") as f:
        return {"environment.lock": f.read()}
    return {}
