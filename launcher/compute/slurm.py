"""A Slurm cluster. Source: sbatch(1), srun(1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from launcher.compute import supervisor
from launcher.job import PlannedFile
from launcher.shell import ShellExpr, shell_line

if TYPE_CHECKING:
    from launcher.job import Facts, JobSpec, Resources
    from launcher.shell import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Slurm:
    """An allocation of nodes; the supervisor runs on the first one."""

    kind: ClassVar[str] = "slurm"

    cpus_per_proc: int | None = None
    time: int | str | None = None
    grace_s: float = 10.0
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    mem: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    launch: str = "auto"
    mpi: str = "auto"

    def check(self, resources: Resources) -> None:
        """Accept any size: the cluster says what fits."""

    def cpus_of_a_rank(self, resources: Resources, facts: Facts) -> int | None:  # noqa: ARG002
        """Return what is asked for; Slurm gives one core to a task otherwise."""
        return self.cpus_per_proc or 1

    def head_address(self) -> Word:
        """Return the first node's name: launch.sh runs there."""
        return ShellExpr('"${SLURMD_NODENAME:-$HOSTNAME}"')

    def slots(self, resources: Resources) -> tuple[tuple[str, int], ...]:  # noqa: ARG002
        """Return (): mpirun reads the allocation."""
        return ()

    def step(self, resources: Resources, facts: Facts) -> tuple[Word, ...]:
        """Return srun where its PMIx plugin is there (or asked for), else ()."""
        known = not facts.slurm_version or "pmix" in facts.slurm_mpi
        if self.launch == "mpirun" or (self.launch == "auto" and not known):
            return ()
        return (
            "srun",
            f"--mpi={'pmix' if self.mpi == 'auto' else self.mpi}",
            f"--nodes={resources.nodes}",
            f"--ntasks-per-node={resources.procs_per_node}",
            # Slurm 22.05 and later no longer hand sbatch's value on to srun.
            f"--cpus-per-task={self.cpus_per_proc or 1}",
            "--kill-on-bad-exit=1",
        )

    def mpi_environment(self, resources: Resources) -> dict[str, str]:
        """Return the transports: shared memory, and TCP between nodes."""
        return {"OMPI_MCA_btl": "self,sm,tcp" if resources.nodes > 1 else "self,sm"}

    def files(self, facts: Facts, run_dir: str) -> tuple[PlannedFile, ...]:
        """Return the batch script: it becomes the supervisor, on the first node."""
        line = shell_line((ShellExpr("exec"), *supervisor(facts, run_dir)))
        return (PlannedFile(path="job.sh", text=f"#!/bin/bash\n{line}\n", mode=0o755),)

    def commands(self, job: JobSpec, facts: Facts, run_dir: str) -> tuple[tuple[str, ...], ...]:  # noqa: ARG002
        """Return the sbatch that queues the supervisor. Options stand in argv: nothing to quote."""
        resources = job.resources
        options: dict[str, Any] = {
            "job-name": job.name,
            "nodes": resources.nodes,
            "ntasks-per-node": resources.procs_per_node,
            "cpus-per-task": self.cpus_per_proc or 1,
            "gpus-per-task": resources.gpus_per_proc or None,
            "mem": self.mem,
            "time": self._minutes(resources),
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "output": f"{run_dir}/logs/slurm.log",
            **{str(key).lstrip("-"): value for key, value in self.extra.items()},
        }
        words = [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in options.items()
            if value is not None and value is not False
        ]
        return (("sbatch", "--parsable", *words, f"{run_dir}/job.sh"),)

    def _minutes(self, resources: Resources) -> int | None:
        # sbatch counts whole minutes: a part of one is a minute more, never less
        return None if resources.time_s is None else -(-resources.time_s // 60)
