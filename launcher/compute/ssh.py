"""Machines that the user can ssh to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from launcher.compute import supervisor
from launcher.errors import PlanError
from launcher.shell import ShellExpr, shell_line

if TYPE_CHECKING:
    from launcher.job import Facts, JobSpec, PlannedFile, Resources
    from launcher.shell import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Ssh:
    """Hosts in rank order; the supervisor and mpirun run on the first one."""

    kind: ClassVar[str] = "ssh"
    setup: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[str] = "shared"

    cpus_per_proc: int | None = None
    time: int | str | None = None
    grace_s: float = 10.0
    hosts: tuple[str, ...] = ()
    workdir: str = ".launcher"

    def check(self, resources: Resources) -> None:
        """Raise PlanError when fewer hosts than nodes are named."""
        if len(self.hosts) < resources.nodes:
            raise PlanError(
                f"compute.hosts={list(self.hosts)}: nodes={resources.nodes} needs as many hosts",
                hint="compute.hosts=[hosta,hostb] names them, in rank order.",
            )

    def refuse(self, job: JobSpec, facts: Facts) -> None:
        """Accept any job: the hosts are not asked yet."""

    def cpus_of_a_rank(self, resources: Resources, facts: Facts) -> int | None:  # noqa: ARG002
        """Return what is asked for: the hosts' cores are not known here."""
        return self.cpus_per_proc

    def restarts(self) -> int:
        """Return how often the place may start a job again."""
        return 0

    def signal_s(self, resources: Resources) -> int:  # noqa: ARG002
        """Return 0: nobody ends a job there but its own limit, by SIGTERM."""
        return 0

    def head_address(self) -> Word:
        """Return the first host's own name."""
        return ShellExpr('"$HOSTNAME"')

    def slots(self, resources: Resources) -> tuple[tuple[str, int], ...]:
        """Return the hosts, each with its ranks."""
        return tuple((host, resources.procs_per_node) for host in self.hosts[: resources.nodes])

    def step(self, resources: Resources, facts: Facts) -> tuple[Word, ...]:  # noqa: ARG002
        """Return (): mpirun starts the ranks."""
        return ()

    def before_step(self, resources: Resources, facts: Facts) -> tuple[str, ...]:  # noqa: ARG002
        """Return (): there is nothing to be done."""
        return ()

    def mpi_environment(self, resources: Resources) -> dict[str, Word]:
        """Return the transports: shared memory, and TCP between hosts."""
        return {"OMPI_MCA_btl": "self,sm,tcp" if resources.nodes > 1 else "self,sm"}

    def files(self, job: JobSpec, facts: Facts, run_dir: str) -> tuple[PlannedFile, ...]:  # noqa: ARG002
        """Return (): launch.sh is all that a host needs."""
        return ()

    def commands(self, job: JobSpec, facts: Facts, run_dir: str) -> tuple[tuple[str, ...], ...]:
        """Return the copies to each host and the start of the supervisor on the first."""
        hosts = [_split(host) for host, _ in self.slots(job.resources)]
        there = f"{self.workdir}/runs/{run_dir.rpartition('/')[2]}"
        made = tuple((*ssh, host, shell_line(("mkdir", "-p", "--", there))) for ssh, host in hosts)
        sent = tuple(
            ("rsync", "-a", "-e", shell_line(ssh), f"{run_dir}/", f"{host}:{there}/")
            for ssh, host in hosts
        )
        ssh, first = hosts[0]
        start = (*ssh, first, shell_line(("setsid", "-f", *supervisor(facts, there))))
        return (*made, *sent, start)


def _split(host: str) -> tuple[tuple[str, ...], str]:
    """Return the ssh that reaches ``user@host:port``, and ``user@host``."""
    name, _, port = host.partition(":")
    return (("ssh", "-p", port) if port else ("ssh",)), name
