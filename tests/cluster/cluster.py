"""A real Slurm cluster on this machine, for as long as a `with` block lasts.

The controllers (munged, slurmctld and, with accounting, MariaDB and slurmdbd) run on a host `ctl`,
each slurmd on one of its own: see host.py. The machine itself is the login node: commands run
there, as a plain user. Nothing listens outside these hosts, so clusters never meet.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from tests.cluster import configuration
from tests.cluster.configuration import Layout
from tests.cluster.host import Host
from tests.cluster.site import PROGRAMS, ROOT, Site
from tests.cluster.user import USER, account

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence

ACCOUNT = "research"  # the user's, where accounts are kept
QOS = "one"  # runs one job of a user at a time, where accounts are kept
PROGRAMS_SLURM = ("munged", "slurmctld", "slurmd", "srun")
PROGRAMS_DBD = ("slurmdbd", "mariadbd", "mariadb-install-db")


class Cluster(Site):
    """Nodes `node1`, `node2`, …; files in `folder`, which every node sees."""

    at: Layout
    ctl: Host
    nodes: tuple[Host, ...]

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

    @property
    def programs(self) -> tuple[str, ...]:
        accounts = PROGRAMS_DBD if self._shape["accounting"] == "dbd" else ()
        return (*PROGRAMS, *PROGRAMS_SLURM, *accounts)

    @property
    def env(self) -> dict[str, str]:
        """What a client of this cluster must have in its environment."""
        return {"SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def node_exec(
        self, node: int, argv: Sequence[str], timeout_s: float = 300
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
        words = ("slurmd", "-D", "-N", host.name, "-f", self.env["SLURM_CONF"])
        host.daemon(*words, log=self.folder / "log" / f"{host.name}.out")

    def stop_controller(self) -> None:
        assert self._slurmctld is not None
        self.ctl.end(self._slurmctld)
        self._slurmctld = None

    def start_controller(self) -> None:
        """Start slurmctld, which goes on where it was stopped."""
        words = ("slurmctld", "-D", "-f", self.env["SLURM_CONF"])
        self._slurmctld = self.ctl.daemon(*words, log=self.folder / "log" / "slurmctld.out")
        self._until("slurmctld", lambda: " is UP" in self._ask("scontrol", "ping").stdout)

    def wait_idle(self, timeout_s: float = 180) -> None:
        """Return when every node is idle: no job, and Slurm hears of it."""
        words = ("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%T")
        idle = ["idle"] * len(self.nodes)
        self._until("idle nodes", lambda: self._ask(*words).stdout.split() == idle, timeout_s)

    # -- up and down -------------------------------------------------------------------------

    def _write(self) -> None:
        folder = self.folder
        for name in ("run", "state", "spool", "dev", "db"):
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

        files = {
            "/etc/hosts": str(etc / "hosts"),
            "/etc/resolv.conf": str(etc / "resolv.conf"),
            str(folder): str(folder),
            **({str(ROOT): str(ROOT)} if ROOT.is_relative_to("/tmp") else {}),
        }
        self.ctl = Host(**self._common("ctl", 0), address=self.at.controller, binds=files)
        self.nodes = tuple(
            Host(**self._common(f"node{i}", i), address=self.at.node(i), binds=files)
            for i in range(1, self.at.nodes + 1)
        )
        self.hosts = (self.ctl, *self.nodes)

    def _start(self) -> None:
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
            known, ask = f"Account={ACCOUNT} UserName={USER}(", ("show", "assoc_mgr", "flags=assoc")
            self._until("account", lambda: known in self._ask("scontrol", "-o", *ask).stdout)
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
