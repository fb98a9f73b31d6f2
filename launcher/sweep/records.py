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
from launcher.job import LINK, RunState
from launcher.processes import this_process
from launcher.store import Folder
from launcher.submission import link, record_of, recorded, write_files
from launcher.sweep.store import SWEEPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from launcher.job import LaunchPlan, RunRecord
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
    writer = _Writer(folder, hide=hide)

    def finish(runs: list[tuple[New, RunRecord]], inputs: list[record.RunRecordInput]) -> None:
        commits = record.commit_runs(inputs[0].snapshot.git_dir, inputs)
        for (each, run), commit in zip(runs, commits, strict=True):
            writer.write(each, replace(run, commit=commit))

    with ThreadPoolExecutor(1) as beside:
        under_way: list[Future[None]] = []
        for part in _parts(new):
            runs = [(each, _record(each)) for each in part]
            inputs = [_input(each, run, content) for each, run in runs]
            if len(under_way) > 1:  # no more texts in memory than two parts have
                under_way.pop(0).result()
            under_way.append(beside.submit(finish, runs, inputs))
        for each in under_way:
            each.result()


def _parts(new: Sequence[New]) -> Iterator[Sequence[New]]:
    """Yield the runs in parts that are recorded by one call."""
    stores: dict[str, list[New]] = {}
    for each in new:
        stores.setdefault(each.draft.facts.git_dir, []).append(each)
    for runs in stores.values():
        for begin in range(0, len(runs), _AT_ONCE):
            yield runs[begin : begin + _AT_ONCE]


def _record(new: New) -> RunRecord:
    run = record_of(new.draft.job, new.draft.facts, new.plan)
    sweep = new.group.partition("/")[0]
    return replace(run, sweep=sweep, point=new.draft.number, signature=new.signature)


def _input(new: New, run: RunRecord, content: Content) -> record.RunRecordInput:
    job = new.draft.job
    source = content.snapshots[job.source_directory]
    return recorded(run, job, new.plan, source, content.locks[id(new.draft.facts)])


class _Writer:
    """Writes folders of runs; files of the launcher's own are there once, in the sweep's folder."""

    def __init__(self, folder: SweepFolder, *, hide: bool) -> None:
        self._sweep = folder
        self._hide = hide
        self._shared: dict[tuple[str, ...], str] = {}  # texts -> the folder that has them
        self._process = this_process()

    def write(self, new: New, run: RunRecord) -> None:
        """Write the folder of ``run``."""
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
        _new_file(f"{path}/run.json", run.to_json())

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
