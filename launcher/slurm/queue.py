"""Where a user's jobs are: one squeue for all of them, then one sacct for those that it forgot.

Why one answer for all commands of a user, for some seconds: a hundred ``launcher wait`` must not
ask a controller a hundred times, and a controller that is down takes seconds to fail. The answer
lies in the launcher's cache folder; of many commands one asks, and the others wait for it.

Why squeue with all states: it tells of ended jobs too, for as long as Slurm keeps them
(MinJobAge), which is all that a cluster without accounting has. ``scontrol show job`` knows no
more than it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher.environment.answers import cache_dir, digest
from launcher.errors import StateError
from launcher.slurm.ask import ask, no_answer, silent
from launcher.slurm.name import cluster_name
from launcher.store import write_atomically

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_FLOOR_S = 5.0
_FAILED_S = 30.0  # a question that failed is not asked again so soon: it takes 9 s to fail
_NO_ACCOUNTS_S = 86400.0
_LOCK_S = 20.0  # who asks for longer than this was stopped, and is not waited for
# Slurm's names of the fields, and how many bytes at most; a job's name may hold anything: last.
_FIELDS = (
    *("JobArrayID:40", "State:24", "RestartCnt:8", "exit_code:12", "StartTime:24"),
    *("Reason:240", "NodeList:1000", "Name:200"),
)
_SACCT = "JobID,State,ExitCode,Start,Reason,NodeList,JobName"
_NONE = {"", "None", "None assigned", "(null)", "N/A", "NONE", "Unknown"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as Slurm sees it. ``start``: seconds since the epoch, expected while it is pending.

    ``source``: squeue, sacct, or "" for what is only known not to be known: a job that was queued
    after the answer (PENDING), or one that accounting could not be asked about (UNKNOWN).
    """

    job_id: str
    state: str  # Slurm's word: PENDING, RUNNING, COMPLETING, CANCELLED, NODE_FAIL, ...
    reason: str = ""  # Slurm's word
    nodes: str = ""  # as Slurm lists them: node[1-2]
    exit_status: int | None = None  # of the batch script; None: it has not ended, or by a signal
    signal: int = 0  # that ended the batch script
    restarts: int | None = None
    start: float | None = None
    name: str = ""
    source: str = ""
    at: float = 0.0  # when Slurm said so, seconds since the epoch


def look(asked: Mapping[str, float]) -> dict[str, JobView]:
    """Return the jobs, by id, of those ``asked`` (id -> when it was queued) that Slurm knows.

    An id that is not in the answer is one that Slurm does not know, and said so. StateError when
    Slurm could not be asked: then nothing is known.
    """
    if not asked:
        return {}
    at, jobs = _queue()
    found = {job_id: jobs[job_id] for job_id in asked if job_id in jobs}
    older = [each for each, queued in asked.items() if each not in found and queued <= at]
    for job_id, queued in asked.items():
        if job_id not in found and queued > at:
            found[job_id] = JobView(job_id=job_id, state="PENDING")
    found = {job_id: replace(job, at=at) for job_id, job in found.items()}
    return {**found, **(_accounted(older) if older else {})}


def forget() -> None:
    """Drop the remembered answer: something was queued or cancelled."""
    with contextlib.suppress(OSError):
        os.unlink(_file("queue.json"))


def _queue() -> tuple[float, dict[str, JobView]]:
    """Return when squeue was asked, and what it knows; StateError when it did not answer."""
    file = _file("queue.json")
    with _locked(file):
        kept = _kept(file)
        if kept is None:
            kept = _ask_queue()
            with contextlib.suppress(OSError):  # without a cache it is slower, never wrong
                write_atomically(file, json.dumps(kept), 0o600)
    if kept["error"]:
        raise StateError(kept["error"], hint=kept["hint"])
    return kept["at"], queued(kept["text"])


def _kept(file: str, asked: Sequence[str] = ()) -> dict[str, Any] | None:
    """Return the remembered answer, while it counts; one about all that is ``asked``."""
    try:
        with open(file, encoding="utf-8") as kept:
            answer: dict[str, Any] = json.load(kept)
        age = time.time() - float(answer["at"])
        lasts = max(_FAILED_S, _floor()) if answer["error"] else _floor()
        whole = {"text", "hint"} <= answer.keys() and {*asked} <= {*answer.get("asked", ())}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return answer if whole and 0 <= age < lasts else None


def _floor() -> float:
    try:
        return float(os.environ.get("LAUNCHER_POLL_S", _FLOOR_S))
    except ValueError:
        return _FLOOR_S


