"""Why a job waits: Slurm's reasons in plain words.

Source: squeue(1), JOB REASON CODES, and the list of all reasons in Slurm's documentation. They are
one word (newer versions write '_' for ' '), or a sentence of Slurm's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.explain import advice
from launcher.explain.evidence import Explanation
from launcher.explain.signs import sign, unset
from launcher.slurm.sizes import clock

if TYPE_CHECKING:
    from launcher.explain.evidence import Evidence
    from launcher.explain.signs import Sign

_LIMIT = re.compile(
    r"(?P<owner>Assoc|QOS)?(?P<kind>Grp|Max|Min)(?P<what>[A-Z][A-Za-z]*?)"
    r"(?P<minutes>RunMinutes|Minutes)?(?P<per>Per(?:Job|Node|User|Account))?(?:Limit|NotSatisfied)?"
)
# What a limit counts: how we call it, and the keys that ask for it.
_COUNTED = {
    "cpu": ("cores", ("nodes", "procs_per_node", "compute.cpus_per_proc")),
    "mem": ("memory", ("nodes", "compute.mem")),
    "memory": ("memory", ("nodes", "compute.mem")),
    "node": ("nodes", ("nodes",)),
    "gres": ("GPUs", ("nodes", "procs_per_node", "environment.gpus_per_proc")),
    "wall": ("time", ("compute.time",)),
    "wallduration": ("time", ("compute.time",)),
    "license": ("licenses", ()),
    "bb": ("burst buffer", ()),
    "energy": ("energy", ()),
    "billing": ("billing units", ()),
    "unknown": ("units of a resource", ()),
    "job": ("running jobs", ()),
    "jobs": ("running jobs", ()),
    "submitjob": ("queued and running jobs", ()),
    "submitjobs": ("queued and running jobs", ()),
}


def _time(evidence: Evidence) -> str:
    """Return another partition that gives the time, else the time that this one gives."""
    most = advice.longest(evidence)
    within = f"compute.time={clock(most)}" if most else ""
    return advice.other_partition(evidence) or within


# Slurm's word, what it means after "the job waits: ", what may help. The first match counts.
_REASONS: tuple[Sign, ...] = (
    sign(r"|None|WaitingForScheduling|SchedDefer", "Slurm has not looked at it yet"),
    sign(r"Priority", "other jobs come first"),
    sign(r"Resources|Constraints", "what it asks for is in use by other jobs"),
    sign(
        r"DependencyNeverSatisfied",
        "the job that it depends on has failed: it will not start",
        unset("compute.extra.dependency"),
    ),
    sign(
        r"Dependency", "it depends on a job that has not ended", unset("compute.extra.dependency")
    ),
    sign(r"BeginTime", "its time to start has not come", unset("compute.extra.begin")),
    sign(r"Cleaning", "its last start is being cleaned up"),
    sign(r"Prolog", "the cluster prepares its nodes"),
    sign(
        r"PartitionDown|PartitionInactive",
        "{partition} does not start jobs now",
        advice.other_partition,
    ),
    sign(r"PartitionTimeLimit", "{time} is more than {partition} gives", _time),
    sign(
        r"PartitionNodeLimit",
        "{partition} does not have or give that many nodes, or they are down (nodes={nodes})",
        advice.other_partition,
    ),
    sign(r"PartitionConfig", "it is more than {partition} gives", advice.other_partition),
    sign(
        r"ReqNodeNotAvail.*UnavailableNodes:(?P<node>[^\s)]+).*",
        "nodes that it needs are down or drained: {node}",
        unset("compute.nodelist"),
    ),
    sign(
        r"ReqNodeNotAvail.*maintenance.*",
        "nodes that it needs are reserved for maintenance: a job "
        "that ends before that starts earlier",
        unset("compute.nodelist"),
    ),
    sign(
        r"ReqNodeNotAvail.*",
        "nodes that it needs are in use, reserved or down",
        unset("compute.nodelist"),
    ),
    sign(
        r"Nodes required for job are DOWN.*|NodeDown|FrontEndDown|PowerNotAvail|PowerReserved",
        "nodes that it needs are down, drained or reserved",
        unset("compute.nodelist"),
    ),
    sign(
        r"BadConstraints",
        "no node has what it asks for: it will not start",
        unset("compute.constraint"),
    ),
    sign(r"Licenses", "all licenses that it needs are in use"),
    sign(r"ReservationDeleted", "its reservation was deleted", unset("compute.reservation")),
    sign(r"Reservation", "its reservation has not begun", unset("compute.reservation")),
    sign(r"JobHeldUser", "it is held; `scontrol release` frees it"),
    sign(r"JobHeldAdmin", "the cluster's administrators hold it"),
    sign(
        r"JobHoldMaxRequeue|launch failed requeued held",
        "Slurm could not start it and holds it; `scontrol release` lets it try again",
    ),
    sign(
        r"job requeued in (?:held|special exit) state",
        "it was requeued and is held; `scontrol release` frees it",
    ),
    sign(r"InvalidAccount", "the account {account} is not valid", unset("compute.account")),
    sign(
        r"AccountNotAllowed|Job's account not permitted.*",
        "{partition} does not take the account {account}",
        advice.other_partition,
    ),
    sign(r"InvalidQOS", "the QOS {qos} is not valid", unset("compute.qos")),
    sign(
        r"QOSNotAllowed|Job's QOS not (?:permitted|known).*",
        "the account or {partition} does not take the QOS {qos}",
        unset("compute.qos"),
    ),
    sign(
        r"QOSUsageThreshold",
        "the QOS {qos} wants a better fair share than the account has now",
        unset("compute.qos"),
    ),
    sign(r"(?:Association|QOS)JobLimit", "as many jobs run as the account or QOS allows"),
    sign(r"(?:Association|QOS)ResourceLimit", "the account or QOS uses all that it may"),
    sign(r"(?:Association|QOS)TimeLimit", "the account or QOS has used up its time"),
    sign(r"AccountingPolicy", "a limit of the account or QOS"),
    sign(
        r"MaxMemPerLimit",
        "it asks for more memory a core or node than the cluster gives (compute.mem={mem})",
        unset("compute.mem"),
    ),
    sign(
        r"JobArrayTaskLimit",
        "as many of its sweep's jobs run as may run at a time "
        "(compute.max_parallel={max_parallel})",
        unset("compute.max_parallel"),
    ),
    sign(r"BurstBuffer\w+", "its burst buffer is not ready"),
    sign(r"DeadLine", "it cannot end before its deadline", unset("compute.extra.deadline")),
    sign(r"Block\w+|FedJobLock", "the cluster prepares its start"),
    sign(r"InactiveLimit", "it was inactive for too long"),
    sign(r"SystemFailure", "the cluster has a fault of its own"),
    sign(r"JobLaunchFailure", "Slurm could not launch it"),
    sign(r"TimeLimit|OutOfMemory|NonZeroExitCode", "its last start ended badly"),
)


def pending(evidence: Evidence) -> Explanation:
    """Return why the job waits, with Slurm's own word in brackets; a pool's are sentences."""
    if evidence.record.compute != "slurm":
        why = evidence.scheduler_reason or evidence.reason
        return Explanation(sentence=why or "the run waits until there is room for it")
    given = re.sub(r"^\((.*)\)$", r"\1", evidence.scheduler_reason.strip())
    reason = given.replace("_", " ")
    again = _again(evidence)
    limit = _limit(evidence, reason)
    if limit:
        return Explanation(sentence=f"{again}the job waits: {limit} [{reason}]")
    for each in _REASONS:
        found = each.said.fullmatch(reason)
        if found:
            values = {**_values(evidence), **found.groupdict()}
            word = f" [{reason}]" if reason not in ("", "None") else ""
            sentence = f"{again}the job waits: {each.means.format(**values)}{word}"
            return Explanation(sentence=sentence, override=each.helps(evidence))
    return Explanation(sentence=f"{again}the job waits [{given}]")


def _again(evidence: Evidence) -> str:
    if not evidence.restarts:
        return ""
    why = f", after {evidence.reason}" if evidence.reason else ""
    return f"restart {evidence.restarts}{why}: "


def _values(evidence: Evidence) -> dict[str, str]:
    """Return what the sentences name of the request."""
    partition = evidence.option("compute.partition")
    seconds = evidence.record.time_s
    return {
        "partition": f"the partition {partition}" if partition else "the default partition",
        "time": f"compute.time={clock(seconds)}" if seconds else "its time",
        "nodes": str(evidence.record.nodes),
        "account": str(evidence.option("compute.account") or "that you have by default"),
        "qos": str(evidence.option("compute.qos") or "that you have by default"),
        "mem": str(evidence.option("compute.mem")),
        "max_parallel": str(evidence.option("compute.max_parallel")),
    }


def _limit(evidence: Evidence, reason: str) -> str:
    """Return what a limit such as ``QOSMaxCpuPerUserLimit`` says; "" for any other reason."""
    found = _LIMIT.fullmatch(reason)
    counted = _COUNTED.get(found["what"].lower()) if found else None
    if found is None or counted is None:
        return ""
    what, keys = counted
    owner = _owner(evidence, found)
    asked = ", ".join(f"{key}={_asked(evidence, key)}" for key in keys)
    asked = f" ({asked})" if asked else ""
    if "jobs" in what:
        return f"{_whose(found)} as many {what} as {owner} allows; it starts when some have ended"
    if found["kind"] == "Min":
        return f"{owner} demands more {what} than it asks for{asked}: it will not start"
    if found["kind"] == "Grp":
        return _of_all(found, owner, what)
    if found["per"] in ("PerUser", "PerAccount"):
        one = "one user" if found["per"] == "PerUser" else "one account"
        return f"{owner} does not give {one} more {what} at a time{asked}"
    much = f"{what.removesuffix('s')} minutes" if found["minutes"] else what
    return f"it asks for more {much} than {owner} gives a job{asked}: it will not start"


def _of_all(found: re.Match[str], owner: str, what: str) -> str:
    """Return what a limit on the sum over all jobs says."""
    if found["minutes"] == "Minutes":
        return f"{owner} has not enough {what.removesuffix('s')} minutes left for it"
    if found["minutes"]:
        return f"running jobs hold all the {what.removesuffix('s')} minutes of {owner}"
    return f"the jobs of {owner} use all its {what}; it starts when some have ended"


def _owner(evidence: Evidence, found: re.Match[str]) -> str:
    group, key = ("account", "account") if found["owner"] == "Assoc" else ("QOS", "qos")
    given = evidence.option(f"compute.{key}")
    return f"the {group} {given}" if given else f"the {group}"


def _whose(found: re.Match[str]) -> str:
    return "there are" if found["kind"] == "Grp" or found["per"] == "PerAccount" else "you have"


def _asked(evidence: Evidence, key: str) -> str:
    if key == "compute.time":
        seconds = evidence.record.time_s
        return clock(seconds) if seconds else "null"
    value = evidence.option(key)
    return "null" if value is None else str(value)
