"""What Slurm says of a run's job -> a view of the run.

Why a job is found by its name: a submit that is killed after sbatch, and before it has written the
job's number down, has a job all the same.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any

from launcher.job import RunState
from launcher.processes import alive, beats
from launcher.scheduler import View
from launcher.slurm import batch, queue
from launcher.slurm.hosts import expand
from launcher.slurm.inside import Allocation
from launcher.slurm.name import cluster_name
from launcher.store import last_lines
from launcher.sweep.store import Groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.scheduler import Open
    from launcher.slurm.queue import JobView
    from launcher.store import Folder

# sbatch may still be on its way when who ran it was killed. Source: MessageTimeout of slurm.conf
_UNDERWAY_S = 60.0
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


def numbered(folder: Folder, name: Any) -> str | None:
    """Return the number of the job called ``name``, and write it down; None: there is none.

    LaunchError when Slurm cannot be asked.
    """
    job_id = batch.find(str(name)) if name else None
    if job_id:
        queue.forget()
        with contextlib.suppress(OSError):
            folder.event(RunState.PENDING, job_id=job_id, cluster=cluster_name())
    return job_id


def is_ours(run: Open, here: str) -> bool:
    """Return whether this user, on this cluster, can ask after the run's job."""
    cluster = run.told("cluster")
    try:
        own = os.stat(run.folder.path).st_uid == os.getuid()
    except FileNotFoundError:  # taken away at this moment, as its submit was interrupted
        return False
    return own and cluster in (None, "", here)


def elsewhere(run: Open) -> View:
    """Return the view of a run whose job we cannot see: its own word stands."""
    cluster = run.told("cluster") or "its cluster"
    reason = f"only {run.record.user} on {cluster} can ask Slurm where its job is"
    return View(holds=None, reason=reason, job_id=str(run.told("job_id") or ""))


def queued_at(run: Open) -> float:
    """Return when the run's job was queued, seconds since the epoch."""
    return next((float(each["time"]) for each in run.events if "job_id" in each), time.time())


def unasked(run: Open, problem: str) -> View:
    """Return the view of a run whose scheduler does not answer: its own word stands."""
    if run.last["state"] == "RUNNING" and not beats(run.folder.file("heartbeat")):
        problem += "; and the run gives no sign of life"
    return View(holds=None, reason=problem, job_id=str(run.told("job_id") or ""))


def view(run: Open, jobs: Mapping[str, JobView]) -> View:
    """Return the view of a run whose job is among ``jobs``, or is one that Slurm does not know."""
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


def unnumbered(run: Open, found: dict[str, str | None]) -> View:
    """Return the view of a run whose submit did not write a job's number down.

    The job is found by its name, once for all in ``found``; LaunchError when Slurm cannot be asked.
    """
    if alive(run.last, ""):
        return View(holds=None)
    name, group = run.told("job_name"), run.told("group")
    if name not in found:
        folder = Groups(os.path.dirname(run.folder.path)).folder(group) if group else run.folder
        found[name] = numbered(folder, name)
    job_id = found[name]
    if job_id:
        job_id += f"_{run.told('task')}" if group else ""
        return View(holds=None, state=RunState.PENDING, job_id=job_id)
    if time.time() - float(run.last.get("time", 0)) < (_UNDERWAY_S if name else 0):
        return View(holds=None)
    reason = "its submit was interrupted before Slurm had the job: nothing was queued"
    return View(holds=False, state=RunState.LOST, reason=reason)


def _forgotten(run: Open, job_id: str) -> View:
    """Return the view of a run whose job Slurm no longer knows; it keeps some for minutes only."""
    if run.last["state"] == "RUNNING" and beats(run.folder.file("heartbeat")):
        return View(holds=None, job_id=job_id)
    if run.last["state"] != "RUNNING" and os.path.exists(run.folder.file("cancel")):
        # Of a task of an array that is cancelled while it waits, Slurm keeps nothing at all.
        return View(holds=False, state=RunState.CANCELLED, job_id=job_id)
    what = "its supervisor left no result"
    if run.last["state"] != "RUNNING":
        log = last_lines(run.folder.file("logs", "slurm.log"), 1)
        what = f"all it left is: {log[0]}" if log else "it left no sign of a start"
    reason = f"Slurm no longer knows job {job_id}, and {what}"
    return View(holds=False, reason=reason, job_id=job_id)
