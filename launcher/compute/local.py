"""This machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from launcher.compute import supervisor
from launcher.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.cluster import Limit
    from launcher.compute import Group
    from launcher.job import Facts, JobSpec, PlannedFile, Resources
    from launcher.shell import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Local:
    """Ranks as processes of this machine, under a supervisor that outlives the terminal."""

    kind: ClassVar[str] = "local"
    setup: ClassVar[tuple[str, ...]] = ()
    stage: ClassVar[str] = "shared"

    cpus_per_proc: int | None = None
    time: int | str | None = None
    grace_s: float = 10.0
    max_parallel: int | None = None

    def check(self, resources: Resources) -> None:
        """Raise PlanError for more than one node, or for no run at once."""
        if self.max_parallel is not None and self.max_parallel < 1:
            raise PlanError(f"compute.max_parallel={self.max_parallel}: must be 1 or more")
        if resources.nodes > 1:
            raise PlanError(
                f"nodes={resources.nodes}: compute=local is one machine",
                hint=f"nodes=1 procs_per_node={resources.world_size}, or compute=slurm.",
            )

    def refuse(self, job: JobSpec, facts: Facts) -> None:
        """Accept what this machine cannot hold: it is said, and shared."""

    def cpus_of_a_rank(self, resources: Resources, facts: Facts) -> int | None:
        """Return the run's cores, shared among its ranks; at least 1."""
        return self.cores(resources, facts) // resources.procs_per_node

    def cores(self, resources: Resources, facts: Facts) -> int:
        """Return the cores of a run: all, or its share where several run at once."""
        if self.cpus_per_proc:
            return resources.procs_per_node * self.cpus_per_proc
        return max(resources.procs_per_node, facts.cpus // (self.max_parallel or 1))

    def restarts(self) -> int:
        """Return how often the place may start a job again."""
        return 0

    def signal_s(self, resources: Resources) -> int:  # noqa: ARG002
        """Return 0: nobody ends a job there but its own limit, by SIGTERM."""
        return 0

    def silence_s(self) -> int:
        """Return 0: there is no other machine."""
        return 0

    def head_address(self, resources: Resources, facts: Facts) -> Word:  # noqa: ARG002
        """Return loopback: no rank is elsewhere."""
        return "127.0.0.1"

    def slots(self, resources: Resources, facts: Facts) -> Word:  # noqa: ARG002
        """Return this machine with all ranks."""
        return f"localhost:{resources.procs_per_node}"

    def step(self, resources: Resources, facts: Facts) -> tuple[Word, ...]:  # noqa: ARG002
        """Return (): there is no scheduler."""
        return ()

    def before_step(self, resources: Resources, facts: Facts) -> tuple[str, ...]:  # noqa: ARG002
        """Return (): there is nothing to be done."""
        return ()

    def mpi_environment(self, resources: Resources, facts: Facts) -> dict[str, Word]:  # noqa: ARG002
        """Return shared memory as the transport, and no scheduler, even inside an allocation."""
        return {
            "OMPI_MCA_btl": "self,sm",
            "OMPI_MCA_plm": "^slurm",
            "OMPI_MCA_ras": "^slurm",
            "PRTE_MCA_plm": "^slurm",
            "PRTE_MCA_ras": "^slurm",
        }

    def files(
        self,
        job: JobSpec,  # noqa: ARG002
        facts: Facts,  # noqa: ARG002
        run_dir: str,  # noqa: ARG002
        *,
        alone: bool,  # noqa: ARG002
    ) -> tuple[PlannedFile, ...]:
        """Return (): nothing beside launch.sh."""
        return ()

    def commands(self, job: JobSpec, facts: Facts, run_dir: str) -> tuple[tuple[str, ...], ...]:  # noqa: ARG002
        """Return the start of the supervisor, which begins when it is told that all is recorded."""
        return ((*supervisor(facts, run_dir), "--when-told"),)

    def limits(self, facts: Facts) -> tuple[Limit, ...]:  # noqa: ARG002
        """Return (): as many may wait as there are."""
        return ()

    def shape(self, job: JobSpec) -> dict[str, Any]:  # noqa: ARG002
        """Return {}: a pool takes runs of all sizes."""
        return {}

    def shared(self, groups: int) -> Local:  # noqa: ARG002
        """Return it as it is: pools lease the same cores."""
        return self

    def group(self, jobs: Sequence[JobSpec], facts: Facts, folder: str, job_name: str) -> Group:  # noqa: ARG002
        """Return what each run needs, and the start of the pool, which begins when it is told.

        The pool's command line has its runs' supervisor in it, by which a run whose script has
        launched a sweep knows the pool, and leaves it alone at its own end.
        """
        needs = [
            {
                "cores": job.compute.cores(job.resources, facts),
                "gpus": job.resources.world_size * job.resources.gpus_per_proc,
                "max_parallel": job.compute.max_parallel,
            }
            for job in jobs
            if isinstance(job.compute, Local)
        ]
        starter = supervisor(facts, "")[:-1]
        pool = (*starter[:-1], f"{facts.package_root}/launcher/pool_runs.py", folder)
        return {"needs": needs}, (), ((*pool, *starter),)
