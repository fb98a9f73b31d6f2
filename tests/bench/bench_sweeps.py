"""A sweep, from enter to its last point queued, against what users have.

    python -m tests.bench.bench_sweeps                 # on a real Slurm, as root; with the peers
    python -m tests.bench.bench_sweeps --stand-in      # the launcher's own part: see below
    python -m tests.bench.bench_sweeps 100 1000        # so many points, not 100, 1,000 and 10,000

Ours: composed, planned, recorded as one commit a run, and queued on the real Slurm cluster of
tests/cluster, as held jobs; with --stand-in, on programs that answer at once what Slurm answered
when the tests' answers were recorded. `CPU` is of the launcher and of all that it started. `floor`
is what it takes to write as many folders of as many files by plain calls, and commits of as many
texts by one git fast-import, on this machine at this time.

hydra-submitit-launcher blocks until its last job ends, so what counts is its last sbatch; Hydra's
own multirun runs a function that does nothing, in one process. Both are given at most 100 points:
their time is linear.

Each round has a folder of its own, and none is removed before the end: for a minute ext4 looks at
each inode that was freed before it makes a new one, and all takes several times as long.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.bench_slurm import PEER, Bench, peer_python
from tests.cluster.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LINE = (
    *("-m", "compute=slurm", "entry_script=train.py", "environment.torch=null"),
    *("compute.extra={hold: true}", "compute.time=1,2"),
)
SITE = {"MaxArraySize": "10001", "MaxJobCount": "50000"}
FILES = {"launch.sh": 1300, "ranks.json": 200, "events.jsonl": 150, "run.json": 3900}
TEXTS = {**FILES, "config.yaml": 1000, "overrides.yaml": 150, "plan.json": 900}
RECORDED = Path(__file__).parents[1] / "unit" / "recorded" / "slurm-22.05"
ANSWERS = {
    "sinfo": f'case "$*" in *--version*) echo slurm 22.05.8;; *) cat {RECORDED}/sinfo.txt;; esac',
    "srun": f"cat {RECORDED}/mpi.txt",
    "scontrol": "echo 'ClusterName = stand-in'; echo 'MaxArraySize = 10001'",
    "sacctmgr": "exit 1",
    "squeue": ":",
    "sbatch": "echo Submitted batch job $$",
}


@dataclass(frozen=True, kw_only=True)
class Used:
    """What a command took: seconds on the clock, seconds of all its processes, and MiB."""

    wall: float
    cpu: float
    memory: float


def project(top: Path) -> Path:
    """Return a new project of a user's, below ``top``."""
    path = Path(tempfile.mkdtemp(dir=top))
    (path / "train.py").write_text("print('ran')\n")
    (path / "peer.py").write_text(PEER)
    (path / ".gitignore").write_text("multirun\n")
    for words in (("init", "-q"), ("add", "-A")):
        subprocess.run(("git", *words), cwd=path, check=True)
    return path


def measured(words: Sequence[str], path: Path, env: Mapping[str, str]) -> Used:
    """Return what a command takes, in a folder."""
    before = time.perf_counter()
    running = subprocess.Popen(
        words, cwd=path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert running.stderr is not None
    said = running.stderr.read()
    _, status, used = os.wait4(running.pid, 0)
    wall = time.perf_counter() - before
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise SystemExit(f"{words}: {said.decode()}")
    cpu = used.ru_utime + used.ru_stime
    return Used(wall=wall, cpu=cpu, memory=used.ru_maxrss / 1024)


def ours(top: Path, env: Mapping[str, str], count: int) -> Used:
    """Return what a sweep of ``count`` points takes."""
    words = (sys.executable, "-m", "launcher", *LINE, f"script_params.lr=range({count // 2})")
    path = project(top)
    found = measured(words, path, env)
    runs = [each for each in os.listdir(path / "runs") if each[0] != "."]
    assert len(runs) == count, len(runs)
    return found


def floor(top: Path, count: int) -> Used:
    """Return what the folders and commits of ``count`` runs take by plain calls."""
    path = project(top)
    before, cpu = time.perf_counter(), sum(os.times()[:4])
    words = ("git", "fast-import", "--quiet")
    with subprocess.Popen(words, cwd=path, stdin=subprocess.PIPE) as importer:
        assert importer.stdin is not None
        for number in range(count):
            folder = f"{path}/{number}"
            os.mkdir(folder)
            os.symlink("../support", f"{folder}/support")
            for name, size in FILES.items():
                file = os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT)
                os.write(file, b"x" * size)
                os.close(file)
            parts = [f"commit refs/bench/{number}\ncommitter a <a@b> 0 +0000\ndata 1\na\n"]
            for name, size in TEXTS.items():
                text = f"{number} {name}\n".ljust(size, "x")
                parts.append(f"M 100644 inline .launcher/{name}\ndata {size}\n{text}\n")
            importer.stdin.write("".join(parts).encode())
    assert importer.returncode == 0
    return Used(wall=time.perf_counter() - before, cpu=sum(os.times()[:4]) - cpu, memory=0.0)


