"""A plain user's project whose runs go to ssh hosts, and looks at these. Fixtures: see the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.host import ENVIRONMENT
from tests.cluster.user import give
from tests.real.conftest import events, log, state, until
from tests.real.slurm import GivenProject
from tests.real.slurm_install import LASTING, pip_variables

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.cluster.ssh_host import SshHost
    from tests.cluster.ssh_hosts import SshHosts

SSH = ("compute=ssh", "compute.hosts=[hosta]", "entry_script=train.py", "compute.grace_s=3")
SINGLE = (*SSH, "environment.torch=null")
RANKS = (*SINGLE, "dist=mpi", "dist.horovod=false")
TWO_HOSTS = (*RANKS, "compute.hosts=[hosta,hostb]", "nodes=2", "procs_per_node=2")


@dataclass(frozen=True)
class SshProject(GivenProject):
    """The plain user's project folder on this machine; root is who is nobody on the hosts."""

    hosts: SshHosts
    venv: Path

    @property
    def env(self) -> dict[str, str]:
        return {
            **pip_variables(),
            "PATH": f"{self.venv / 'bin'}:{ENVIRONMENT['PATH']}",
            "LAUNCHER_CACHE": str(LASTING / "cache"),
        }

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        own = {**self.env, **env}
        return self.hosts.start(("launcher", *self.known(words)), cwd=self.path, env=own)

    @property
    def config(self) -> str:
        """Return the option that names the file that tells ssh of the hosts."""
        return f"compute.ssh_config={self.hosts.config}"

    def known(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Return options such that ssh knows the hosts: this user has no real home."""
        told = any(word.startswith("compute.ssh_config=") for word in words)
        return (*words, self.config) if "compute=ssh" in words and not told else words

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run a shell's line as the user, in the project, with the launcher on PATH."""
        argv = ("bash", "-c", line)
        return self.hosts.run(argv, cwd=self.path, env=self.env, timeout_s=580)

    def python(self, script: str, *words: str, **env: str) -> None:
        """Run a script of the project's with these options as its arguments; it must succeed."""
        argv = ("python", script, *self.known(words))
        done = self.hosts.run(argv, cwd=self.path, env={**self.env, **env}, timeout_s=300)
        assert done.returncode == 0, done.stderr

    def submit(self, *words: str, **env: str) -> Path:
        """Return the folder of the run that was started, and is not waited for."""
        done = self.launch(*words, **env)
        assert done.returncode == 0, done.stderr
        return self.path / "runs" / done.stdout.strip()

    def refused(self, *options: str, status: int, words: tuple[str, ...], **env: str) -> str:
        """Check that a submit says these words and leaves nothing; return all that it said."""
        done = self.launch(*options, **env)
        assert done.returncode == status, done.stderr
        for word in words:
            assert word in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert not list(self.path.glob("runs/*/events.jsonl"))
        return done.stderr

    def status(self, run: Path) -> dict[str, Any]:
        """Return what `launcher show --json` tells of a run."""
        done = self.launch("show", run.name, "--json")
        assert done.returncode == 0, done.stderr
        values: dict[str, Any] = json.loads(done.stdout)
        return values

    def becomes(self, run: Path, *states: str, why: str = "") -> dict[str, Any]:
        """Return what the launcher tells of a run once it is in one of these states.

        ``why``: what its reason is to name.
        """
        told: dict[str, Any] = {}

        def is_so() -> bool:
            told.update(self.status(run))
            return told["state"] in states and why in told["reason"]

        try:
            until(is_so)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{told}\n{self.everything(run)}") from None
        return told

    def begins(self, run: Path) -> None:
        """Return once it is known here that a run runs: its submit looks for that for a second."""
        if state(run) != "RUNNING":
            self.becomes(run, "RUNNING")

    def there(self, run: Path, host: SshHost | None = None) -> Path:
        """Return the run's folder on a host, as it is seen from here."""
        return (host or self.hosts.hosta).user_home / ".launcher" / "runs" / run.name

    def said(self, run: Path, rank: int = 0, host: SshHost | None = None) -> str:
        """Return what a rank has written on its host."""
        path = self.there(run, host) / "logs" / f"rank-{rank}.log"
        return path.read_text() if path.exists() else ""

    def everything(self, run: Path) -> str:
        """Return all that a run wrote, here and there, for a failure's message."""
        found = [run / "events.jsonl", *sorted((run / "logs").glob("*"))]
        for host in self.hosts.all:
            found += [self.there(run, host) / "events.jsonl"]
            found += sorted((self.there(run, host) / "logs").glob("*"))
        return "".join(f"-- {each}\n{each.read_text()}" for each in found if each.exists())

    def running(self) -> list[str]:
        """Return what runs on the hosts beside the connections of ssh."""
        words = [each for host in self.hosts.all for each in host.processes().values()]
        return [each for each in words if not each.startswith("sshd:")]

    def left(self) -> list[str]:
        """Return what still runs there a moment after an end: a pool leaves after its last run."""
        with contextlib.suppress(AssertionError):
            until(lambda: not self.running(), 60)
        return self.running()


def write_much(box: SshProject) -> None:
    """Write a script beside 40 files of 4 MB, whose sizes it adds up."""
    box.write("train.py", "import os\nprint(sum(os.path.getsize(f'{n}') for n in range(40)))\n")
    for number in range(40):
        (box.path / str(number)).write_bytes(os.urandom(1024) * (4 << 10))
    give(box.path)


def outcome(run: Path) -> dict[str, Any]:
    """Return the event that tells how a run ended, as its folder here has it."""
    return events(run)[-1]


def records(run: Path, ranks: int) -> list[dict[str, Any]]:
    """Return what each rank printed as one line of JSON."""
    return [json.loads(log(run, rank)) for rank in range(ranks)]


@pytest.fixture
def box(hosts: SshHosts, installed: Path, request: pytest.FixtureRequest) -> SshProject:
    """An empty project folder of the plain user's, and hosts on which nothing runs."""
    path = hosts.project(hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8])
    return SshProject(path=path, hosts=hosts, venv=installed)
