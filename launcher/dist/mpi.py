"""Ranks started by Open MPI's mpirun, or by the scheduler, with Horovod initialised.

Why ob1 and shared memory by default: to set up UCX and OFI takes Horovod's init from 0.1 s to
1.2 s on one machine, and brings nothing without a fabric. ``dist.mca`` changes any of it.
Source: mpirun(1) of Open MPI 4.1 and 5.0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from launcher.errors import PlanError
from launcher.shell import ShellExpr

if TYPE_CHECKING:
    from launcher.job import Facts, JobSpec, Resources
    from launcher.shell import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Mpi:
    """``nodes`` x ``procs_per_node`` ranks that see each other."""

    kind: ClassVar[str] = "mpi"

    horovod: bool = True
    mca: dict[str, str] = field(default_factory=dict)
    mpirun_args: tuple[str, ...] = ()

    def check(self, resources: Resources) -> None:
        """Accept any number of ranks."""

    def start(
        self, rank: tuple[Word, ...], job: JobSpec, facts: Facts, exported: tuple[str, ...]
    ) -> tuple[Word, ...]:
        """Return the scheduler's own words for the ranks, or mpirun's."""
        step = job.compute.step(job.resources, facts)
        if step:
            return (*step, *rank)
        # The environment of ranks on other nodes: by name, so that no value stands in argv.
        names = ("LAUNCHER_RUN_DIR", *exported, *job.secrets) if job.resources.nodes > 1 else ()
        return (*self._mpirun(job, facts, names), *rank)

    def _mpirun(self, job: JobSpec, facts: Facts, names: tuple[str, ...]) -> tuple[Word, ...]:
        if not facts.prefix.mpirun:
            raise PlanError(
                "dist=mpi: there is no mpirun beside this interpreter or on PATH",
                hint="environment.provision=venv builds an environment that has one.",
            )
        resources = job.resources
        slots = job.compute.slots(resources, facts)
        hosts = ("--host", slots) if slots else ()
        return (
            facts.prefix.mpirun,
            *("-n", str(resources.world_size)),
            *hosts,
            # By slot: ranks fill a node before the next one. Slots are what we say they are.
            *("--map-by", "slot:OVERSUBSCRIBE"),
            # Bound to one core, a rank's threads would share it; OMP_NUM_THREADS does the sharing.
            *("--bind-to", "none"),
            *(word for name in names for word in ("-x", name)),
            *self.mpirun_args,
        )

    def environment(self, job: JobSpec, facts: Facts) -> dict[str, Word]:
        """Return Open MPI's parameters, the rendezvous address and the thread count."""
        tuned: dict[str, Word] = {"OMPI_MCA_pml": "ob1"}
        tuned |= job.compute.mpi_environment(job.resources, facts)
        if facts.uid == 0:
            tuned |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        transports = tuned.get("OMPI_MCA_btl")
        if facts.prefix.mpi_version[:1] == (4,) and isinstance(transports, str):
            # Open MPI 4 calls shared memory by its older name.
            tuned["OMPI_MCA_btl"] = transports.replace("sm", "vader")
        tuned |= {f"OMPI_MCA_{name}": value for name, value in self.mca.items()}
        head = job.compute.head_address(job.resources, facts)
        words: dict[str, Word] = {**tuned, "MASTER_ADDR": head}
        # The supervisor finds a free port; by hand, torch's usual one.
        words["MASTER_PORT"] = ShellExpr('"${MASTER_PORT:-29500}"')
        cpus = job.compute.cpus_of_a_rank(job.resources, facts)
        if cpus:
            words["OMP_NUM_THREADS"] = str(cpus)
        return words