def queued(bench: Bench, count: int) -> None:
    """Check that so many jobs are queued, and cancel them."""
    listed = bench.run(("/usr/bin/squeue", "--noheader", "--array", "--format=%i"))
    if len(listed.split()) != count:
        raise SystemExit(f"{len(listed.split())} of {count} points are queued")
    bench.run(("/usr/bin/scancel", "--user=root"))
    bench.idle()


def submitit(bench: Bench, count: int) -> float:
    """Return the seconds to hydra-submitit-launcher's last sbatch."""
    log = bench.note_calls("sbatch")
    words = (peer_python(), "peer.py", "-m", "hydra/launcher=submitit_slurm")
    words += ("hydra.launcher.timeout_min=1", f"+lr=range({count})")
    env = {"PATH": f"{bench.wrappers}:{os.environ['PATH']}", **bench.cluster.env}
    begun = time.time()
    running = subprocess.Popen(
        words,
        cwd=project(bench.path),
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not log.read_text():
        time.sleep(0.01)
        if running.poll() is not None:
            raise SystemExit("the peer ended before its sbatch")
    took = float(log.read_text().split()[0]) - begun
    running.kill()
    running.wait()
    bench.run(("/usr/bin/scancel", "--user=root"))
    bench.idle()
    return took


def stand_ins(top: Path) -> Path:
    """Return a folder of programs that answer at once."""
    folder = top / "bin"
    folder.mkdir()
    for name, line in ANSWERS.items():
        (folder / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


def table(
    counts: Sequence[int], rounds: int, top: Path, env: Mapping[str, str], bench: Bench | None
) -> None:
    """Print a row for each number of points; ``bench``: the real Slurm, where there is one."""
    print(f"{'points':>7} {'ours':>8} {'CPU':>8} {'MiB':>5} {'floor':>8} {'CPU':>8}   ratios")
    for count in counts:
        found, least = [], []
        for _ in range(rounds):
            found.append(ours(top, env, count))
            if bench is not None:
                queued(bench, count)
            least.append(floor(top, count))
        wall, cpu = (statistics.median(getattr(e, n) for e in found) for n in ("wall", "cpu"))
        low, low_cpu = (statistics.median(getattr(e, n) for e in least) for n in ("wall", "cpu"))
        memory = max(each.memory for each in found)
        row = f"{count:>7} {wall:>7.2f}s {cpu:>7.2f}s {memory:>5.0f} {low:>7.2f}s {low_cpu:>7.2f}s"
        print(f"{row} {wall / low:>4.1f} {cpu / low_cpu:>4.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="*", default=[100, 1000, 10000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--stand-in", action="store_true", help="without Slurm, and no peers")
    parser.add_argument("--folder", help="of --stand-in: on which file system (default: /tmp's)")
    options = parser.parse_args()
    env = {name: os.environ[name] for name in ("PATH", "HOME")}
    if options.stand_in:
        top = Path(tempfile.mkdtemp(dir=options.folder))
        env["PATH"] = f"{stand_ins(top)}:{env['PATH']}"
        env["LAUNCHER_CACHE"] = str(top / "cache")
        table(options.counts, options.rounds, top, env, None)
        shutil.rmtree(top)
        return
    with Cluster(settings=SITE) as cluster:
        bench = Bench(cluster)
        table(options.counts, options.rounds, bench.path, env | cluster.env, bench)
        few = min(100, *options.counts)
        print(f"{few:>7} {submitit(bench, few):>7.2f}s hydra-submitit-launcher, its last sbatch")
        words = (peer_python(), "peer.py", "-m", f"+lr=range({few})")
        took = measured(words, project(bench.path), env)
        print(f"{few:>7} {took.wall:>7.2f}s {took.cpu:>7.2f}s Hydra's own multirun of nothing")


if __name__ == "__main__":
    main()
