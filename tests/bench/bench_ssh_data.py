"""Data to two ssh hosts: what `data.NAME.upload` does, against `tar | ssh` and `rsync -a`.

    python -m tests.bench.bench_ssh_data files   # 10,000 files, 100 MB
    python -m tests.bench.bench_ssh_data large   # one file of 1 GB

As root: the hosts of tests/cluster are brought up for it, with rsync. Each way sends to both hosts
side by side, over connections that are kept open, and has all that it had before removed first.
Medians of interleaved rounds on one machine: believe the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.host import ENVIRONMENT
from tests.cluster.ssh_hosts import SshHosts
from tests.cluster.user import give
from tests.real.slurm_install import install

if TYPE_CHECKING:
    from tests.cluster.ssh_host import SshHost

MB = 1_000_000
OURS = (
    "import sys, time\n"
    "from launcher.data import Upload\n"
    "from launcher.ssh.carry import carry, looked\n"
    "from launcher.ssh.connection import Target, everywhere\n"
    "from launcher.ssh.ready import ready\n"
    "targets = [Target(name=name, config=sys.argv[1]) for name in ('hosta', 'hostb')]\n"
    "channels = everywhere(ready, targets)\n"
    "begun, say = time.perf_counter(), lambda line: None\n"
    "data = looked({'d': Upload(path=sys.argv[2])}, channels, say)\n"
    "carry(channels, data, say)\n"
    "print(time.perf_counter() - begun)\n"
)
KEPT = "-o ControlMaster=auto -o ControlPersist=60 -o ControlPath=$HOME/%C"
BOTH = 'for host in hosta hostb; do {} & pids="$pids $!"; done; for p in $pids; do wait $p; done'
WAYS = {
    "tar": BOTH.format(f"tar -c set | ssh -F $CONFIG {KEPT} $host tar -x"),
    "rsync": BOTH.format(f'rsync -a -e "ssh -F $CONFIG {KEPT}" set $host:'),
    "launcher": '"$PYTHON" ours.py $CONFIG set',
}
CONNECTED = "connected"
NAMES = {
    "tar": "`tar \\| ssh`",
    "rsync": "`rsync -a`",
    "launcher": "`launcher`, from its start",
    CONNECTED: "the same, from when its hosts are reached, as they are for the run itself",
}


def main() -> None:
    """Bring the hosts up, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("files", "large"))
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    venv = install()
    with SshHosts(absent=(), disk="8g") as hosts:
        bench = Bench(hosts, venv, args.what)
        for _ in range(args.rounds):
            for way in WAYS:
                bench.round(way)
        bench.show()


class Bench:
    """The plain user's folder with the data, and what was measured."""

    def __init__(self, hosts: SshHosts, venv: Path, what: str) -> None:
        self.hosts, self.what = hosts, what
        self.path = hosts.project("bench")
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.bytes: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.env = {
            **ENVIRONMENT,
            "PYTHON": str(venv / "bin" / "python"),
            "CONFIG": str(hosts.config),
            "LAUNCHER_CACHE": str(self.path / "cache"),
        }
        (self.path / "ours.py").write_text(OURS)
        (self.path / "set").mkdir()
        if what == "files":
            for number in range(10_000):
                (self.path / "set" / f"{number}").write_bytes(os.urandom(10_000))
        else:
            with (self.path / "set" / "large").open("wb") as file:
                for _ in range(1000):
                    file.write(os.urandom(MB))
        give(self.path)

    def round(self, way: str) -> None:
        """Send all, nothing, and what one change makes of it."""
        shutil.rmtree(self.path / "cache", ignore_errors=True)
        for host in self.hosts.all[:2]:
            for each in ("set", ".launcher/data"):
                shutil.rmtree(host.user_home / each, ignore_errors=True)
        self.send(way, "first time")
        self.send(way, "unchanged")
        if self.what == "files":
            changed = self.path / "set" / "1234"
            changed.write_bytes(os.urandom(10_000))
        else:
            with (self.path / "set" / "large").open("r+b") as file:
                file.seek(500 * MB)
                file.write(os.urandom(1000))
        self.send(way, "one file changed")

    def send(self, way: str, case: str) -> None:
        """Carry a way out, and note what it took."""
        before, begun = received(self.hosts.hosta), time.perf_counter()
        done = self.hosts.run(("sh", "-c", WAYS[way]), cwd=self.path, env=self.env, timeout_s=300)
        took = time.perf_counter() - begun
        if done.returncode:
            raise SystemExit(f"{way}: {done.stdout}{done.stderr}")
        size = received(self.hosts.hosta) - before
        figures = {way: took} | ({CONNECTED: float(done.stdout)} if way == "launcher" else {})
        for name, seconds in figures.items():
            self.seconds[name, case].append(seconds)
            self.bytes[name, case].append(size)

    def show(self) -> None:
        """Print the table; the ratio is to rsync."""
        print("| | | time | ratio | to each host |\n|---|---|---|---|---|")
        for case in ("first time", "unchanged", "one file changed"):
            base = statistics.median(self.seconds["rsync", case])
            for way, name in NAMES.items():
                took = statistics.median(self.seconds[way, case])
                size = statistics.median(self.bytes[way, case]) / MB
                print(f"| {case} | {name} | {took:.2f} s | {took / base:.2f} | {size:.2f} MB |")


def received(host: SshHost) -> int:
    """Return the bytes that a host has had by its network."""
    lines = Path(f"/proc/{host.pid}/net/dev").read_text().splitlines()[2:]
    pairs = (line.split(":") for line in lines)
    return sum(int(rest.split()[0]) for name, rest in pairs if name.strip() != "lo")


if __name__ == "__main__":
    main()
