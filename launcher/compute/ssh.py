"""Machines that the user can ssh to, and nothing more. Source: ssh(1), ssh_config(5), prte(1).

Why mpirun starts from the first host: its daemons connect back to it, and the submitting machine
may be reached by none of the hosts, or be closed in a minute.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from launcher.compute import supervisor
from launcher.errors import ConfigError, PlanError
from launcher.job import PlannedFile
from launcher.shell import ShellExpr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.compute import Group
    from launcher.hosts import Hosts
    from launcher.job import Facts, JobSpec, Resources
    from launcher.shell import Word

# An alias, or [user@]host[:port]. What ssh or a shell could take for something else is no name.
_NAME = re.compile(r"[A-Za-z0-9_.\[:][^\s\x00-\x1f\x7f'\"`$\\;&|<>(){}*?!#]*")
_WORKDIR = re.compile(r"(~(?=/)|(?=/)|(?=\w))[\w./+@%=,:-]*", re.ASCII)
_CONFIG = "ssh_config"  # the file by which the first host reaches the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A host as it is configured; ``address``: how the others reach it, "": as ssh does here."""

    name: str
    address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """Hosts in rank order; the supervisor and mpirun run on the first one."""

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

    def __post_init__(self) -> None:
        """Raise ConfigError on what can be no host, or no folder."""
        names = [each.name for each in self.named()]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"compute.hosts: {name} is named twice",
                    hint="procs_per_node=2 starts two ranks on each host.",
                )
        if not _WORKDIR.fullmatch(self.workdir):
            raise ConfigError(
                f"compute.workdir={self.workdir}: not a folder that mpirun can be told of",
                hint="Letters, digits and ./_+@%=,:- only; ~/ is the home on each host.",
            )
        if not self.python.strip() or self.python.startswith("-"):
            raise ConfigError(f"compute.python={self.python}: not a program")
        for key, least in (("connect_timeout_s", 1), ("host_timeout_s", 6)):
            if getattr(self, key) < least:
                raise ConfigError(f"compute.{key}={getattr(self, key):g}: must be {least} or more")

    def named(self) -> tuple[Named, ...]:
        """Return the hosts as they are configured, in rank order."""
        return tuple(_named(index, each) for index, each in enumerate(self.hosts))

    def check(self, resources: Resources) -> None:
        """Raise PlanError when fewer hosts than nodes are named."""
        if len(self.hosts) < resources.nodes:
            names = [each.name for each in self.named()]
            raise PlanError(
                f"compute.hosts={names}: nodes={resources.nodes} needs as many hosts",
                hint="compute.hosts=[hosta,hostb] names them, in rank order.",
            )

    def refuse(self, job: JobSpec, facts: Facts) -> None:
        """Raise PlanError when the hosts have fewer GPUs than the ranks are to have."""
        wanted = job.resources.procs_per_node * job.resources.gpus_per_proc
        for host in _hosts(facts).hosts:
            if host.gpus < wanted:
                raise PlanError(
                    f"environment.gpus_per_proc={job.resources.gpus_per_proc}: {wanted} GPUs of "
                    f"{host.name} are asked for, and it has {host.gpus}",
                    hint="environment.gpus_per_proc=0 asks for none.",
                )

    def cpus_of_a_rank(self, resources: Resources, facts: Facts) -> int | None:
        """Return what is asked for, else a host's cores shared among its ranks; at least 1."""
        return self.cpus_per_proc or max(1, facts.cpus // resources.procs_per_node)

    def restarts(self) -> int:
        """Return how often the place may start a job again."""
        return 0

    def signal_s(self, resources: Resources) -> int:  # noqa: ARG002
        """Return 0: nobody ends a job there but its own limit, by SIGTERM."""
        return 0

    def silence_s(self) -> int:
        """Return after how many seconds of silence a host counts as lost."""
        return self.host_timeout_s

    def head_address(self, resources: Resources, facts: Facts) -> Word:
        """Return the first host's address, as the others reach it."""
        return _hosts(facts).hosts[0].address if resources.nodes > 1 else "127.0.0.1"

    def slots(self, resources: Resources, facts: Facts) -> tuple[tuple[str, int], ...]:
        """Return the hosts, each with its ranks; mpirun runs on the first, whatever its name."""
        others = [each.address for each in _hosts(facts).hosts[1:]]
        return tuple((each, resources.procs_per_node) for each in ("localhost", *others))

    def step(self, resources: Resources, facts: Facts) -> tuple[Word, ...]:  # noqa: ARG002
        """Return (): mpirun starts the ranks."""
        return ()

    def before_step(self, resources: Resources, facts: Facts) -> tuple[str, ...]:  # noqa: ARG002
        """Return (): there is nothing to be done."""
        return ()

    def mpi_environment(self, resources: Resources, facts: Facts) -> dict[str, Word]:
        """Return the transports, no scheduler, and how the first host reaches the others."""
        several = resources.nodes > 1
        values: dict[str, Word] = {"OMPI_MCA_btl": "self,sm,tcp" if several else "self,sm"}
        for name in ("OMPI_MCA_plm", "OMPI_MCA_ras", "PRTE_MCA_plm", "PRTE_MCA_ras"):
            values[name] = "^slurm"
        if several:
            agent = ShellExpr(f'"ssh -F $LAUNCHER_RUN_DIR/{_CONFIG}"')
            old = facts.prefix.mpi_version[:1] == (4,)
            values["OMPI_MCA_plm_rsh_agent" if old else "PRTE_MCA_plm_ssh_agent"] = agent
            # Else daemons of a host that is lost stay on the others for a quarter of an hour.
            # Later than we give a host up, for we say which one it was.
            waits = {"time": 2 * self.host_timeout_s, "intvl": self.host_timeout_s // 2}
            for name, value in {**waits, "probes": 3}.items():
                values[f"{'OMPI' if old else 'PRTE'}_MCA_oob_tcp_keepalive_{name}"] = str(value)
        return values

    def files(self, job: JobSpec, facts: Facts, run_dir: str) -> tuple[PlannedFile, ...]:  # noqa: ARG002
        """Return the configuration of ssh by which the first host reaches the others."""
        if job.resources.nodes == 1:
            return ()
        return (PlannedFile(path=_CONFIG, text=between(_hosts(facts))),)

    def commands(self, job: JobSpec, facts: Facts, run_dir: str) -> tuple[tuple[str, ...], ...]:  # noqa: ARG002
        """Return the connections to the hosts, and what the first is asked to start."""
        from launcher.ssh.ready import target  # noqa: PLC0415 - hosts only

        hosts = _hosts(facts)
        ways = [target(hosts, each.name) for each in hosts.hosts]
        run_id = run_dir.rpartition("/")[2]
        start = supervisor(facts, hosts.folder(run_id))
        return (*(way.command() for way in ways), start)

    def shape(self, job: JobSpec) -> dict[str, Any]:  # noqa: ARG002
        """Raise PlanError: sweeps there are not built yet."""
        raise PlanError(
            "compute=ssh: sweeps there are not built yet",
            hint="Without -m, a run at a time; compute=local and compute=slurm take sweeps.",
        )

    def group(self, jobs: Sequence[JobSpec], facts: Facts, folder: str, job_name: str) -> Group:
        """Raise PlanError, as ``shape`` does."""
        raise NotImplementedError


def between(hosts: Hosts) -> str:
    """Return ssh's configuration for the first host: how it reaches the others, asking nobody."""
    lines = ["# How the first host reaches the others: mpirun's ssh reads this."]
    for host in hosts.hosts[1:]:
        lines += [f"Host {host.address}", f"  User {host.user}", f"  Port {host.port}"]
    lines += ["Match all", "  BatchMode yes", f"  ConnectTimeout {hosts.connect_timeout_s:g}"]
    lines += ["  Include ~/.ssh/config", "  Include /etc/ssh/ssh_config"]
    return "\n".join(lines) + "\n"


def _hosts(facts: Facts) -> Hosts:
    if facts.hosts is None:
        raise PlanError("compute=ssh: no host has been looked at")
    return facts.hosts


def _named(index: int, given: Any) -> Named:
    """Return a host of compute.hosts; raise ConfigError when it is none."""
    values = {"host": given} if isinstance(given, str) else given
    key = f"compute.hosts[{index}]"
    if not isinstance(values, dict) or not set(values) <= {"host", "address"}:
        raise ConfigError(
            f"{key}={given}: not a host",
            hint="An alias of ssh's configuration, user@host:port, or {host: ..., address: ...}.",
        )
    named = Named(name=str(values.get("host") or ""), address=str(values.get("address") or ""))
    for text in filter(None, (named.name, named.address)):
        if not _NAME.fullmatch(text) or "@-" in text:
            raise ConfigError(
                f"{key}={text!r}: not the name of a host",
                hint="Letters and digits, and no space, quote or leading dash.",
            )
    if not named.name:
        raise ConfigError(f"{key}={given}: it has no name", hint="{host: ..., address: ...}")
    return named
