"""Prints how long snapshot and commit take beside ``git status`` on the same 10,000 files.

python tests/bench/bench_snapshot.py [files]; the last line is JSON, times in milliseconds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import record, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 7


def main() -> None:
    files = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder, "project")
        changed = make(top, files)
        time.sleep(1.1)  # git reads again what changed in the second in which it was indexed
        git(top, "add", "-A")
        git(top, "commit", "-q", "-m", "all")
        snapshots = Snapshots(top)
        first = timed(snapshots.one)
        rounds = [round_of(top, snapshots, changed) for _ in range(ROUNDS)]
        tidy = timed_tidy(top, Path(folder, "code"))
    result = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    result |= {"first": first, "remove_unchanged": tidy, "files": files}
    for name, value in result.items():
        if name != "files":
            print(f"{name:18} {value:8.1f} ms {value / result['git_status']:6.2f} x git status")
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


def make(top: Path, files: int) -> Path:
    for number in range(files):
        path = top / f"pack{number // 500}" / f"part{number % 20}" / f"file{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"value = {number}\n" * 40)
    git(top, "init", "-q")
    git(top, "config", "user.name", "Bench")
    git(top, "config", "user.email", "bench@example.org")
    return path


class Snapshots:
    def __init__(self, top: Path) -> None:
        self.top = top
        self.count = 0
        self.take_ms = 0.0

    def one(self) -> None:
        self.count += 1
        start = time.perf_counter()
        taken = snapshot.take(str(self.top))
        self.take_ms = (time.perf_counter() - start) * 1e3
        files = {f"{name}": f"{name} {self.count}\n" for name in ("run.json", "plan.json", "lock")}
        record.commit_run(
            record.RunRecordInput(
                run_id=f"bench-{self.count}", snapshot=taken, message="bench", files=files
            )
        )


def round_of(top: Path, snapshots: Snapshots, changed: Path) -> dict[str, float]:
    status = timed(lambda: git(top, "status", "--porcelain"))
    same = timed(snapshots.one)
    take = snapshots.take_ms
    changed.write_text(f"value = {time.time_ns()}\n")
    one = timed(snapshots.one)
    git(top, "checkout", "-q", "--", ".")
    time.sleep(1.1)
    snapshots.one()
    return {"git_status": status, "unchanged": same, "unchanged_take": take, "one_changed": one}


def timed_tidy(top: Path, code: Path) -> float:
    index = str(code.parent / "code.index")
    code.mkdir()
    git(top, f"--work-tree={code}", "read-tree", "--reset", "-u", "HEAD", GIT_INDEX_FILE=index)
    where = {"git_dir": str(top / ".git"), "index": index, "worktree": str(code)}
    return timed(lambda: snapshot.remove_unchanged(**where))


def timed(act: Callable[[], None]) -> float:
    start = time.perf_counter()
    act()
    return (time.perf_counter() - start) * 1e3


def git(top: Path, *words: str, **env: str) -> None:
    command = ("git", f"--git-dir={top}/.git", *words)
    subprocess.run(command, check=True, cwd=top, env={**os.environ, **env}, capture_output=True)


if __name__ == "__main__":
    main()
