"""Pools on the tests' own ssh hosts, with a supervisor that says when it had what."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.compute.ssh import between
from launcher.hosts import Host, Hosts
from launcher.job import RunRecord
from tests.cluster.host import ENVIRONMENT
from tests.cluster.site import ROOT
from tests.cluster.user import USER, account, give
from tests.real.conftest import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from typing_extensions import Self

    from tests.cluster.ssh_host import SshHost
    from tests.cluster.ssh_hosts import SshHosts

HOME = f"/home/{USER}"
NOBODY = 65534
HOLD = ("/usr/bin/python3", "-I", "-S", f"{HOME}/lib/launcher/pool/hold.py")
_numbers = itertools.count()

# Writes down the names that its own open sockets have, and works for as long as its run says: so
# many seconds, or until there is a file of that name in the home.
SUPERVISOR = r"""
import json, os, sys, time
begun, folder = time.time(), sys.argv[1]
inodes = {os.readlink(f"/proc/self/fd/{n}")[8:-1] for n in os.listdir("/proc/self/fd")
          if os.path.lexists(f"/proc/self/fd/{n}")}
names = [line.split()[-1] for line in open("/proc/net/unix") if line.split()[6] in inodes]
told = {"host": os.uname().nodename, "names": sorted(each.rpartition("/")[2] for each in names),
        "pid": os.getpid(), "begun": begun, "cores": sorted(os.sched_getaffinity(0)),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "hosts": os.environ.get("LAUNCHER_HOSTS")}
def tell(**more):
    with open(folder + "/told.new", "w") as file:
        file.write(json.dumps({**told, **more}))
    os.replace(folder + "/told.new", folder + "/told")
with open(folder + "/events.jsonl", "a") as file:
    file.write(json.dumps({"time": begun, "state": "RUNNING"}) + "\n")
tell()
work = open(folder + "/work").read()
while not (os.path.exists(os.path.expanduser("~/" + work)) or
           work[0].isdigit() and time.time() > begun + float(work)):
    time.sleep(0.01)
tell(ended=time.time())
"""


@dataclass(frozen=True)
class Queue:
    """A group of runs, and the host on which its pool runs."""

    hosts: SshHosts
    head: SshHost
    name: str
    count: int

    @property
    def store(self) -> Path:
        return Path(self.name)

    @property
    def group(self) -> Path:
        return self.store / ".sweeps" / "s" / "groups" / "0"

    def start(self) -> None:
        """Start the pool, and return when it has the runs."""
        words = f"python3 -I -S lib/launcher/pool_runs.py {HOME}/{self.group}"
        supervisor = f"/usr/bin/python3 -I -S {HOME}/lib/supervisor.py"
        line = f"echo ! | setsid {words} {supervisor} >>{self.group}/pool.log 2>&1 &"
        done = self.hosts.ssh(self.head.name, line)
        assert done.returncode == 0, done.stderr
        until(lambda: self.pool or self.told(0))  # it may have ended by now

    @property
    def pool(self) -> int:
        """The process id, as seen from outside; 0 when it has ended."""
        mark = f"{HOME}/{self.group} "
        found = [
            pid
            for pid, words in self.head.processes().items()
            if mark in words and words.startswith("python3")
        ]
        return found[0] if found else 0

    def told(self, task: int) -> dict[str, Any]:
        """Return what a run's supervisor has written, on whatever host; nothing yet is {}."""
        for host in self.hosts.all:
            path = host.user_home / self.store / f"run-{task}" / "told"
            if path.exists():
                found: dict[str, Any] = json.loads(path.read_text())
                return found
        return {}

    def all(self, *, ended: bool = True) -> list[dict[str, Any]]:
        """Return what all have written that have ended, or begun."""
        found = [self.told(task) for task in range(self.count)]
        return [each for each in found if each and ("ended" in each or not ended)]

    def events(self, task: int) -> list[dict[str, Any]]:
        path = self.head.user_home / self.store / f"run-{task}" / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def wait(self) -> list[dict[str, Any]]:
        """Return what all runs have written, once they and the pool have ended."""
        try:
            until(lambda: len(self.all()) == self.count and not self.pool)
        except AssertionError:
            log = self.head.user_home / self.group / "pool.log"
            ssh = log.with_name("ssh.log")
            said = [each.read_text() for each in (log, ssh) if each.exists()]
            raise AssertionError([said, self.all(ended=False)]) from None
        return self.all()


def prepare(hosts: SshHosts) -> None:
    """Have the launcher's code on all hosts, in the user's home, and nothing of another test."""
    for host in hosts.all:
        clean = "rm -rf lib runs-* open later; mkdir lib; tar -C lib -x"
        copy = f"tar -C {ROOT} --exclude=__pycache__ -c launcher"
        line = f"{copy} | ssh -F {hosts.config} {host.name} '{clean}'"
        done = hosts.run(("sh", "-c", line), user="root")
        assert done.returncode == 0, done.stderr
        (host.user_home / "lib" / "supervisor.py").write_text(SUPERVISOR)


