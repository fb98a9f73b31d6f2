"""The files that configure a cluster's daemons, as text.

Why these values: neither systemd nor cgroups are needed; nodes have the cores and GPUs that a test
wants, whatever the machine has; batch jobs start within a second, requeued ones within ten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MEMORY_MB = 8000
DATABASE = "slurm_acct_db"
# Nothing here uses cgroups, but slurmd looks for them and gives up where it finds none; and where
# it finds version 2, it wants systemd. Told version 1, it does not look. Source: cgroup.conf(5)
CGROUP = "CgroupPlugin=cgroup/v1\n"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the files are made of; node 1 is `node1`, the controllers' host is `ctl`."""

    folder: Path
    network: str  # the first three numbers of its addresses; .1 is the machine itself
    nodes: int
    cpus: int
    gpus: int
    accounting: str

    @property
    def controller(self) -> str:
        return f"{self.network}.2"

    def node(self, i: int) -> str:
        return f"{self.network}.{10 + i}"

    @property
    def munge(self) -> Path:
        return self.folder / "run" / "munge.socket"


def hosts(at: Layout, machine: str) -> str:
    """Return /etc/hosts for every host."""
    lines = ["127.0.0.1 localhost", f"{at.network}.1 {machine}", f"{at.controller} ctl"]
    lines += [f"{at.node(i)} node{i}" for i in range(1, at.nodes + 1)]
    return "\n".join(lines) + "\n"


def slurm(at: Layout, settings: dict[str, str]) -> str:
    """Return slurm.conf; `settings` replace single values. Source: slurm.conf(5)."""
    folder = at.folder
    values = {
        "ClusterName": "launchertest",
        "SlurmctldHost": f"ctl({at.controller})",
        "SlurmUser": "root",
        # A requeued job waits until its credential has expired; 5 s is the least that is allowed.
        "AuthInfo": f"socket={at.munge},cred_expire=5",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool" / "%n",
        "SlurmctldPidFile": folder / "run" / "slurmctld.pid",
        "SlurmdPidFile": folder / "run" / "slurmd.%n.pid",
        "SlurmctldLogFile": folder / "log" / "slurmctld.log",
        "SlurmdLogFile": folder / "log" / "slurmd.%n.log",
        "TmpFS": "/tmp",  # the PMIx plugin's files there bear no node's name: each node has its own
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "1",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SlurmdParameters": "config_overrides",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,"
        "bf_interval=1,default_queue_depth=1000",
        "MpiDefault": "none",
        "PropagateResourceLimits": "NONE",
        "ReturnToService": "2",
        "KillWait": "30",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SlurmdTimeout": "20",
        "MessageTimeout": "10",
        "BatchStartTimeout": "30",
        "MaxArraySize": "10001",
        "GresTypes": "gpu",
        **_accounting(at),
        **settings,
    }
    gres = f" Gres=gpu:fake:{at.gpus}" if at.gpus else ""
    shape = f"CPUs={at.cpus} RealMemory={MEMORY_MB}{gres} Feature=avx2 State=UNKNOWN"
    nodes = [f"NodeName=node{i} NodeAddr={at.node(i)} {shape}" for i in range(1, at.nodes + 1)]
    parts = [
        "PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        "PartitionName=short Nodes=ALL MaxTime=60 State=UP",
        "PartitionName=urgent Nodes=ALL PriorityTier=10 State=UP",  # takes nodes from the others
    ]
    return "\n".join([*(f"{key}={value}" for key, value in values.items()), *nodes, *parts, ""])


def _accounting(at: Layout) -> dict[str, object]:
    if at.accounting == "none":
        return {"AccountingStorageType": "accounting_storage/none"}
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": at.controller,
        "AccountingStoragePass": at.munge,  # AuthInfo alone is not used for this
        "AccountingStorageTRES": "gres/gpu",
        "AccountingStorageEnforce": "associations,limits,qos",
    }


def gres(at: Layout) -> str:
    """Return gres.conf. Slurm schedules no GPU without a device file: see `devices`."""
    if not at.gpus:
        return ""
    files = at.folder / "dev" / f"nvidia[0-{at.gpus - 1}]"
    return f"NodeName=node[1-{at.nodes}] Name=gpu Type=fake File={files}\n"


def devices(at: Layout) -> list[Path]:
    """Return the paths that must be character devices; a link to one is one."""
    return [at.folder / "dev" / f"nvidia{i}" for i in range(at.gpus)]


def slurmdbd(at: Layout) -> str:
    """Return slurmdbd.conf, which must be readable by root alone. Source: slurmdbd.conf(5)."""
    return f"""\
AuthType=auth/munge
AuthInfo=socket={at.munge}
DbdHost=ctl
DbdAddr={at.controller}
SlurmUser=root
LogFile={at.folder / "log" / "slurmdbd.log"}
PidFile={at.folder / "run" / "slurmdbd.pid"}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StorageUser=slurm
StoragePass=slurm
StorageLoc={DATABASE}
CommitDelay=1
"""


def mariadb(at: Layout) -> tuple[str, ...]:
    """Return the database server's options."""
    return (
        "--no-defaults",
        "--user=mysql",
        f"--datadir={at.folder / 'db' / 'data'}",
        f"--socket={at.folder / 'db' / 'socket'}",
        f"--pid-file={at.folder / 'db' / 'pid'}",
        "--bind-address=127.0.0.1",
        "--skip-log-bin",
        "--innodb-buffer-pool-size=64M",
        "--innodb-log-file-size=16M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-lock-wait-timeout=900",
    )


GRANT = f"""\
create database {DATABASE};
create user slurm@'127.0.0.1' identified by 'slurm';
create user slurm@localhost identified by 'slurm';
grant all on {DATABASE}.* to slurm@'127.0.0.1';
grant all on {DATABASE}.* to slurm@localhost;
"""
