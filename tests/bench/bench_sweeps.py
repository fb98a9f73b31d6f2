"""A sweep, from enter to its last point queued, against what users have.

    python -m tests.bench.bench_sweeps            # 100, 1,000 and 10,000 points, and the peers
    python -m tests.bench.bench_sweeps 100 1000   # only so many

Ours: composed, planned, recorded as one commit a run, and queued on the real Slurm cluster of
tests/cluster, as held jobs. hydra-submitit-launcher blocks until its last job ends, so what counts
is its last sbatch; Hydra's own multirun runs a function that does nothing, in one process. Both are
given at most 100 points: their time is linear. `floor` is what it takes to write as many folders of
as many files by plain calls, and their commits by git fast-import, on this machine at this time.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.bench.bench_slurm import PEER, Bench, peer_python
from tests.cluster.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

LINE = (
    *("-m", "compute=slurm", "entry_script=train.py", "environment.torch=null"),
    *("compute.extra={hold: true}", "compute.time=1,2"),
)
SITE = {"MaxArraySize": "10001", "MaxJobCount": "50000"}
FILES = {"launch.sh": 3000, "ranks.json": 300, "events.jsonl": 200, "run.json": 4000}
ROUNDS = 3


def measured(bench: Bench, words: Sequence[str]) -> tuple[float, float]:
    """Return the seconds that a command takes, and its most memory in MiB."""
    keep = ("PATH", "HOME")
    env = {name: os.environ[name] for name in keep} | bench.cluster.env
    begun = time.perf_counter()
    running = subprocess.Popen(
        words, cwd=bench.path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert running.stderr is not None
    said = running.stderr.read()
    _, status, used = os.wait4(running.pid, 0)
    took = time.perf_counter() - begun
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise SystemExit(f"{words}: {said.decode()}")
    return took, used.ru_maxrss / 1024


def ours(bench: Bench, count: int) -> tuple[float, float]:
    """Return seconds and MiB of a sweep of ``count`` points, all of them queued at the end."""
    words = (sys.executable, "-m", "launcher", *LINE, f"script_params.lr=range({count // 2})")
    found = measured(bench, words)
    listed = bench.run(("/usr/bin/squeue", "--noheader", "--array", "--format=%i"))
    queued = len(listed.split())
    if queued != count:
        raise SystemExit(f"{queued} of {count} points are queued")
    bench.run(("/usr/bin/scancel", "--user=root"))
    bench.idle()
    shutil.rmtree(bench.path / "runs")
    return found


def floor(bench: Bench, count: int) -> float:
    """Return the seconds that the folders and commits of ``count`` runs take by plain calls."""
    begun = time.perf_counter()
    parts = []
    top = bench.path / "notes" / "floor"
    top.mkdir()
    for number in range(count):
        path = f"{top}/{number}"
        os.mkdir(path)
        for name, size in FILES.items():
            file = os.open(f"{path}/{name}", os.O_WRONLY | os.O_CREAT)
            os.write(file, b"x" * size)
            os.close(file)
        text = f"{number}" * 800
        parts.append(
            f"commit refs/launcher/bench/{number}\ncommitter a <a@b> 0 +0000\ndata 1\na\n"
            f"M 100644 inline .launcher/run.json\ndata {len(text)}\n{text}\n"
        )
    words = ("git", "fast-import", "--quiet")
    subprocess.run(words, cwd=bench.path, input="".join(parts).encode(), check=True)
    took = time.perf_counter() - begun
    shutil.rmtree(top)
    return took


def submitit(bench: Bench, count: int) -> float:
    """Return the seconds to hydra-submitit-launcher's last sbatch."""
    log = bench.note_calls("sbatch")
    words = (peer_python(), "peer.py", "-m", "hydra/launcher=submitit_slurm")
    words += ("hydra.launcher.timeout_min=1", f"+lr=range({count})")
    env = {"PATH": f"{bench.wrappers}:{os.environ['PATH']}", **bench.cluster.env}
    begun = time.time()
    running = subprocess.Popen(
        words, cwd=bench.path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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


def main() -> None:
    counts = [int(each) for each in sys.argv[1:]] or [100, 1000, 10000]
    with Cluster(settings=SITE) as cluster:
        bench = Bench(cluster)
        (bench.path / "train.py").write_text("print('ran')\n")
        (bench.path / "peer.py").write_text(PEER)
        subprocess.run(("git", "add", "-A"), cwd=bench.path, check=True)
        print(f"{'points':>7} {'ours':>8} {'MiB':>5} {'floor':>8} {'ours/floor':>11}")
        for count in counts:
            rounds = [(ours(bench, count), floor(bench, count)) for _ in range(ROUNDS)]
            seconds = statistics.median(each[0][0] for each in rounds)
            memory = max(each[0][1] for each in rounds)
            least = statistics.median(each[1] for each in rounds)
            row = f"{count:>7} {seconds:>7.2f}s {memory:>5.0f} {least:>7.2f}s"
            print(f"{row} {seconds / least:>11.1f}", flush=True)
        few = min(100, *counts) if len(counts) > 1 else min(100, counts[0])
        print(f"{few:>7} {submitit(bench, few):>7.2f}s hydra-submitit-launcher, its last sbatch")
        words = (peer_python(), "peer.py", "-m", f"+lr=range({few})")
        print(f"{few:>7} {measured(bench, words)[0]:>7.2f}s Hydra's own multirun of nothing")


if __name__ == "__main__":
    main()
