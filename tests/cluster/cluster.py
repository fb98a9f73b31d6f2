"""A real Slurm cluster on this machine, for as long as a `with` block lasts.

The controllers (munged, slurmctld and, with accounting, MariaDB and slurmdbd) run on a host `ctl`,
each slurmd on one of its own: see host.py. The machine itself is the login node: commands run
there, as a plain user. Nothing listens outside these hosts, so clusters never meet.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.cluster import configuration
from tests.cluster.claim import Claim, claim
from tests.cluster.configuration import Layout
from tests.cluster.host import ENVIRONMENT, Host
from tests.cluster.user import USER, account, owned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

ROOT = Path(__file__).parents[2]
ACCOUNT = "research"  # the user's, where accounts are kept
QOS = "one"  # runs one job of a user at a time, where accounts are kept
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "ip", "nsenter", "unshare")
PROGRAMS_DBD = ("slurmdbd", "mariadbd", "mariadb-install-db")


class Cluster:
    """Nodes `node1`, `node2`, …; files in `folder`, which every node sees."""

    claim: Claim
    at: Layout
    ctl: Host
    nodes: list[Host]

    def __init__(
        self,
        *,
        nodes: int = 2,
        cpus: int = 4,
        gpus: int = 4,
        accounting: str = "none",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        assert accounting in {"none", "dbd"}
        self._shape: dict[str, Any] = {"nodes": nodes, "cpus": cpus, "gpus": gpus}
        self._shape["accounting"] = accounting
        self._settings = dict(settings or {})  # of slurm.conf, over ours
        self._slurmctld: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        programs = PROGRAMS + (PROGRAMS_DBD if self._shape["accounting"] == "dbd" else ())
        absent = [name for name in programs if not shutil.which(name, path=ENVIRONMENT["PATH"])]
        if absent:
            raise OSError(f"{' '.join(absent)} not found: tests/setup.sh installs them")
        with ExitStack() as stack:
            self.claim = stack.enter_context(claim())
            self._write()
            stack.callback(self._kill)
            self._start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    # -- what tests use ----------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        return self.claim.folder

    @property
    def env(self) -> dict[str, str]:
        """What a client of this cluster must have in its environment."""
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def home(self, user: str = USER) -> Path:
        """Return a user's home, which is this cluster's alone and seen by every node."""
        return owned(self.folder / "home" / user, user)

    def project(self, name: str, user: str = USER) -> Path:
        """Return a folder of a user's own on the shared file system."""
        return owned(self.home(user) / name, user)

    def run(
        self, argv: Sequence[str | Path], *, timeout_s: float = 60, **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end as `start` does; what it said is in the answer."""
        with self.start(argv, **how) as running:
            try:
                out, err = running.communicate(timeout=timeout_s)
            except BaseException:
                os.killpg(running.pid, signal.SIGKILL)
                raise
        return subprocess.CompletedProcess(argv, running.returncode, out, err)

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        user: str = USER,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command on the login node, with a user's rights and a fresh environment."""
        who = account(user)
        own = {"HOME": str(self.home(user)), "USER": user, "LOGNAME": user, "SHELL": "/bin/bash"}
        return subprocess.Popen(
            argv,
            cwd=cwd or self.home(user),
            env={**ENVIRONMENT, **own, **self.env, **(env or {})},
            user=who.pw_uid,
            group=who.pw_gid,
            extra_groups=os.getgrouplist(user, who.pw_gid),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def node_exec(
        self, node: int, argv: Sequence[str], timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a node, as root; nodes count from 1."""
        return self._ask(*self.nodes[node - 1].inside(tuple(argv)), timeout_s=timeout_s)

    def kill_node(self, node: int) -> None:
        """Pull a node's plug. Slurm sees it late: `scontrol update State=DOWN` tells it."""
        self.nodes[node - 1].kill()

    def start_node(self, node: int) -> None:
        """Plug a node in; `wait_idle` waits until Slurm has it back."""
        host = self.nodes[node - 1]
        host.start()
        no_names = ("mount", "--bind", str(self.folder / "etc" / "resolv.conf"), "/etc/resolv.conf")
        done = self._ask(*host.inside(no_names))
        assert done.returncode == 0, done.stderr
        words = ("slurmd", "-D", "-N", host.name, "-f", self.env["SLURM_CONF"])
        host.daemon(*words, log=self.folder / "log" / f"{host.name}.out")
        for each in (self.ctl, *self.nodes):  # else they talk to its old network card for a while
            if each.pid:
                self._ask(*each.inside(("ip", "neighbour", "flush", "all")))

    def stop_controller(self) -> None:
        assert self._slurmctld is not None
        self.ctl.end(self._slurmctld)
        self._slurmctld = None

    def start_controller(self) -> None:
        """Start slurmctld, which goes on where it was stopped."""
        words = ("slurmctld", "-D", "-f", self.env["SLURM_CONF"])
        self._slurmctld = self.ctl.daemon(*words, log=self.folder / "log" / "slurmctld.out")
        self._until("slurmctld", lambda: " is UP" in self._ask("scontrol", "ping").stdout)

    def wait_idle(self, timeout_s: float = 30) -> None:
        """Return when every node is idle: no job, and Slurm hears of it."""
        words = ("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%T")
        idle = ["idle"] * len(self.nodes)
        self._until("idle nodes", lambda: self._ask(*words).stdout.split() == idle, timeout_s)

    # -- up and down -------------------------------------------------------------------------

    def _write(self) -> None:
        folder = self.folder
        for name in ("etc", "run", "log", "state", "spool", "dev", "home", "db"):
            (folder / name).mkdir()
        self.at = Layout(folder=folder, network=self.claim.network, **self._shape)
        etc = folder / "etc"
        (etc / "hosts").write_text(configuration.hosts(self.at, socket.gethostname()))
        (etc / "slurm.conf").write_text(configuration.slurm(self.at, self._settings))
        (etc / "gres.conf").write_text(configuration.gres(self.at))
        # Nobody answers there, at once; the machine's own name server cannot be reached.
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        (etc / "cgroup.conf").write_text(configuration.CGROUP)
        for path in configuration.devices(self.at):
            path.symlink_to("/dev/null")
        private = {"munge.key": os.urandom(128)}
        if self.at.accounting == "dbd":
            private["slurmdbd.conf"] = configuration.slurmdbd(self.at).encode()
        for name, content in private.items():
            (etc / name).touch(mode=0o600)
            (etc / name).write_bytes(content)

        def host(name: str, address: str, number: int) -> Host:
            return Host(
                name=name,
                address=address,
                bridge=self.claim.bridge,
                cable=self.claim.cable(number),
                names=etc / "hosts",
                env={**ENVIRONMENT, **self.env},
                log=folder / "log" / f"{name}.host",
                keep=(folder, *([ROOT] if ROOT.is_relative_to("/tmp") else [])),
            )

        self.ctl = host("ctl", self.at.controller, 0)
        self.nodes = [host(f"node{i}", self.at.node(i), i) for i in range(1, self.at.nodes + 1)]

    def _start(self) -> None:
        account(USER)  # before anything looks it up
        self.ctl.start()
        self._start_munge()
        if self.at.accounting == "dbd":
            self._start_database()
        self.start_controller()
        if self.at.accounting == "dbd":
            for words in (
                ("add", "account", ACCOUNT),
                ("add", "qos", QOS, "MaxJobsPerUser=1"),
                ("add", "user", USER, f"account={ACCOUNT}", f"qos=normal,{QOS}"),
            ):
                done = self._ask("sacctmgr", "--immediate", *words)
                assert done.returncode == 0, done.stderr
        for i in range(1, self.at.nodes + 1):
            self.start_node(i)
        self.wait_idle()

    def _start_munge(self) -> None:
        run, log = self.folder / "run", self.folder / "log"
        self.ctl.daemon(
            "munged",
            "--foreground",
            f"--key-file={self.folder / 'etc' / 'munge.key'}",
            f"--socket={self.at.munge}",
            f"--pid-file={run / 'munged.pid'}",
            f"--seed-file={run / 'munge.seed'}",
            f"--log-file={log / 'munged.log'}",
            log=log / "munged.out",
        )
        words = ("munge", "--no-input", f"--socket={self.at.munge}")
        self._until("munged", lambda: self._ask(*words).returncode == 0)

    def _start_database(self) -> None:
        log, data = self.folder / "log", self.folder / "db" / "data"
        options = configuration.mariadb(self.at)
        who = account("mysql")
        data.mkdir()
        for path in (data.parent, data):
            os.chown(path, who.pw_uid, who.pw_gid)
        words = ("--auth-root-authentication-method=normal", "--skip-test-db")
        done = self._ask("mariadb-install-db", *options, *words)
        (log / "mariadb-install-db.out").write_text(done.stdout + done.stderr)
        assert done.returncode == 0, done.stderr
        self.ctl.daemon("mariadbd", *options, log=log / "mariadbd.out")
        client = ("mariadb", "--no-defaults", f"--socket={data.parent / 'socket'}", "--user=root")
        self._until("mariadbd", lambda: self._ask(*client, "-e", "select 1").returncode == 0)
        done = self._ask(*client, "-e", configuration.GRANT)
        assert done.returncode == 0, done.stderr
        self.ctl.daemon("slurmdbd", "-D", log=log / "slurmdbd.out")
        ask = ("sacctmgr", "--noheader", "show", "cluster")
        self._until("slurmdbd", lambda: self._ask(*ask).returncode == 0)

    def _kill(self) -> None:
        for host in (self.ctl, *self.nodes):
            host.kill()

    def _ask(self, *argv: str, timeout_s: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            check=False,
            env={**ENVIRONMENT, **self.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def _until(self, what: str, condition: Callable[[], Any], timeout_s: float = 30) -> None:
        end = time.monotonic() + timeout_s
        while not condition():
            for daemon in (each for host in (self.ctl, *self.nodes) for each in host.daemons):
                if daemon.poll() is not None:
                    raise OSError(f"no {what}: {daemon.args!r} ended\n{self._last_words()}")
            if time.monotonic() > end:
                raise TimeoutError(f"no {what} within {timeout_s} s\n{self._last_words()}")
            time.sleep(0.02)

    def _last_words(self) -> str:
        logs = sorted((self.folder / "log").iterdir())
        return "\n".join(
            f"-- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-8:])
            for path in logs
        )