def queue(
    hosts: SshHosts,
    on: Sequence[SshHost],
    works: Iterable[str],
    *,
    slots: int | None = 4,
    has: Mapping[str, Any] | None = None,
    nodes: Sequence[int] = (),
    **need: Any,
) -> Queue:
    """Return a group that waits for its pool on the first host; each run works as it says.

    ``has``: what else a host has to lease; ``nodes``: of each run.
    """
    each = list(works)
    made = Queue(hosts, on[0], f"runs-{next(_numbers)}", len(each))
    group = on[0].user_home / made.group
    group.mkdir(parents=True)
    usual = {"slots": 1, "cores": 1, "gpus": 0, "max_parallel": None}
    names = [f"run-{task}" for task in range(made.count)]
    leases = {"slots": slots, **(has or {})}
    named = [
        {"name": host.name, "address": host.address, "order": host.name, **leases} for host in on
    ]
    values = {
        "runs": names,
        "needs": [usual | need | {"nodes": n} for n in nodes or [1] * made.count],
        "ssh": ["ssh", "-F", f"{HOME}/{made.group}/ssh_config"],
        "hosts": [{**host, "here": host["name"] == on[0].name} for host in named],
    }
    (group / "group.json").write_text(json.dumps(values))
    (group / "ssh_config").write_text(_config(on))
    for name, work in zip(names, each, strict=True):
        folder = on[0].user_home / made.store / name
        folder.mkdir()
        (folder / "work").write_text(work)
        (folder / "run.json").write_text(record(name))
        (folder / "events.jsonl").write_text('{"time": 0, "state": "SUBMITTING"}\n')
    give(on[0].user_home / made.store)
    return made


def _config(on: Sequence[SshHost]) -> str:
    """Return the file by which hosts reach each other."""
    known = {"user": USER, "port": 22, "cpus": 1}
    hosts = [Host(name=each.name, address=each.address, hostname=each.name, **known) for each in on]
    return between(
        Hosts(hosts=tuple(hosts), workdir="", config="", python="", connect_timeout_s=10)
    )


def record(run_id: str, grace_s: float = 60.0) -> str:
    """Return the text of a run's record, whose ranks have that long to end."""
    made = RunRecord(
        id=run_id,
        name="train",
        created=0.0,
        user=USER,
        host="here",
        compute="ssh",
        dist="mpi",
        entry=("train.py",),
        nodes=1,
        procs_per_node=1,
        grace_s=grace_s,
        time_s=None,
        git_dir="",
        prefix="",
        commit="",
        secrets=(),
        overrides=(),
        silence_s=30,
    )
    return made.to_json()


def let_go(hosts: SshHosts, *, again: bool = False) -> None:
    """Let the runs end that wait for ``open``, and those to follow; or no longer."""
    for host in hosts.all:
        path = host.user_home / "open"
        if again:
            path.unlink()
        else:
            path.touch()


def overlaps(told: Sequence[dict[str, Any]]) -> list[Any]:
    """Return pairs of runs that had something of one host at once."""
    found = []
    for one, other in itertools.combinations(told, 2):
        both = {*one["names"]} & {*other["names"]} if one["host"] == other["host"] else set()
        if both and one["begun"] < other["ended"] and other["begun"] < one["ended"]:
            found.append((one, other))
    return found


class Holder:
    """A `hold` on a host, of any user's, spoken to as a pool elsewhere would."""

    def __init__(self, host: SshHost, user: int | None = None) -> None:
        who = account(USER).pw_uid if user is None else user
        words = ("setpriv", f"--reuid={who}", f"--regid={who}", "--clear-groups", *HOLD)
        self.running = subprocess.Popen(
            host.inside(words),
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        supervisor = ["/usr/bin/python3", "-I", "-S", f"{HOME}/lib/supervisor.py"]
        self.silent = False  # else it says, as a pool does, that it lives
        self.saying = threading.Lock()
        self.ended = threading.Event()
        self.say(hello=supervisor, slots=1, gpus=None)
        assert self.hear() == {"hello": host.name}
        self.living = threading.Thread(target=self.live, daemon=True)
        self.living.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.living.join()
        with contextlib.suppress(BrokenPipeError), self.running:  # closes our end
            pass

    def live(self) -> None:
        while not self.ended.wait(2.0):
            if not self.silent:
                with contextlib.suppress(BrokenPipeError):
                    self.write("\n")

    @property
    def pid(self) -> int:
        """Its process id, as seen from here: nsenter's only child."""
        path = Path(f"/proc/{self.running.pid}/task/{self.running.pid}/children")
        return int(until(path.read_text))

    def say(self, **message: Any) -> None:
        self.write(json.dumps(message) + "\n")

    def write(self, text: str) -> None:
        assert self.running.stdin
        with self.saying:
            self.running.stdin.write(text)
            self.running.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.running.stdout
        line = self.running.stdout.readline().strip()  # the first of all is empty
        found: dict[str, Any] = json.loads(line or self.running.stdout.readline())
        return found

    def ask(self, number: int = 1) -> dict[str, Any]:
        """Return how it stands, once that is told."""
        self.say(ask=number, need={"slots": 1, "cores": 1, "gpus": 0})
        return self.hear()

    def until_held(self, number: int = 1) -> None:
        while self.hear() != {"held": number}:
            pass


def names(host: SshHost) -> set[str]:
    """Return what is leased on a host by anybody, and who waits."""
    lines = (host.root / "proc" / "1" / "net" / "unix").read_text().splitlines()
    return {line.rpartition("/")[2] for line in lines if "@launcher/all/" in line}


def ahead(host: SshHost) -> int:
    """Return how many wait there."""
    return sum(name.startswith("core.") and name != "core.turn" for name in names(host))


def free(host: SshHost) -> bool:
    """Return whether nothing is leased there, and nobody waits."""
    return not names(host)


def kill(pid: int) -> None:
    os.kill(pid, 9)
