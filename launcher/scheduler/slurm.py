"""Jobs of a Slurm cluster: queued through sbatch, asked after through squeue, ended by scancel."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher import process
from launcher.errors import LaunchError, StateError, SubmitError
from launcher.job import RunState
from launcher.processes import this_process
from launcher.scheduler import View, latest
from launcher.scheduler.slurm_view import (
    elsewhere,
    is_ours,
    numbered,
    queued_at,
    unasked,
    unnumbered,
    view,
)
from launcher.slurm import batch, queue
from launcher.slurm.name import cluster_name
from launcher.slurm.refusal import full

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.environment.locate import Prefix
    from launcher.job import GroupPlan, JobSpec, LaunchPlan, PlannedFile
    from launcher.scheduler import Open
    from launcher.slurm.batch import Estimate
    from launcher.snapshot import Snapshot
    from launcher.store import RunFolder
    from launcher.sweep.store import GroupFolder

_MANY = 500  # words of one command
_ESTIMATE_S = 2.0  # to wait for it, once the job is queued
_NO_REASONS = ("", "None", "Priority", "Resources")  # that keep a job from the start it may have


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A job that is queued when the run is recorded; its start is estimated meanwhile."""

    folder: RunFolder
    plan: LaunchPlan
    env: Mapping[str, str]
    say: Callable[[str], None]
    estimate: Estimate

    def provide(self, source: Snapshot, job: JobSpec, prefix: Prefix) -> str:  # noqa: ARG002
        """Have the environment built on this machine; launch.sh gets the code."""
        from launcher.environment import build  # noqa: PLC0415 - to submit, not to list

        return build.lock_text(build.ensure(prefix, self.say))

    def go(self) -> None:
        """Queue it, and write its number down; SubmitError when Slurm does not take it."""
        (argv,) = self.plan.commands
        name = self.plan.job_name
        self.folder.event(RunState.SUBMITTING, **this_process(), job_name=name)
        job_id = batch.submit(argv, name, self.env, self.say)
        self.folder.event(RunState.PENDING, job_id=job_id, cluster=cluster_name())
        queue.forget()

    def report(self) -> None:
        """Say the job's number, and when it is expected to start."""
        start = self.estimate.result(_ESTIMATE_S)
        job_id = str(latest(self.folder.events(), "job_id"))
        with contextlib.suppress(LaunchError):
            job = queue.look({job_id: 0.0}).get(job_id)
            if job is not None and job.reason not in _NO_REASONS:
                start = None  # of a job as it would be without what holds it
        when = "" if start is None or start > time.time() + 86400 else _when(start)
        self.say(f"launcher: job {job_id} is queued{when}")

    def undo(self) -> bool:
        """Cancel the job, if it was queued; return whether none can be there."""
        self.estimate.result(0)
        if not any("job_name" in event for event in self.folder.events()):
            return True
        try:
            job_id = batch.find(self.plan.job_name)
        except LaunchError:
            return False
        return job_id is None or not process.run(("scancel", job_id), timeout_s=60).status


