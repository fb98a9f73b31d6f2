"""`launcher runs` over many recorded runs: the first list, which reads them all, and the next.

    python tests/bench/bench_runs.py [--runs 10000]

Medians on one machine, beside the floor `python -c pass`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from launcher.job import RunRecord, RunState
from launcher.observe import observe
from launcher.store import Store, append_line


def make(store: Store, count: int) -> None:
    """Write ``count`` ended runs as submit and supervisor write them, less the logs and code."""
    for number in range(count):
        run_id = (
            f"261123-{number // 3600 % 24:02}{number // 60 % 60:02}{number % 60:02}-{number:05}"
        )
        folder = store.create(run_id)
        record = RunRecord(
            id=run_id,
            name="train",
            created=1e9 + number,
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
            overrides=("entry_script=train.py", "dist=mpi", "script_params.lr=0.1"),
        )
        Path(folder.file("run.json")).write_text(record.to_json())
        append_line(folder.file("metrics.jsonl"), {"time": 1e9, "step": 7, "accuracy": 0.97})
        folder.event(RunState.SUBMITTING, host="box", pid=1, born="x")
        folder.event(RunState.RUNNING, host="box", pid=2, born="x")
        metrics = {"step": 7, "accuracy": 0.97}
        folder.event(RunState.SUCCEEDED, exit_status=0, reason="", failed={}, metrics=metrics)
        store.add_to_index(observe(folder))


def timed(words: list[str]) -> float:
    before = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(os.path.join(folder, "runs"))
        make(store, options.runs)
        words = [sys.executable, "-m", "launcher", "runs", "--runs-dir", store.path]
        listed = subprocess.run([*words, "--json"], check=True, capture_output=True, text=True)
        assert len(json.loads(listed.stdout)) == options.runs
        index = Path(store.path, ".index.jsonl")
        kept = index.read_text()
        rows: dict[str, list[float]] = {"python -c pass": [], "runs": [], "runs, no index": []}
        for _ in range(5):
            rows["python -c pass"].append(timed([sys.executable, "-c", "pass"]))
            rows["runs"].append(timed(words))
            index.unlink()
            rows["runs, no index"].append(timed(words))
            index.write_text(kept)
    medians = {name: statistics.median(each) for name, each in rows.items()}
    for name, seconds in medians.items():
        print(f"{name:20}{seconds:8.3f} s")
    print(json.dumps({"runs": options.runs, **medians}))


if __name__ == "__main__":
    main()
