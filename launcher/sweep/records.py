"""The runs of a sweep as commits and folders: hundreds by one call of git, and file by file.

Why a thread records what the main one has made: git, and the file system, work beside us.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher import record
from launcher.job import LINK, RunRecord, RunState
from launcher.processes import this_process
from launcher.store import Folder
from launcher.submission import entry_in, link, record_of, recorded, write_files
from launcher.sweep.store import SWEEPS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    from launcher.job import LaunchPlan
    from launcher.sweep.choose import Content
    from launcher.sweep.plan import Draft
    from launcher.sweep.store import SweepFolder

_AT_ONCE = 250  # runs of one call of git: some megabytes
_SUPPORT = "support"  # folder of the files that a plan copies from the launcher


@dataclass(frozen=True, slots=True, kw_only=True)
class New:
    """A run that is to be recorded. ``group`` and ``task``: where it is queued."""

    draft: Draft
    plan: LaunchPlan
    signature: str
    group: str  # SWEEP/K
    task: int


def record_all(new: Sequence[New], content: Content, folder: SweepFolder, *, hide: bool) -> None:
    """Commit the runs and write their folders; ``hide``: each from git by itself."""
    stores: dict[str, list[New]] = {}
    for each in new:
        stores.setdefault(each.draft.facts.git_dir, []).append(each)
    writer = _Writer(folder, hide=hide)
    for git_dir, runs in stores.items():
        recorder = record.Recorder(git_dir, [_source(each, content) for each in runs])
        _record_store(runs, content, recorder, writer)


def _record_store(
    new: Sequence[New], content: Content, recorder: record.Recorder, writer: _Writer
) -> None:
    def finish(runs: Sequence[New], inputs: Sequence[record.RunRecordInput]) -> None:
        commits = recorder.commit(inputs)
        for run, given, commit in zip(runs, inputs, commits, strict=True):
            writer.write(run, RunRecord.committed(given.files["run.json"], commit))

    with ThreadPoolExecutor(1) as beside:
        under_way: list[Future[None]] = []
        for begin in range(0, len(new), _AT_ONCE):
            runs = new[begin : begin + _AT_ONCE]
            inputs = [_input(each, content) for each in runs]
            if len(under_way) > 1:  # no more texts in memory than two parts have
                under_way.pop(0).result()
            under_way.append(beside.submit(finish, runs, inputs))
        for each in under_way:
            each.result()


def _source(new: New, content: Content) -> record.RunSource:
    snapshot = content.snapshots[new.draft.job.source_directory]
    entry = entry_in(snapshot, new.draft.job)
    return record.RunSource(run_id=new.plan.run_id, snapshot=snapshot, entry=entry)


def _input(new: New, content: Content) -> record.RunRecordInput:
    job, facts = new.draft.job, new.draft.facts
    sweep = new.group.partition("/")[0]
    point, source = new.draft.number, content.snapshots[job.source_directory]
    run = record_of(job, facts, new.plan)
    run = replace(run, sweep=sweep, point=point, signature=new.signature)
    return recorded(run, job, new.plan, source, content.locks[id(facts)])


class _Writer:
    """Writes folders of runs; files of the launcher's own are there once, in the sweep's folder."""

    def __init__(self, folder: SweepFolder, *, hide: bool) -> None:
        self._sweep = folder
        self._hide = hide
        self._shared: dict[tuple[str, ...], str] = {}  # texts -> the folder that has them
        self._process = this_process()

    def write(self, new: New, text: str) -> None:
        """Write the folder of a run; ``text``: of its run.json."""
        path = new.plan.run_dir
        os.mkdir(path)
        for file in new.plan.files:
            if file.mode == LINK:
                link(f"{path}/{file.path}", file.text)
            elif not file.copied_from:
                _new_file(f"{path}/{file.path}", file.text, file.mode)
        os.symlink(self._support(new.plan), f"{path}/{_SUPPORT}")
        if self._hide:
            _new_file(f"{path}/.gitignore", "*\n")
        event: Mapping[str, Any] = {
            "time": time.time(),
            "state": RunState.SUBMITTING.value,
            **self._process,
            "group": new.group,
            "task": new.task,
        }
        _new_file(f"{path}/events.jsonl", json.dumps(event) + "\n")
        _new_file(f"{path}/run.json", text)

    def _support(self, plan: LaunchPlan) -> str:
        """Return where the files that runs have in common are, as seen from a run's folder."""
        files = [file for file in plan.files if file.copied_from]
        texts = tuple(file.text for file in files)
        if texts not in self._shared:
            # Named by what it holds: a newer launcher may add runs to the sweep.
            name = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]
            write_files(Folder(self._sweep.file(name)), files)
            self._shared[texts] = f"../{SWEEPS}/{self._sweep.id}/{name}/{_SUPPORT}"
        return self._shared[texts]


def _new_file(path: str, text: str, mode: int = 0o644) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        data = memoryview(text.encode("utf-8", "surrogateescape"))
        while data:
            data = data[os.write(file, data) :]
    finally:
        os.close(file)
