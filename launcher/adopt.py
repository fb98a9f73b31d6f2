"""A run that is known by its commit only: its folder, made again from there.

Why: a clone that has fetched a run's ref can look at it, follow and cancel what goes on elsewhere;
what its scheduler or its hosts tell is brought into that folder as into the first one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from launcher.errors import StoreError
from launcher.job import RunRecord, RunState
from launcher.processes import beside
from launcher.store import RunFolder, append_line, write_atomically

if TYPE_CHECKING:
    from launcher.record import RecordedRun
    from launcher.store import Store

_PLAN = "plan/"


def adopt(store: Store, recorded: RecordedRun) -> RunFolder:
    """Return the run's folder, made; StoreError where it goes on and cannot be asked after."""
    record = RunRecord.from_json(recorded.files["run.json"])
    plan = json.loads(recorded.files["plan.json"])
    outcome = json.loads(recorded.files.get("outcome.json", "{}"))
    if os.path.exists(os.path.join(plan["run_dir"], "run.json")):
        return RunFolder(plan["run_dir"])  # on a file system that is this machine's too
    if not outcome and (record.compute != "ssh" or record.sweep):
        ref = f"refs/launcher/runs/{record.id}"
        raise StoreError(
            f"run {record.id} was launched on {record.host}, in {plan['run_dir']}, and its commit "
            "tells no outcome",
            hint=f"Look there; or fetch it again once it has ended: git fetch REMOTE +{ref}:{ref}",
        )
    store.prepare()
    folder = store.folder(record.id)
    new = RunFolder(beside(os.path.join(store.path, f".new-{record.id}")))
    try:
        _write(new, recorded, replace(record, git_dir=recorded.git_dir, commit=recorded.commit))
        if outcome:  # else the run's hosts have its events
            _tell(new, record, outcome)
        with contextlib.suppress(OSError):  # another command was quicker
            os.rename(new.path, folder.path)
    finally:
        shutil.rmtree(new.path, ignore_errors=True)
    return folder


def _write(folder: RunFolder, recorded: RecordedRun, record: RunRecord) -> None:
    texts = {
        name.removeprefix(_PLAN): text
        for name, text in recorded.files.items()
        if name.startswith(_PLAN)
    }
    lock = recorded.files.get("environment.lock", "")
    texts |= {"run.json": record.to_json(), **({"environment.lock": lock} if lock else {})}
    for name, text in texts.items():
        path = folder.file(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write_atomically(path, text)


def _tell(folder: RunFolder, record: RunRecord, outcome: dict[str, Any]) -> None:
    """Write the events that the commits tell of: submit, start and end."""
    events = folder.file("events.jsonl")
    append_line(events, {"time": record.created, "state": RunState.SUBMITTING.value})
    started, ended = outcome.pop("started", None), outcome.pop("ended", record.created)
    if started is not None:
        append_line(events, {"time": started, "state": RunState.RUNNING.value})
    append_line(events, {"time": ended, **outcome})
