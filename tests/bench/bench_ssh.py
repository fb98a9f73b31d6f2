"""Runs on real ssh hosts against what users do by hand: rsync, and mpirun over ssh.

    python -m tests.bench.bench_ssh code    # one of 10,000 files (100 MB) changed -> on both hosts
    python -m tests.bench.bench_ssh start   # enter -> all ranks have started, 2 hosts x 1
    python -m tests.bench.bench_ssh logs    # a line is printed there -> it is seen here

As root: the hosts of tests/cluster are brought up for it. Medians of interleaved rounds on one
machine: believe the ratios, not the seconds. Connections are shared and warm for all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import snapshot
from launcher.ssh.agent.objects import Objects
from launcher.ssh.connection import Target, everywhere
from launcher.ssh.ready import ready
from launcher.ssh.travel import Tree, bring, code
from tests.cluster.ssh_hosts import SshHosts

if TYPE_CHECKING:
    from collections.abc import Callable

FILES, BYTES = 10_000, 10_000
FIRST = (
    "import os, time\nnow = time.time()\n"
    "rank = os.environ['OMPI_COMM_WORLD_RANK']\n"
    "open(os.path.expanduser(f'~/first-{rank}'), 'w').write(str(now))\n"
)
OPTIONS = (
    *("compute=ssh", "compute.hosts=[hosta,hostb]", "nodes=2", "entry_script=train.py"),
    *("environment.torch=null", "dist=mpi", "dist.horovod=false", "wait=true"),
)
QUICK = ("-mca", "pml", "ob1", "-mca", "btl", "self,sm,tcp", "--bind-to", "none")


class Bench:
    """A project folder of root's, and two hosts."""

    def __init__(self, hosts: SshHosts) -> None:
        self.hosts = hosts
        self.path = hosts.project("bench", user="root")
        subprocess.run(["git", "init", "-q"], cwd=self.path, check=True)
        control = f"/tmp/bench-ssh-{os.getpid()}"
        self.ssh = ("ssh", "-F", str(hosts.config), "-o", "ControlMaster=auto")
        self.ssh += ("-o", f"ControlPath={control}-%C", "-o", "ControlPersist=60")

    def launch(self, *words: str) -> None:
        config = f"compute.ssh_config={self.hosts.config}"
        argv = (sys.executable, "-m", "launcher", *words, config)
        subprocess.run(argv, cwd=self.path, check=True, stdout=subprocess.DEVNULL)

    def both(self, work: Callable[[str], object]) -> None:
        """Do the same for both hosts at once."""
        threads = [threading.Thread(target=work, args=(name,)) for name in ("hosta", "hostb")]
        for each in threads:
            each.start()
        for each in threads:
            each.join()


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def code_travels(bench: Bench, rounds: int) -> dict[str, list[float]]:
    for number in range(FILES):
        path = bench.path / f"d{number // 100}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(os.urandom(BYTES))
    targets = [Target(name=name, config=str(bench.hosts.config)) for name in ("hosta", "hostb")]
    rsync = ("rsync", "-a", "--delete", "--exclude=.git", "-e", " ".join(bench.ssh))
    (bench.path / "d1" / "f100").write_bytes(b"x")

    def theirs() -> None:
        bench.both(
            lambda name: subprocess.run([*rsync, f"{bench.path}/", f"{name}:tree/"], check=True)
        )

    def tree() -> Tree:
        return code(snapshot.take(str(bench.path)))

    def ours() -> None:
        everywhere(lambda target: bring(ready(target), taken), targets)

    def made() -> None:
        Objects(str(bench.hosts.hosta.user_home / ".launcher")).make(taken.name, str(copy))

    copy = bench.hosts.hosta.user_home / "made"
    theirs()
    taken = tree()
    ours()
    names = ("rsync to both hosts", "launcher, to both hosts", "its snapshot", "a run's own copy")
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        (bench.path / "d1" / "f100").write_text(str(number))
        found[names[0]].append(timed(theirs))
        found[names[2]].append(timed(tree))
        taken = tree()
        found[names[1]].append(timed(ours))
        found[names[3]].append(timed(made))
        subprocess.run(["rm", "-rf", str(copy)], check=True)
    return found


def start(bench: Bench, rounds: int) -> dict[str, list[float]]:
    (bench.path / "train.py").write_text(FIRST)
    bench.launch(*OPTIONS)  # builds the environment
    a, b = bench.hosts.hosta, bench.hosts.hostb
    (env,) = (a.user_home / ".launcher" / "cache" / "envs").glob("*/bin")
    there = f"/home/{a.user_home.name}/.launcher/cache/envs/{env.parent.name}/bin"
    for host in (a, b):
        (host.user_home / "train.py").write_text(FIRST)
        (host.user_home / "train.py").chmod(0o644)
    mpirun = f"{there}/mpirun -n 2 -H localhost:1,{b.address}:1 {' '.join(QUICK)} "

    def theirs() -> None:
        line = f"{mpirun} {there}/python train.py"
        subprocess.run([*bench.ssh, "hosta", line], check=True)

    found: dict[str, list[float]] = {"ssh hosta mpirun": [], "launcher": []}
    for _ in range(rounds):
        for name, work in zip(found, (theirs, lambda: bench.launch(*OPTIONS)), strict=True):
            begun = time.time()
            work()
            times = [
                float((host.user_home / f"first-{n}").read_text()) for n, host in ((0, a), (1, b))
            ]
            found[name].append(max(times) - begun)
    return found


def logs(bench: Bench, rounds: int) -> dict[str, list[float]]:
    (bench.path / "train.py").write_text(
        "import time\n"
        f"for _ in range({rounds * 10}): print(time.time(), flush=True); time.sleep(0.2)\n"
    )
    config = f"compute.ssh_config={bench.hosts.config}"
    words = ("compute=ssh", "compute.hosts=[hosta]", "entry_script=train.py", "wait=true", config)
    argv = (sys.executable, "-m", "launcher", *words, "environment.torch=null")
    with subprocess.Popen(argv, cwd=bench.path, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        late = [time.time() - float(line) for line in running.stdout]
    return {"seen after, median": late, "seen after, longest": [max(late)]}


CASES: dict[str, Callable[[Bench, int], dict[str, list[float]]]] = {
    "code": code_travels,
    "start": start,
    "logs": logs,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with SshHosts(absent=("git", "git-*")) as hosts:
        found = CASES[options.case](Bench(hosts), options.rounds)
    base = statistics.median(next(iter(found.values())))
    for name, values in found.items():
        median = statistics.median(values)
        print(f"{name:40}{median:10.3f} s {median / base:8.2f}")
    print(json.dumps({name: statistics.median(values) for name, values in found.items()}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    main()
