"""The allocation, as the supervisor inside it sees it. Standard library only.

Why slurmstepd's own line in the job's log is read before scontrol is asked: it is there before the
signal is, it needs no controller, and scontrol cannot tell the first three cases apart. What Slurm
22.05 shows while the batch script (which is the supervisor) handles its SIGTERM:

    cause                     line ends "CANCELLED AT …"   scontrol: JobState  Reason     Restarts
    preempted, goes on        DUE TO PREEMPTION            COMPLETING          None       +1
    scontrol requeue          DUE TO JOB REQUEUE           COMPLETING          None       +1
    node down, goes on        DUE TO NODE FAILURE, …       COMPLETING          None       +1
    preempted for good        DUE TO PREEMPTION            COMPLETING  PreemptTime is set  same
    node down, for good       DUE TO NODE FAILURE, …       COMPLETING          NodeDown   same
    time limit                DUE TO TIME LIMIT            COMPLETING          TimeLimit  same
    scancel                   (nothing more)               COMPLETING          None       same
    scancel --batch           (nothing more)               RUNNING             None       same

In a partition with a GraceTime only the steps get a SIGTERM at first (or, where the site says
preempt_send_user_signal, only the batch script its ``--signal``). Then scontrol shows RUNNING, a
PreemptTime and a new EndTime; the batch script's SIGTERM comes when the time of grace is over.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.slurm.ask import ask, first_line
from launcher.slurm.hosts import expand

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG = 2  # the batch script's standard error, to which slurmstepd writes too
_LINE = re.compile(r"\*\*\* JOB (\d+) ON \S+ CANCELLED AT \S+(?: DUE TO ([A-Z ]+))?")
_KINDS = {
    "PREEMPTION": "preempted",
    "JOB REQUEUE": "requeued",
    "NODE FAILURE": "node failure",
    "TIME LIMIT": "time limit",
}
_REASONS = {
    "TimeLimit": "time limit",
    "DeadLine": "time limit",
    "NodeDown": "node failure",
    "NodeFail": "node failure",
}
_DOWN = re.compile(r"DOWN|FAIL|NOT_RESPONDING|\*")
_TAIL = 1 << 16
_UNLIMITED_S = 360 * 86400  # Slurm gives a job without a limit an end after a year


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """What a SIGTERM means, and for a failure the node's name, where it is known.

    ``kind``: "cancelled", "time limit", "preempted", "node failure", "requeued" or "unknown".
    """

    kind: str
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """A job's nodes, in the order of its ranks; ``restarts``: how often it was started before.

    ``job_id`` is the job's name among all, ``12`` or ``12_3`` of an array; ``number`` its own one.
    Who uses it blocks SIGTERM, which Slurm sends to each process of a job that it ends: what has
    asked it to do so would be killed before it has the answer.
    """

    job_id: str
    restarts: int
    nodes: tuple[str, ...]
    end: float | None = None  # seconds since the epoch, where the environment tells it
    log_start: int = 0  # where this attempt's part of the job's log begins
    number: str = ""  # as slurmstepd tells it

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Allocation | None:
        """Return the allocation that this process is in; None: there is none."""
        number = env.get("SLURM_JOB_ID", "")
        if not number.isdigit():
            return None
        array, task = env.get("SLURM_ARRAY_JOB_ID", ""), env.get("SLURM_ARRAY_TASK_ID", "")
        return cls(
            job_id=f"{array}_{task}" if array.isdigit() and task.isdigit() else number,
            number=number,
            restarts=_number(env.get("SLURM_RESTART_COUNT", "")) or 0,
            nodes=expand(env.get("SLURM_JOB_NODELIST", "")),
            end=_number(env.get("SLURM_JOB_END_TIME", "")),
            log_start=_size(),
        )

    def deadline(self) -> float | None:
        """Return when Slurm ends the job, seconds since the epoch; None: no limit, or not known."""
        end = self.end
        if end is None:
            end = _number(self._shown().get("EndTime", ""))
        return end if end is not None and end - time.time() < _UNLIMITED_S else None

    def why(self) -> Why:
        """Return what the SIGTERM means that this process, or a step of the job, was sent."""
        kind = reason(_log(self.log_start), self.number)
        if kind not in ("", "node failure"):
            return Why(kind=kind)
        shown = self._shown()
        kind = kind or self._seen(shown)
        return Why(kind=kind, node=self._lost(shown) if kind == "node failure" else "")

    def requeue(self) -> str | None:
        """Have the job queued again, which ends it here; return why that failed, None if not."""
        return _failure("scontrol", "requeue", self.job_id)

    def cancel(self) -> str | None:
        """Have the job cancelled, so that the accounts say so; return why that failed, or None."""
        return _failure("scancel", self.job_id)

    def _shown(self) -> dict[str, str]:
        """Return what scontrol shows of the job; {} when it does not answer."""
        done = ask(("scontrol", "--oneliner", "show", "job", self.job_id), timeout_s=10)
        return {} if done.status else fields(done.stdout)

    def _seen(self, shown: Mapping[str, str]) -> str:
        """Return the kind that follows from what scontrol shows, where there is no line."""
        told = _REASONS.get(shown.get("Reason", ""), "")
        if told:
            return told
        if shown.get("PreemptTime", "None") not in ("None", "Unknown", ""):
            return "preempted"
        if (_number(shown.get("Restarts", "")) or 0) > self.restarts:
            return "node failure" if self._lost(shown) else "requeued"
        ended = shown.get("JobState") in ("COMPLETING", "CANCELLED")
        return "cancelled" if ended else "unknown"

    def lost(self) -> str:
        """Return the names of our nodes that failed; "" when none is seen to have."""
        return self._lost(self._shown())

    def _lost(self, shown: Mapping[str, str]) -> str:
        names = ",".join(self.nodes)
        done = ask(("scontrol", "--oneliner", "show", "node", names), timeout_s=10)
        states = [fields(line) for line in done.stdout.splitlines()]
        down = {each["NodeName"] for each in states if _DOWN.search(each.get("State", ""))}
        # One that came back at once is not down, but the job no longer has it.
        left = expand(shown.get("NodeList", ""))
        gone = down or ({*self.nodes} - {*left} if left else set())
        return ",".join(name for name in self.nodes if name in gone)


def reason(log: str, job_id: str) -> str:
    """Return the kind that slurmstepd's last line about the job tells; "" for no such line."""
    found = [told for number, told in _LINE.findall(log) if number == job_id]
    return _KINDS.get(found[-1].strip(), "cancelled") if found else ""


def fields(line: str) -> dict[str, str]:
    """Return the values that a line of ``scontrol --oneliner show`` holds, by name."""
    return {name: value for name, _, value in (word.partition("=") for word in line.split())}


def _failure(*argv: str) -> str | None:
    done = ask(argv, timeout_s=30)
    return (first_line(done.stderr) or f"exit status {done.status}") if done.status else None


def _size() -> int:
    with contextlib.suppress(OSError):
        return os.fstat(_LOG).st_size
    return 0


def _log(start: int) -> str:
    """Return what was written to the job's log since ``start``; "" where it cannot be read."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.fstat(_LOG).st_mode):
            with open(f"/proc/self/fd/{_LOG}", "rb") as log:
                log.seek(max(start, _size() - _TAIL))
                return log.read().decode("utf-8", "replace")
    return ""


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
