"""Machines that the user can ssh to, and nothing more. Source: ssh(1), ssh_config(5), prte(1).

Why mpirun starts from the first host: its daemons connect back to it, and the submitting machine
may be reached by none of the hosts, or be closed in a minute.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

from launcher.compute import supervisor
from launcher.compute.named import named
from launcher.errors import ConfigError, PlanError
from launcher.hosts import PLAIN, POOL, is_plain
from launcher.job import PlannedFile
from launcher.processes import START
from launcher.shell import ShellExpr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.cluster import Limit
    from launcher.compute import Group
    from launcher.compute.named import Named
    from launcher.hosts import Hosts
    from launcher.job import Facts, JobSpec, Resources
    from launcher.shell import Word

_CONFIG = "ssh_config"  # the file by which hosts reach each other
# What a user's own configuration there may say for a prompt, and mpirun and a pool cannot do with.
# A master would end with the run that it was started by, and take the others' connections with it.
_BETWEEN = {
    "BatchMode": "yes",
    "ControlPath": "none",
    "ControlMaster": "no",
    "ClearAllForwardings": "yes",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """Hosts in rank order; pools are on the first, supervisor and mpirun on a run's first."""

    kind: ClassVar[str] = "ssh"
    setup: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[str] = "objects"

    cpus_per_proc: int | None = None
    time: int | str | None = None
    grace_s: float = 10.0
    hosts: tuple[Any, ...] = ()
    ssh_config: str | None = None
    workdir: str = "~/.launcher"
    python: str = "python3"
    connect_timeout_s: float = 10.0
    host_timeout_s: int = 60
    max_parallel: int | None = None
    lease: bool = True

    def __post_init__(self) -> None:
        """Raise ConfigError on what can be no host, or no folder."""
        names = [each.name for each in self.named()]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"compute.hosts: {name} is named twice",
                    hint="procs_per_node=2 starts two ranks on each host.",
                )
        if not is_plain(self.workdir):
            raise ConfigError(
                f"compute.workdir={self.workdir}: not a folder that PATH and mpirun can hold",
                hint=f"{PLAIN}; ~/ is the home on each host.",
            )
        if not self.python.strip() or self.python.startswith("-"):
            raise ConfigError(f"compute.python={self.python}: not a program")
        for key, least in (("connect_timeout_s", 1), ("host_timeout_s", 6)):
            if getattr(self, key) < least:
                raise ConfigError(f"compute.{key}={getattr(self, key):g}: must be {least} or more")

    def named(self) -> tuple[Named, ...]:
        """Return the hosts as they are configured, in rank order."""
        return tuple(named(index, each) for index, each in enumerate(self.hosts))

    def check(self, resources: Resources) -> None:
        """Raise PlanError when fewer hosts than nodes are named, or what none of them can hold."""
        if self.max_parallel is not None and self.max_parallel < 1:
            raise PlanError(f"compute.max_parallel={self.max_parallel}: must be 1 or more")
        if len(self.hosts) < resources.nodes:
            names = ",".join(each.name for each in self.named())
            needs = f"nodes={resources.nodes} needs as many hosts, and it names {len(self.hosts)}"
            raise PlanError(
                f"compute.hosts=[{names}]: {needs}",
                hint="compute.hosts=[hosta,hostb] names them, in rank order.",
            )
        for each in self.named():
            if each.slots is not None and each.slots < resources.procs_per_node:
                raise PlanError(
                    f"procs_per_node={resources.procs_per_node}: {each.name} has "
                    f"slots: {each.slots} in compute.hosts",
                    hint="A rank takes a slot; without slots, cores are shared out.",
                )

    def refuse(self, job: JobSpec, facts: Facts) -> None:
        """Raise PlanError when too few hosts are reached, or one has too little for the ranks."""
        reached = [each.name for each in _hosts(facts).hosts]
        if len(reached) < job.resources.nodes:
            raise PlanError(
                f"nodes={job.resources.nodes}: of compute.hosts only {', '.join(reached)} can be "
                "reached",
                hint="launcher doctor compute=ssh ... tells why.",
            )
        slots = {each.name for each in self.named() if each.slots is not None}
        for host in _hosts(facts).hosts:
            host.check(job.resources, None if host.name in slots else self.cpus_per_proc)

    def cpus_of_a_rank(self, resources: Resources, facts: Facts) -> int | None:
        """Return what is asked for, else a host's cores shared among its slots; at least 1."""
        slots = max((each.slots or 0 for each in self.named()), default=0)
        return self.cpus_per_proc or max(1, facts.cpus // (slots or resources.procs_per_node))

    def restarts(self) -> int:
        """Return how often the place may start a job again."""
        return 0

    def signal_s(self, resources: Resources) -> int:  # noqa: ARG002
        """Return 0: nobody ends a job there but its own limit, by SIGTERM."""
        return 0

    def silence_s(self) -> int:
        """Return after how many seconds of silence a host counts as lost."""
        return self.host_timeout_s

    def head_address(self, resources: Resources, facts: Facts) -> Word:  # noqa: ARG002
        """Return the first host's address, as the others reach it."""
        return ShellExpr('"${LAUNCHER_HOSTS%%,*}"') if resources.nodes > 1 else "127.0.0.1"

    def slots(self, resources: Resources, facts: Facts) -> Word:  # noqa: ARG002
        """Return the hosts, each with its ranks; mpirun runs on the first, whatever its name."""
        ranks = resources.procs_per_node
        if resources.nodes == 1:
            return f"localhost:{ranks}"
        return ShellExpr(f'"localhost:{ranks},${{others//,/:{ranks},}}:{ranks}"')

    def step(self, resources: Resources, facts: Facts) -> tuple[Word, ...]:  # noqa: ARG002
        """Return (): mpirun starts the ranks."""
        return ()

    def before_step(self, resources: Resources, facts: Facts) -> tuple[str, ...]:  # noqa: ARG002
        """Return the line that has the hosts but the first, as mpirun is told of them."""
        return ("others=${LAUNCHER_HOSTS#*,}",) if resources.nodes > 1 else ()

    def mpi_environment(self, resources: Resources, facts: Facts) -> dict[str, Word]:
        """Return the transports, no scheduler, and how the first host reaches the others."""
        several = resources.nodes > 1
        values: dict[str, Word] = {"OMPI_MCA_btl": "self,sm,tcp" if several else "self,sm"}
        for name in ("OMPI_MCA_plm", "OMPI_MCA_ras", "PRTE_MCA_plm", "PRTE_MCA_ras"):
            values[name] = "^slurm"
        if several:
            first = ",".join(each.address for each in _hosts(facts).hosts[: resources.nodes])
            # A pool says which they are; by hand, and where there is none, the first ones.
            values["LAUNCHER_HOSTS"] = ShellExpr(f'"${{LAUNCHER_HOSTS:-{first}}}"')
            values[START] = ShellExpr(f'"${{{START}:-}}"')  # its keepers know ranks by that
            agent = ShellExpr(f'"{_starts(facts)} $LAUNCHER_RUN_DIR/{_CONFIG}"')
            old = facts.prefix.mpi_version[:1] == (4,)
            values["OMPI_MCA_plm_rsh_agent" if old else "PRTE_MCA_plm_ssh_agent"] = agent
            # Else daemons of a host that is lost stay on the others for a quarter of an hour.
            # Later than we give a host up, for we say which one it was.
            waits = {"time": 2 * self.host_timeout_s, "intvl": self.host_timeout_s // 2}
            for name, value in {**waits, "probes": 3}.items():
                values[f"{'OMPI' if old else 'PRTE'}_MCA_oob_tcp_keepalive_{name}"] = str(value)
        return values

    def files(
        self, job: JobSpec, facts: Facts, run_dir: str, *, alone: bool
    ) -> tuple[PlannedFile, ...]:
        """Return how the hosts reach each other; alone, what the run's own pool is to do, too."""
        hosts = _hosts(facts)
        several = (job.resources.nodes if not alone else len(hosts.hosts)) > 1
        config = (PlannedFile(path=_CONFIG, text=between(hosts)),) if several else ()
        if not alone:
            return config
        run_id = run_dir.rpartition("/")[2]
        values = {"kind": self.kind, "runs": [run_id], "store": "../.."}
        values |= self._pool([job], facts, hosts.folder(run_id))
        text = json.dumps(values, indent=1) + "\n"
        return (*config, PlannedFile(path=f"{POOL}/group.json", text=text))

    def commands(self, job: JobSpec, facts: Facts, run_dir: str) -> tuple[tuple[str, ...], ...]:  # noqa: ARG002
        """Return the connections to the hosts, and the pool that the first is asked to start."""
        from launcher.ssh.ready import target  # noqa: PLC0415 - hosts only

        hosts = _hosts(facts)
        ways = [target(hosts, each.name) for each in hosts.hosts]
        pool = _starter(facts, hosts.pool(run_dir.rpartition("/")[2]))
        return (*(way.command() for way in ways), pool)

    def limits(self, facts: Facts) -> tuple[Limit, ...]:  # noqa: ARG002
        """Return (): as many may wait as there are."""
        return ()

    def shape(self, job: JobSpec) -> dict[str, Any]:  # noqa: ARG002
        """Return {}: a pool takes runs of all sizes."""
        return {}

    def shared(self, groups: int) -> Ssh:  # noqa: ARG002
        """Return it as it is: pools lease the same hosts."""
        return self

    def group(self, jobs: Sequence[JobSpec], facts: Facts, folder: str, job_name: str) -> Group:  # noqa: ARG002
        """Return what each run needs and what the hosts have; the pool starts on the first one."""
        hosts = _hosts(facts)
        there = hosts.group(folder)
        config = PlannedFile(path=_CONFIG, text=between(hosts))
        return self._pool(jobs, facts, there), (config,), (_starter(facts, there),)

    def _pool(self, jobs: Sequence[JobSpec], facts: Facts, folder: str) -> dict[str, Any]:
        """Return what a pool is told; ``folder``: where it finds ssh's configuration."""
        named = {each.name: each for each in self.named()}
        return {
            "needs": [_need(job, facts) for job in jobs],
            "hosts": [
                {
                    "name": host.name,
                    "address": host.address,
                    "order": f"{host.hostname} {host.address}",  # the same in all pools
                    "slots": named[host.name].slots,
                    "gpus": named[host.name].gpus,
                    "here": number == 0,
                }
                for number, host in enumerate(_hosts(facts).hosts)
            ],
            "ssh": ["ssh", "-F", f"{folder}/{_CONFIG}"],
            "secrets": jobs[0].secrets,
        }


def _starts(facts: Facts) -> str:
    """Return the words that mpirun has before a host and its command; it splits them at spaces."""
    return f"{facts.python} -I -S {facts.package_root}/launcher/ssh/agent/rsh.py"


def _starter(facts: Facts, folder: str) -> tuple[str, ...]:
    """Return the words that start a pool, whose own words begin with those of a supervisor."""
    supervise = supervisor(facts, "")[:-1]
    return (*supervise[:-1], f"{facts.package_root}/launcher/pool_runs.py", folder, *supervise)


def _need(job: JobSpec, facts: Facts) -> dict[str, Any]:
    """Return what a run needs of each of its hosts."""
    ranks = job.resources.procs_per_node
    leases = cast("Ssh", job.compute).lease
    return {
        "nodes": job.resources.nodes,
        "slots": ranks if leases else 0,
        "cores": _cores(job, facts) if leases else 0,
        "gpus": ranks * job.resources.gpus_per_proc if leases else 0,
        "max_parallel": getattr(job.compute, "max_parallel", None),
    }


def _cores(job: JobSpec, facts: Facts) -> int:
    """Return the cores that a run leases of a host."""
    ranks, cores = job.resources.procs_per_node, job.compute.cpus_per_proc
    if cores:
        return ranks * cores
    # Without a number of cores a rank, a host's share of them: all, or as many as of its GPUs.
    gpus = ranks * job.resources.gpus_per_proc
    return max(
        math.ceil(host.cpus * gpus / host.gpus) if gpus and host.gpus else host.cpus
        for host in _hosts(facts).hosts
    )


def between(hosts: Hosts) -> str:
    """Return ssh's configuration for these hosts: how they reach each other, asking nobody."""
    lines = ["# How a host reaches the others: mpirun's ssh reads this, and the pool's."]
    for host in hosts.hosts:
        lines += [f"Host {host.address}", f"  User {host.user}", f"  Port {host.port}"]
    lines += ["Match all", f"  ConnectTimeout {hosts.connect_timeout_s:g}"]
    # Of two lines that say the same the first one counts.
    lines += [f"  {name} {value}" for name, value in _BETWEEN.items()]
    lines += ["  Include ~/.ssh/config", "  Include /etc/ssh/ssh_config"]
    return "\n".join(lines) + "\n"


def _hosts(facts: Facts) -> Hosts:
    if facts.hosts is None:
        raise PlanError("compute=ssh: no host has been looked at")
    return facts.hosts