class Slurm:
    """The cluster that this machine submits to."""

    def begin(
        self,
        folder: RunFolder,
        plan: LaunchPlan,
        env: Mapping[str, str],
        say: Callable[[str], None],
    ) -> Queued:
        """Return the job, and ask meanwhile when it would start."""
        os.makedirs(folder.file("logs"))
        (argv,) = plan.commands
        ours = batch.environment(_options(plan.files), env)
        estimate = batch.estimate(argv, ours)
        return Queued(folder=folder, plan=plan, env=ours, say=say, estimate=estimate)

    def look(self, runs: Sequence[Open]) -> dict[str, View]:
        """Return where each run's job is, after one question for all of them."""
        here = cluster_name()
        ours = [run for run in runs if is_ours(run, here)]
        asked = {str(run.told("job_id")): queued_at(run) for run in ours if run.told("job_id")}
        views = {run.folder.id: elsewhere(run) for run in runs}
        try:
            jobs = queue.look(asked)
            views |= {run.folder.id: view(run, jobs) for run in ours if run.told("job_id")}
            found: dict[str, str | None] = {}  # by the job's name: an array has many runs
            views |= {r.folder.id: unnumbered(r, found) for r in ours if not r.told("job_id")}
        except LaunchError as error:
            views |= {run.folder.id: unasked(run, error.message) for run in ours}
        return views

    def refresh(self, runs: Sequence[Open]) -> None:
        """Do nothing: what runs write lies in their folders."""

    def queue(
        self,
        group: GroupFolder,
        plan: GroupPlan,
        env: Mapping[str, str],
        say: Callable[[str], None],
        lock: int,
    ) -> None:
        """Queue a job array, and write its number down; SubmitError when Slurm refuses it.

        Where there is no room for all its runs, the first ones are queued before that is raised.
        """
        (argv,) = plan.commands
        ours = batch.environment(_options(plan.files), env)
        group.event(RunState.SUBMITTING, **this_process(), job_name=plan.job_name)
        refused: SubmitError | None = None
        try:
            job_id = batch.submit(argv, plan.job_name, ours, say, lock)
        except SubmitError as error:
            count, argv = batch.fewer(argv, len(plan.runs)) if full(error.stderr) else (0, argv)
            if not count:
                raise
            refused = error
            group.keep(count)  # before the call: what we are killed after it counts too
            job_id = batch.submit(argv, plan.job_name, ours, say, lock)
        group.event(RunState.PENDING, job_id=job_id, cluster=cluster_name())
        queue.forget()
        if refused is not None:
            raise refused

    def find(self, group: GroupFolder) -> bool:
        """Return whether Slurm has the array; its number is then written down."""
        return numbered(group, latest(group.events(), "job_name")) is not None

    def cancel_waiting(self, runs: Sequence[Open]) -> dict[str, str]:
        """Cancel the jobs of runs that wait, hundreds by one call."""
        ids = [str(run.told("job_id")) for run in runs if run.told("job_id")]
        for run in runs:
            with contextlib.suppress(OSError):
                open(run.folder.file("cancel"), "wb").close()
        for first in range(0, len(ids), _MANY):
            process.run(("scancel", "--state=PENDING", *ids[first : first + _MANY]), timeout_s=60)
        queue.forget()
        return {}

    def interrupt(self, run: Open, *, waits: bool) -> None:
        """Have the supervisor end the run, which gives ranks their time; a queued job just goes."""
        job_id = run.told("job_id")
        if job_id is None:
            raise StateError(
                f"run {run.folder.id}: it is not queued yet", hint="Try again in a moment."
            )
        mark = run.folder.file("cancel")
        words: tuple[str, ...] = ("scancel", str(job_id))
        if not waits and not os.path.exists(mark):
            words = ("scancel", "--batch", "--signal=TERM", str(job_id))
        with contextlib.suppress(OSError):
            open(mark, "wb").close()
        if run.given_up:  # it may wait all the same, and scancel tries to signal that for minutes
            process.run(("scancel", "--state=PENDING", str(job_id)), timeout_s=60)
        done = process.run(words, timeout_s=60)
        queue.forget()
        if done.status and "Invalid job id" not in done.stderr:
            with contextlib.suppress(OSError):
                os.unlink(mark)
            raise StateError(
                f"job {job_id} cannot be cancelled: {done.stderr.strip()}",
                hint="`scontrol ping` tells whether Slurm's controller is up. Try again later.",
            )

    def end_left(self, run: Open) -> None:
        """Do nothing: Slurm ends what a job leaves."""


def _options(files: Sequence[PlannedFile]) -> list[str]:
    """Return the names of sbatch's options in the planned batch file."""
    (script,) = (file.text for file in files if file.path == "job.sh")
    return re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE)


def _when(start: float) -> str:
    if start - time.time() < 60:
        return ", expected to start at once"
    return f", expected to start at {time.strftime('%Y-%m-%d %H:%M', time.localtime(start))}"
