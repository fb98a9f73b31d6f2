"""Ranks started by Open MPI's mpirun, or by the scheduler, with Horovod initialised.

Why ob1 and shared memory by default: to set up UCX and OFI takes Horovod's init from 0.1 s to
1.2 s on one machine, and brings nothing without a fabric. ``dist.mca`` changes any of it.
Source: mpirun(1) of Open MPI 4.1 and 5.0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

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

    def start(self, rank: tuple[Word, ...], job: JobSpec, facts: Facts) -> tuple[Word, ...]:
        """Return the scheduler's own words for the ranks, or mpirun's."""
        step = job.compute.step(job.resources, facts)
        if step:
            return (*step, *rank)
        return (*self._mpirun(job, facts), *rank)

    def _mpirun(self, job: JobSpec, facts: Facts) -> tuple[Word, ...]:
        resources = job.resources
        slots = job.compute.slots(resources)
        hosts = ("--host", ",".join(f"{host}:{ranks}" for host, ranks in slots)) if slots else ()
        # The environment of ranks on other nodes: by name, so that no value stands in argv.
        names = sorted({*job.env, *job.secrets, *self.environment(job, facts), *_OF_THE_RUN})
        names += ["LD_LIBRARY_PATH"] if facts.prefix.kind == "venv" else []
        exported = [word for name in names for word in ("-x", name)] if resources.nodes > 1 else []
        return (
            facts.prefix.mpirun,
            *("-n", str(resources.world_size)),
            *hosts,
            # By slot: ranks fill a node before the next one. Slots are what we say they are.
            *("--map-by", "slot:OVERSUBSCRIBE"),
            # Bound to one core, a rank's threads would share it; OMP_NUM_THREADS does the sharing.
            *("--bind-to", "none"),
            *exported,
            *self.mpirun_args,
        )

    def environment(self, job: JobSpec, facts: Facts) -> dict[str, Word]:
        """Return Open MPI's parameters, the rendezvous address and the thread count."""
        tuned = {"OMPI_MCA_pml": "ob1", **job.compute.mpi_environment(job.resources)}
        if facts.uid == 0:
            tuned |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        if facts.prefix.mpi_version[:1] == (4,) and "OMPI_MCA_btl" in tuned:
            # Open MPI 4 calls shared memory by its older name.
            tuned["OMPI_MCA_btl"] = tuned["OMPI_MCA_btl"].replace("sm", "vader")
        tuned |= {f"OMPI_MCA_{name}": value for name, value in self.mca.items()}
        words: dict[str, Word] = {**tuned, "MASTER_ADDR": job.compute.head_address()}
        # The supervisor finds a free port; by hand, torch's usual one.
        words["MASTER_PORT"] = ShellExpr('"${MASTER_PORT:-29500}"')
        cpus = job.compute.cpus_of_a_rank(job.resources, facts)
        if cpus:
            words["OMP_NUM_THREADS"] = str(cpus)
        return words


# What launch.sh itself exports, and every rank needs.
_OF_THE_RUN = (
    "LAUNCHER_CHECKPOINT_DIR",
    "LAUNCHER_OUTPUT_DIR",
    "LAUNCHER_RUN_DIR",
    "LAUNCHER_RUN_ID",
    "PATH",
)
