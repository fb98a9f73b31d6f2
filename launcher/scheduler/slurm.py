"""Jobs of a Slurm cluster: queued through sbatch, asked after through squeue, ended by scancel.

Why a job is found by its name: a submit that is killed after sbatch, and before it has written the
job's number down, has a job all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher import process
from launcher.errors import LaunchError, StateError
from launcher.job import RunState
from launcher.processes import alive, beats, this_process
from launcher.scheduler import View, latest
from launcher.slurm import batch, queue
from launcher.slurm.hosts import expand
from launcher.slurm.inside import Allocation
from launcher.slurm.name import cluster_name
from launcher.store import last_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.job import LaunchPlan
    from launcher.scheduler import Open
    from launcher.slurm.batch import Estimate
    from launcher.slurm.queue import JobView
    from launcher.store import RunFolder

_ESTIMATE_S = 2.0  # to wait for it, once the job is queued
# sbatch may still be on its way when who ran it was killed. Source: MessageTimeout of slurm.conf
_UNDERWAY_S = 60.0
_NO_REASONS = ("", "None", "Priority", "Resources")  # that keep a job from the start it may have
_PENDING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_ENDS = {
    "COMPLETED": RunState.SUCCEEDED,
    "CANCELLED": RunState.CANCELLED,
    "TIMEOUT": RunState.TIMED_OUT,
    "DEADLINE": RunState.TIMED_OUT,
    "FAILED": RunState.FAILED,
    "NODE_FAIL": RunState.FAILED,
    "BOOT_FAIL": RunState.FAILED,
    "LAUNCH_FAILED": RunState.FAILED,
    "OUT_OF_MEMORY": RunState.FAILED,
    "PREEMPTED": RunState.FAILED,
    "REVOKED": RunState.CANCELLED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """A job that is queued when the run is recorded; its start is estimated meanwhile."""

    folder: RunFolder
    plan: LaunchPlan
    env: Mapping[str, str]
    say: Callable[[str], None]
    estimate: Estimate

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
        (script,) = (file.text for file in plan.files if file.path == "job.sh")
        options = re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE)
        ours = batch.environment(options, env)
        estimate = batch.estimate(argv, ours)
        return Queued(folder=folder, plan=plan, env=ours, say=say, estimate=estimate)

    def look(self, runs: Sequence[Open]) -> dict[str, View]:
        """Return where each run's job is, after one question for all of them."""
        here = cluster_name()
        ours = [run for run in runs if _is_ours(run, here)]
        asked = {str(run.told("job_id")): _queued_at(run) for run in ours if run.told("job_id")}
        views = {run.folder.id: _elsewhere(run) for run in runs}
        try:
            jobs = queue.look(asked)
            views |= {run.folder.id: _view(run, jobs) for run in ours if run.told("job_id")}
            views |= {run.folder.id: _unnumbered(run) for run in ours if not run.told("job_id")}
        except LaunchError as error:
            views |= {run.folder.id: _unasked(run, error.message) for run in ours}
        return views

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
        done = process.run(words, timeout_s=60)
        queue.forget()
        if done.status and "Invalid job id" not in done.stderr:
            with contextlib.suppress(OSError):
                os.unlink(mark)
            raise StateError(
                f"job {job_id} cannot be cancelled: {done.stderr.strip()}",
                hint="`scontrol ping` tells whether Slurm's controller is up. Try again later.",
            )


def _is_ours(run: Open, here: str) -> bool:
    """Return whether this user, on this cluster, can ask after the run's job."""
    cluster = run.told("cluster")
    return os.stat(run.folder.path).st_uid == os.getuid() and cluster in (None, "", here)


def _elsewhere(run: Open) -> View:
    """Return the view of a run whose job we cannot see: its own word stands."""
    cluster = run.told("cluster") or "its cluster"
    reason = f"only {run.record.user} on {cluster} can ask Slurm where its job is"
    return View(holds=None, reason=reason, job_id=str(run.told("job_id") or ""))


def _queued_at(run: Open) -> float:
    return next((float(each["time"]) for each in run.events if "job_id" in each), time.time())


