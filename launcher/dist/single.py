"""One process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from launcher.errors import PlanError

if TYPE_CHECKING:
    from launcher.job import Facts, JobSpec, Resources
    from launcher.shell import Word


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """The script as ``python train.py`` would start it."""

    kind: ClassVar[str] = "single"
    horovod: ClassVar[bool] = False

    def check(self, resources: Resources) -> None:
        """Raise PlanError for more than one process."""
        for key in ("nodes", "procs_per_node"):
            if getattr(resources, key) > 1:
                raise PlanError(
                    f"{key}={getattr(resources, key)}: dist=single is one process",
                    hint="Add dist=mpi to start several ranks.",
                )

    def start(
        self,
        rank: tuple[Word, ...],
        job: JobSpec,  # noqa: ARG002
        facts: Facts,  # noqa: ARG002
        exported: tuple[str, ...],  # noqa: ARG002
    ) -> tuple[Word, ...]:
        """Return the rank's own words."""
        return rank

    def environment(self, job: JobSpec, facts: Facts) -> dict[str, Word]:  # noqa: ARG002
        """Return a thread count where cores are asked for; else the script takes them all."""
        cpus = job.compute.cpus_per_proc
        return {"OMP_NUM_THREADS": str(cpus)} if cpus else {}
