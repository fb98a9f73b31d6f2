"""A Slurm cluster. Source: sbatch(1), srun(1).

Why the batch file becomes the supervisor: it runs once, on the job's first node, keeps the run's
state there, hears the site's signals and starts the one step that is planned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from launcher.attempt import MARGIN_S
from launcher.compute import supervisor
from launcher.errors import PlanError
from launcher.job import PlannedFile
from launcher.shell import ShellExpr, shell_line
from launcher.slurm import batch, fit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.cluster import Limit
    from launcher.compute import Group
    from launcher.job import Facts, JobSpec, Resources
    from launcher.shell import Word

# Options of sbatch with which it would not queue one job and say its number.
_NOT_OURS = ("array", "clusters", "parsable", "quiet", "test-only", "wait", "wrap")
# What the run itself is made of, and the key that says it.
_OURS = {
    "job-name": "name",
    "nodes": "nodes",
    "ntasks": "procs_per_node",
    "ntasks-per-node": "procs_per_node",
    "time": "compute.time",
    "signal": "compute.signal_before_end_s",
    "requeue": "compute.requeue",
    "no-requeue": "compute.requeue",
    "output": "",
    "error": "",
    "export": "env",
    "open-mode": "",
}
_SIGNAL_S = 60  # before the end, in jobs that are long enough
_FIRST_NODE = '"$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'


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
    gres: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    nodelist: str | None = None
    exclude: str | None = None
    exclusive: bool = False
    comment: str | None = None
    mail_type: str | None = None
    mail_user: str | None = None
    setup: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    launch: str = "auto"
    mpi: str = "auto"
    stage: str = "shared"
    requeue: bool = True
    max_restarts: int = 3
    signal_before_end_s: int | None = None
    max_parallel: int | None = None

    def check(self, resources: Resources) -> None:
        """Raise PlanError on values that cannot be meant."""
        for name in self.extra:
            option = name.lstrip("-").replace("_", "-")
            if option in _NOT_OURS:
                raise PlanError(
                    f"compute.extra.{name}: with it sbatch would not queue one job and return",
                    hint="Take it out; sweeps queue many jobs, wait=true waits.",
                )
            if option in _OURS:
                key = _OURS[option]
                raise PlanError(
                    f"compute.extra.{name}: the launcher gives this option itself",
                    hint=f"{key}=... says it." if key else "Take it out: logs are in the run.",
                )
        if self.max_parallel is not None and self.max_parallel < 1:
            raise PlanError(f"compute.max_parallel={self.max_parallel}: must be 1 or more")
        if self.max_restarts < 0:
            raise PlanError(f"compute.max_restarts={self.max_restarts}: must be 0 or more")
        limit, ending = resources.time_s, self.grace_s + MARGIN_S
        if limit is not None and limit <= ending:
            raise PlanError(
                f"compute.time={self.time}: no time is left to run in",
                hint=f"More than {ending:g} s: compute.grace_s and {MARGIN_S:g} s are for the end.",
            )
        early, most = self.signal_before_end_s, 65535 if limit is None else limit - ending
        if early is not None and not 0 < early < most:
            raise PlanError(
                f"compute.signal_before_end_s={early}: not within the job's time",
                hint=f"Seconds, more than 0 and less than {most:g}: what compute.time leaves.",
            )

    def refuse(self, job: JobSpec, facts: Facts) -> None:
        """Raise PlanError, with the list of what exists, on what the cluster cannot give."""
        if facts.slurm is not None:
            fit.refuse(job, facts.slurm)

    def cpus_of_a_rank(self, resources: Resources, facts: Facts) -> int | None:  # noqa: ARG002
        """Return what is asked for; Slurm gives one core to a task otherwise."""
        return self.cpus_per_proc or 1

    def silence_s(self) -> int:
        """Return 0: Slurm looks after its nodes."""
        return 0

    def head_address(self, resources: Resources, facts: Facts) -> Word:  # noqa: ARG002
        """Return the first node's name, from wherever in the allocation launch.sh is run."""
        return ShellExpr(_FIRST_NODE)

    def slots(self, resources: Resources, facts: Facts) -> Word:  # noqa: ARG002
        """Return "": mpirun reads the allocation."""
        return ""

    def step(self, resources: Resources, facts: Facts) -> tuple[Word, ...]:
        """Return srun where its PMIx plugin is there (or asked for), else ()."""
        program, plugin = fit.starter(
            self.launch, self.mpi, facts.slurm, has_mpirun=bool(facts.prefix.mpirun)
        )
        if program != "srun":
            return ()
        return (
            "srun",
            f"--mpi={plugin}",
            f"--nodes={resources.nodes}",
            f"--ntasks-per-node={resources.procs_per_node}",
            # Slurm 22.05 and later no longer hand sbatch's value on to srun.
            f"--cpus-per-task={self.cpus_per_proc or 1}",
            # Ranks fill a node before the next one, whatever the site's default is.
            "--distribution=block",
            "--export=ALL",
            "--kill-on-bad-exit=1",
            "--wait=0",
        )

    def before_step(self, resources: Resources, facts: Facts) -> tuple[str, ...]:
        """Return the line that gives srun's step another number at each restart.

        A node that crashed has files of PMIx by job and step left, and refuses the same again.
        """
        if not self.step(resources, facts):
            return ()
        nothing = shell_line(("srun", "--mpi=none", "--nodes=1", "--ntasks=1", "true"))
        return (f"for ((n = 0; n < LAUNCHER_RESTART_COUNT; n++)); do {nothing}; done",)

    def mpi_environment(self, resources: Resources, facts: Facts) -> dict[str, Word]:  # noqa: ARG002
        """Return the transports, and a barrier that is one.

        Slurm's PMIx plugin ends the barrier of MPI_Init at once in steps of fewer nodes than its
        TreeWidth, and a rank that is early crashes one that is late; its ring waits for all.
        Source: reverse_tree.c of Slurm 22.05, issue 12495 of Open MPI.
        """
        if resources.nodes == 1:
            return {"OMPI_MCA_btl": "self,sm"}
        ring = ShellExpr('"${SLURM_PMIX_FENCE:-ring}"')
        return {"OMPI_MCA_btl": "self,sm,tcp", "SLURM_PMIX_FENCE": ring}

    def files(
        self, job: JobSpec, facts: Facts, run_dir: str, *, alone: bool
    ) -> tuple[PlannedFile, ...]:
        """Return the batch file, as submitit renders it: it becomes the supervisor."""
        if not alone:
            return ()
        line = shell_line((ShellExpr("exec"), *supervisor(facts, run_dir)))
        text = batch.text(self.parameters(job, run_dir), line, run_dir)
        return (PlannedFile(path="job.sh", text=text, mode=0o755),)

    def commands(self, job: JobSpec, facts: Facts, run_dir: str) -> tuple[tuple[str, ...], ...]:  # noqa: ARG002
        """Return the sbatch that queues it."""
        return (("sbatch", f"{run_dir}/job.sh"),)

    def parameters(self, job: JobSpec, run_dir: str) -> dict[str, Any]:
        """Return sbatch's options, without those that are null; ``extra`` wins."""
        resources = job.resources
        gpus = resources.gpus_per_proc * resources.procs_per_node
        options: dict[str, Any] = {
            "job-name": f"{job.name}-{run_dir.rpartition('/')[2]}",
            "nodes": resources.nodes,
            "ntasks-per-node": resources.procs_per_node,
            "cpus-per-task": self.cpus_per_proc or 1,
            "gpus-per-node": gpus if gpus and self.gres is None else None,
            "time": self._minutes(resources),
            "exclusive": self.exclusive or None,
            "requeue": self.requeue or None,
            "no-requeue": None if self.requeue else True,
            "signal": f"B:USR1@{self.signal_s(resources) + round(self.grace_s + MARGIN_S)}",
            "output": batch.literal(f"{run_dir}/logs/slurm.log"),
            "export": "ALL",  # the secrets too, whatever SBATCH_EXPORT says
        }
        own = (
            *("partition", "account", "qos", "mem", "gres", "constraint", "reservation"),
            *("nodelist", "exclude", "comment", "mail_type", "mail_user"),
        )
        options |= {name.replace("_", "-"): getattr(self, name) for name in own}
        options |= {name.lstrip("-").replace("_", "-"): each for name, each in self.extra.items()}
        return {name: each for name, each in options.items() if each not in (None, False)}

    def limits(self, facts: Facts) -> tuple[Limit, ...]:
        """Return those of the account and the QOS that are named, and of what they lie within."""
        account, qos = (
            str(self.extra.get(name) or getattr(self, name) or "").lower()
            for name in ("account", "qos")
        )
        known = facts.slurm.limits if facts.slurm is not None else ()
        return tuple(e for e in known if e.account in (None, account) and e.qos in (None, qos))

    def shape(self, job: JobSpec) -> dict[str, Any]:
        """Return sbatch's options, without those that tell one job from another."""
        own = ("job-name", "output")
        return {key: each for key, each in self.parameters(job, "").items() if key not in own}

    def shared(self, groups: int) -> Slurm:
        """Return it with a share of max_parallel, which each array keeps by itself; 1 at least."""
        if self.max_parallel is None:
            return self
        return replace(self, max_parallel=max(self.max_parallel // groups, 1))

    def group(self, jobs: Sequence[JobSpec], facts: Facts, folder: str, job_name: str) -> Group:
        """Return the batch file of a job array, a task a run, and the sbatch that queues it."""
        most = f"%{self.max_parallel}" if self.max_parallel else ""
        # Where a backslash keeps sbatch from reading %a, tasks would write to one file.
        log = "/dev/null" if "\\" in folder else f"{batch.literal(folder)}/%a.log"
        options = {
            **self.parameters(jobs[0], ""),
            "job-name": job_name,
            "output": log,
            "array": f"0-{len(jobs) - 1}{most}",
        }
        line = shell_line((ShellExpr("exec"), *supervisor(facts, folder), "--task"))
        text = batch.text(options, line, folder)
        file = PlannedFile(path="job.sh", text=text, mode=0o755)
        return {}, (file,), (("sbatch", f"{folder}/job.sh"),)

    def restarts(self) -> int:
        """Return how often the job may be started again."""
        return self.max_restarts if self.requeue else 0

    def signal_s(self, resources: Resources) -> int:
        """Return how long before they are ended the ranks are told, in seconds."""
        if self.signal_before_end_s is not None:
            return self.signal_before_end_s
        if resources.time_s is None:
            return _SIGNAL_S
        return max(1, min(_SIGNAL_S, round(resources.time_s - self.grace_s - MARGIN_S) // 4))

    def _minutes(self, resources: Resources) -> int | None:
        # sbatch counts whole minutes: a part of one is a minute more, never less
        return None if resources.time_s is None else -(-resources.time_s // 60)