def _ask_queue() -> dict[str, Any]:
    at = time.time()  # what is queued while Slurm answers may be in the answer, or not
    form = ",".join(f"{field}|" for field in _FIELDS)
    who = (f"--user={os.getuid()}", "--all", "--states=all", "--array")
    done = ask(("squeue", "--noheader", *who, f"--Format={form}"))
    if done.status:
        error = no_answer(done)
        return {"at": time.time(), "error": error.message, "hint": error.hint, "text": ""}
    # the fields come padded to their widths
    text = re.sub(r" +\|", "|", done.stdout)
    return {"at": at, "error": "", "hint": "", "text": text}


def queued(text: str) -> dict[str, JobView]:
    """Return the jobs that squeue lists, by id."""
    jobs = {}
    for line in text.splitlines():
        words = [each.strip() for each in line.split("|", len(_FIELDS) - 1)]
        if len(words) == len(_FIELDS):
            job_id, state, restarts, code, start, reason, nodes, name = words
            jobs[job_id] = JobView(
                job_id=job_id,
                state=state,
                restarts=int(restarts) if restarts.isdigit() else None,
                start=_time(start),
                reason="" if reason in _NONE else reason,
                nodes="" if nodes in _NONE else nodes,
                name=name.rstrip("|"),
                source="squeue",
                **_ended(code, over=state not in _LIVE),
            )
    return jobs


_LIVE = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING"}
_LIVE |= {"REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "RESIZING", "STAGE_OUT"}


def _ended(code: str, *, over: bool) -> dict[str, Any]:
    """Return exit status and signal from ``3:0``, or from what wait(2) gave, 768."""
    if not over:
        return {}
    status, colon, number = code.partition(":")
    if not (status.isdigit() and (number.isdigit() or not colon)):
        return {}
    if not colon:
        status, number = str(int(code) >> 8), str(int(code) & 127)
    return {"exit_status": None if int(number) else int(status), "signal": int(number)}


def _time(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def _accounted(job_ids: list[str]) -> dict[str, JobView]:
    """Return the jobs that Slurm's accounting knows; none where it keeps no accounts."""
    mark = _file("no-accounts")
    with contextlib.suppress(OSError):
        if 0 <= time.time() - os.stat(mark).st_mtime < _NO_ACCOUNTS_S:
            return {}
    kept = _kept(_file("accounts.json"), job_ids)
    if kept is not None:
        return accounted(kept["text"])
    # An array by its own number: the words of a command have an end, and so has its patience.
    arrays = dict.fromkeys(each.partition("_")[0] for each in job_ids)
    which = f"--jobs={','.join(arrays)}"
    table = ("--noheader", "--parsable2", "--allocations", f"--format={_SACCT}")
    at = time.time()
    done = ask(("sacct", *table, which))
    if "accounting storage is disabled" in done.stderr or done.status == 127:
        with contextlib.suppress(OSError), open(mark, "w", encoding="utf-8"):
            os.utime(mark)
        return {}
    if done.status:
        said = "Slurm's accounting does not answer" if silent(done) else done.stderr.strip()
        return {each: JobView(job_id=each, state="UNKNOWN", reason=said[:200]) for each in job_ids}
    answer = {"at": at, "error": "", "hint": "", "text": done.stdout, "asked": job_ids}
    with contextlib.suppress(OSError):
        write_atomically(_file("accounts.json"), json.dumps(answer), 0o600)
    return accounted(done.stdout)


def accounted(text: str) -> dict[str, JobView]:
    """Return the jobs that sacct lists, by id."""
    jobs = {}
    for line in text.splitlines():
        words = line.split("|", _SACCT.count(","))
        if len(words) == _SACCT.count(",") + 1:
            job_id, state, code, start, reason, nodes, name = words
            word = state.partition(" ")[0]  # "CANCELLED by 1001"
            jobs[job_id] = JobView(
                job_id=job_id,
                state=word,
                start=_time(start),
                reason="" if reason in _NONE else reason,
                nodes="" if nodes in _NONE else nodes,
                name=name,
                source="sacct",
                **_ended(code, over=word not in _LIVE),
            )
    return jobs


@contextlib.contextmanager
def _locked(file: str) -> Iterator[None]:
    """Hold the one right to ask; without a folder to hold it in, everybody may."""
    try:
        os.makedirs(os.path.dirname(file), mode=0o700, exist_ok=True)
        lock = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        end = time.monotonic() + _LOCK_S
        while time.monotonic() < end:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # somebody asks
                time.sleep(0.02)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(lock)


def _file(name: str) -> str:
    """Return the path of a file of this user's, about the cluster that we talk to."""
    cluster = [os.environ.get("SLURM_CONF", ""), cluster_name(), os.getuid()]
    return os.path.join(cache_dir(), "slurm", f"{digest(cluster)}-{name}")