def _unasked(run: Open, problem: str) -> View:
    """Return the view of a run whose scheduler does not answer: its own word stands."""
    if run.last["state"] == "RUNNING" and not beats(run.folder.file("heartbeat")):
        problem += "; and the run gives no sign of life"
    return View(holds=None, reason=problem, job_id=str(run.told("job_id") or ""))


def _view(run: Open, jobs: Mapping[str, JobView]) -> View:
    job_id = str(run.told("job_id"))
    job = jobs.get(job_id)
    # A controller that lost its state counts from 1 again: an older job of that number is another.
    if job is None or (job.name and job.name != str(run.told("job_name") or job.name)):
        return _forgotten(run, job_id)
    details: dict[str, Any] = {"scheduler_state": job.state, "scheduler_reason": job.reason}
    if job.nodes:
        details["nodes"] = list(expand(job.nodes))
    if job.state in _PENDING:
        if run.last["state"] == "RUNNING" and run.last.get("time", 0) > job.at:
            return View(holds=True, job_id=job_id)  # it has begun since Slurm was asked
        expected = {"expected": job.start}
        return View(
            holds=True,
            state=RunState.PENDING,
            reason=job.reason,
            job_id=job_id,
            details=expected,
        )
    if job.state == "UNKNOWN":
        return View(holds=None, reason=job.reason, job_id=job_id)
    if job.state not in _ENDS:  # RUNNING, COMPLETING, SUSPENDED, ...: the supervisor tells more
        started = run.last["state"] == "RUNNING"
        state = RunState.RUNNING if started else RunState.PENDING
        return View(holds=True, state=state, job_id=job_id)
    details["exit_status"] = job.exit_status
    if job.state == "NODE_FAIL":
        nodes = expand(job.nodes)
        lost = Allocation(job_id=job_id, restarts=0, nodes=nodes).lost()
        details["nodes"] = expand(lost) or nodes
    state = _ENDS[job.state]
    if state is RunState.SUCCEEDED and not _all_well(run):
        state = RunState.FAILED  # its end is all that Slurm knows of, and nobody says how
    reason = "" if state is RunState.CANCELLED else _reason(job)
    return View(holds=False, state=state, reason=reason, job_id=job_id, details=details)


def _all_well(run: Open) -> bool:
    """Return whether every rank has told that it ended with status 0."""
    ranks = run.folder.ranks()
    return len(ranks) == run.record.world_size and all(rank.get("status") == 0 for rank in ranks)


def _reason(job: JobView) -> str:
    why = "" if job.reason in ("", "None") else f" ({job.reason})"
    return f"Slurm says {job.state}{why} of job {job.job_id}, and its supervisor left no word"


def _unnumbered(run: Open) -> View:
    """Return the view of a run whose submit did not write a job's number down.

    The job is found by its name; LaunchError when Slurm cannot be asked.
    """
    if alive(run.last, ""):
        return View(holds=None)
    name = run.told("job_name")
    job_id = batch.find(str(name)) if name else None
    if job_id:
        queue.forget()
        with contextlib.suppress(OSError):
            run.folder.event(RunState.PENDING, job_id=job_id, cluster=cluster_name())
        return View(holds=None, state=RunState.PENDING, job_id=job_id)
    if time.time() - float(run.last.get("time", 0)) < (_UNDERWAY_S if name else 0):
        return View(holds=None)
    reason = "its submit was interrupted before Slurm had the job: nothing was queued"
    return View(holds=False, state=RunState.LOST, reason=reason)


def _forgotten(run: Open, job_id: str) -> View:
    """Return the view of a run whose job Slurm no longer knows; it keeps some for minutes only."""
    if run.last["state"] == "RUNNING" and beats(run.folder.file("heartbeat")):
        return View(holds=None, job_id=job_id)
    what = "its supervisor left no result"
    if run.last["state"] != "RUNNING":
        log = last_lines(run.folder.file("logs", "slurm.log"), 1)
        what = f"all it left is: {log[0]}" if log else "it left no sign of a start"
    reason = f"Slurm no longer knows job {job_id}, and {what}"
    return View(holds=False, reason=reason, job_id=job_id)


def _when(start: float) -> str:
    if start - time.time() < 60:
        return ", expected to start at once"
    return f", expected to start at {time.strftime('%Y-%m-%d %H:%M', time.localtime(start))}"
