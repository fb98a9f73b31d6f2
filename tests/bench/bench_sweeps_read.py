"""`launcher sweeps` over many sweeps, and `launcher runs --sweep` of a large one.

    python tests/bench/bench_sweeps_read.py [--sweeps 50] [--points 1000] [--large 10000]

Medians on one machine, beside the floor `python -c pass`; all runs have ended and are indexed, but
for those of the last row, of which a tenth still waits: each of them is read.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.job import RunRecord, RunState
from launcher.processes import this_process
from launcher.store import INDEX, RunStatus, Store
from launcher.sweep.store import Entry, SweepRecord, Sweeps

if TYPE_CHECKING:
    from collections.abc import Iterable


def sweep_of(store: Store, sweep_id: str, points: int) -> list[str]:
    """Write a sweep down and return the ids of its runs."""
    runs = [f"{sweep_id}-{number:04}" for number in range(points)]
    entries = [
        Entry(
            point=number,
            run=run,
            signature=f"{number:032}",
            values={"script_params.lr": str(number / points), "nodes": str(1 + number % 4)},
        )
        for number, run in enumerate(runs)
    ]
    record = SweepRecord(
        id=sweep_id,
        name="train",
        created=1e9,
        user="me",
        host="box",
        overrides=("entry_script=train.py",),
        keys=tuple(entries[0].values),
        digest="0" * 32,
    )
    Sweeps(store).folder(sweep_id).create(record, entries, lambda _: None)
    return runs


def index(store: Store, runs: Iterable[str]) -> None:
    """Write the index lines of runs that ended, as supervisors do."""
    with open(os.path.join(store.path, INDEX), "a", encoding="utf-8") as file:
        for number, run in enumerate(runs):
            status = RunStatus(
                id=run,
                name="train",
                state=RunState.FAILED if number % 50 == 0 else RunState.SUCCEEDED,
                compute="local",
                host="box",
                world_size=2,
                created=1e9,
                started=1e9,
                ended=1e9 + 60 + number % 7,
                exit_status=0,
                metrics={"step": 7, "accuracy": 0.97 - number * 1e-6, "loss": 0.1},
            )
            file.write(json.dumps(status.to_json()) + "\n")


def going(store: Store, runs: Iterable[str]) -> None:
    """Write the folders of runs that go on: their submitting process is this one."""
    for run in runs:
        folder = store.create(run)
        record = RunRecord(
            id=run,
            name="train",
            created=1e9,
            user="me",
            host="box",
            compute="local",
            dist="mpi",
            entry=("train.py",),
            nodes=1,
            procs_per_node=2,
            grace_s=10.0,
            time_s=None,
            git_dir="/repo/.git",
            prefix="",
            commit="0" * 40,
            secrets=(),
            overrides=("entry_script=train.py",),
        )
        Path(folder.file("run.json")).write_text(record.to_json())
        folder.event(RunState.SUBMITTING, **this_process())


def timed(words: list[str]) -> float:
    before = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=50)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--large", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        many, one, open_ = (Store(os.path.join(folder, name)) for name in ("many", "one", "open"))
        for store in (many, one, open_):
            store.prepare()
        for number in range(options.sweeps):
            index(
                many,
                sweep_of(many, f"261123-10{number // 60:02}{number % 60:02}-swee", options.points),
            )
        index(one, sweep_of(one, "261123-100000-larg", options.large))
        runs = sweep_of(open_, "261123-100000-open", options.large)
        index(open_, runs[options.large // 10 :])
        going(open_, runs[: options.large // 10])
        launcher = [sys.executable, "-m", "launcher"]
        listed = [*launcher, "runs", "--sweep", "@last", "--runs-dir"]
        cases = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "sweeps": [*launcher, "sweeps", "--runs-dir", many.path],
            "runs --sweep": [*listed, one.path],
            "runs --sweep --sort": [*listed, one.path, "--sort", "-accuracy"],
            "runs --sweep --json": [*listed, one.path, "--json"],
            "runs --sweep, open": [*listed, open_.path],
        }
        rows: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(5):
            for name, words in cases.items():
                rows[name].append(timed(words))
    medians = {name: statistics.median(each) for name, each in rows.items()}
    for name, seconds in medians.items():
        print(f"{name:20}{seconds:8.3f} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{'largest process':20}{peak:8.0f} MB")
    print(json.dumps({"sizes": vars(options), **medians, "peak_mb": peak}))


if __name__ == "__main__":
    main()
