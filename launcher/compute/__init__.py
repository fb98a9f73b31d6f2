"""WHERE a job runs. A compute is a value with pure methods: words out, text in.

A compute of your own: a class with the methods of ``Compute``, and a YAML file in your project's
conf/compute/ whose ``_target_`` names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.cluster import Limit
    from launcher.job import Facts, JobSpec, PlannedFile, Resources
    from launcher.shell import Word


# Of runs that one call queues: what its group.json tells beside the runs, files, commands.
Group: TypeAlias = "tuple[dict[str, Any], tuple[PlannedFile, ...], tuple[tuple[str, ...], ...]]"


class Compute(Protocol):
    """A place: what fits there, how its ranks find each other, what submits a job to it."""

    @property
    def kind(self) -> str:
        """Return the place's name, as ``launcher runs`` shows it."""

    @property
    def cpus_per_proc(self) -> int | None:
        """Return the cores of a rank, where the configuration says."""

    @property
    def time(self) -> int | str | None:
        """Return the time limit, as configured."""

    @property
    def stage(self) -> str:
        """Return where ranks find the code: ``shared``, ``scratch`` or ``objects``.

        ``scratch``: each node unpacks its own copy; ``objects``: it makes it of files by content.
        """

    @property
    def setup(self) -> tuple[str, ...]:
        """Return shell lines that run first in the job."""

    def check(self, resources: Resources) -> None:
        """Raise PlanError when ``resources`` cannot be had there."""

    def refuse(self, job: JobSpec, facts: Facts) -> None:
        """Raise PlanError when the place, as it was seen, has not what ``job`` asks for."""

    def cpus_of_a_rank(self, resources: Resources, facts: Facts) -> int | None:
        """Return the cores that one rank may use; None: not known before the job starts."""

    def restarts(self) -> int:
        """Return how often the place may start a job again."""

    def signal_s(self, resources: Resources) -> int:
        """Return how long before a job's end its ranks are sent SIGUSR1, in seconds; 0: never."""

    def silence_s(self) -> int:
        """Return after how many seconds of silence a node counts as lost; 0: its scheduler says."""

    def head_address(self, resources: Resources, facts: Facts) -> Word:
        """Return the address of the first node, as seen from every node."""

    def slots(self, resources: Resources, facts: Facts) -> Word:
        """Return the hosts with their ranks, as mpirun's --host wants them; "": others tell it."""

    def step(self, resources: Resources, facts: Facts) -> tuple[Word, ...]:
        """Return the scheduler's own words that start all ranks; () where mpirun must."""

    def before_step(self, resources: Resources, facts: Facts) -> tuple[str, ...]:
        """Return shell lines that launch.sh runs just before the ranks."""

    def mpi_environment(self, resources: Resources, facts: Facts) -> dict[str, Word]:
        """Return what Open MPI must know of this place."""

    def files(
        self, job: JobSpec, facts: Facts, run_dir: str, *, alone: bool
    ) -> tuple[PlannedFile, ...]:
        """Return the files that this place needs beside launch.sh; ``alone``: of no group."""

    def commands(self, job: JobSpec, facts: Facts, run_dir: str) -> tuple[tuple[str, ...], ...]:
        """Return the commands that submit the run in ``run_dir``, in order."""

    def limits(self, facts: Facts) -> tuple[Limit, ...]:
        """Return the limits to how many such runs can be queued."""

    def shape(self, job: JobSpec) -> dict[str, Any]:
        """Return what runs must have in common to be queued by one call."""

    def shared(self, groups: int) -> Compute:
        """Return the place as each of so many groups of one sweep has it."""

    def group(self, jobs: Sequence[JobSpec], facts: Facts, folder: str, job_name: str) -> Group:
        """Return what queues ``jobs`` of one shape by one call."""


def supervisor(facts: Facts, run_dir: str) -> tuple[str, ...]:
    """Return the words that start the supervisor of the run in ``run_dir``."""
    # -I -S: it needs the standard library only, and to set up the site packages of a large
    # environment takes longer than all it does at its start.
    return (facts.python, "-I", "-S", f"{facts.package_root}/launcher/supervise.py", run_dir)
