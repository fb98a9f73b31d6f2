"""Kill a sweep's submit at many points, type it again, and count the jobs: one a point, always.

    python kills.py [--status=N] COUNT OVERRIDES...     in a project's folder, on a login node

N: the exit status of a submit that nobody kills: 3 where a limit leaves no room for more points.
Half of the kills come at the n-th file that is opened for writing, made, linked, renamed or
removed, or program that is started; the others after a time. The launcher is imported once and
forked, since its import is not what is tested.
"""

from __future__ import annotations

import collections
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from launcher import cli
from launcher.sweep import compose, live, points, submit  # noqa: F401 - once, before the forks

ACTS = {"os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir"}
ACTS |= {"subprocess.Popen", "os.posix_spawn", "fcntl.flock", "os.truncate"}
POINTS = 6


def submitted(line: list[str], kill_at: int | None = None, after_s: float = 0.0) -> tuple[int, int]:
    """Return the exit status, negative for a signal, and the number of acts of a submit."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        count = 0

        def act(event: str, words: tuple[object, ...]) -> None:
            nonlocal count
            opens = event == "open" and isinstance(words[2], int) and words[2] & os.O_ACCMODE
            if opens or event in ACTS:
                if count == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1

        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        errors = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 2)
        sys.addaudithook(act)
        status = cli.run(line)
        sys.addaudithook(lambda *_: None)
        os.write(write, str(count).encode())
        os._exit(status)
    os.close(write)
    if after_s:
        time.sleep(after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(read) as pipe:
        acts = pipe.read()
    return os.waitstatus_to_exitcode(status), int(acts or 0)


def queued() -> dict[str, int]:
    """Return the user's jobs: how many tasks each array has, by its name."""
    words = ("squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%j")
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(collections.Counter(done.stdout.split()))


def clear(runs: str) -> None:
    words = ("scancel", f"--user={os.getuid()}")
    subprocess.run(words, check=True)
    while queued():
        time.sleep(0.02)
    shutil.rmtree(runs, ignore_errors=True)


def main() -> int:
    words = sys.argv[1:]
    well = int(words.pop(0).partition("=")[2]) if words[0].startswith("--") else 0
    count, line = int(words[0]), words[1:]
    chance = random.Random(4)
    begun = time.monotonic()
    status, acts = submitted([*line, "runs_dir=whole"])
    took = time.monotonic() - begun
    assert status == well, Path("said").read_text()
    assert sum(queued().values()) == POINTS, queued()
    clear("whole")
    wrong, killed = [], 0
    for number in range(count):
        runs = f"runs-{number}"
        if number % 2:
            how = {"after_s": chance.uniform(0.02, took)}
        else:
            how = {"kill_at": chance.randrange(acts)}
        first, _ = submitted([*line, f"runs_dir={runs}"], **how)
        killed += first == -signal.SIGKILL
        second, _ = submitted([*line, f"runs_dir={runs}"])
        jobs = queued()
        folders = sum(name[0].isdigit() for name in os.listdir(runs))
        if second not in (0, well) or sum(jobs.values()) != POINTS or folders != POINTS:
            told = {"status": second, "jobs": jobs, "folders": folders}
            wrong.append({"how": how, **told, "said": Path("said").read_text()})
        clear(runs)
    print(json.dumps({"kills": count, "killed": killed, "acts": acts, "wrong": wrong}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
