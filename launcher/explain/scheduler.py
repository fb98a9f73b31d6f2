"""Ends that the scheduler brings, or the programs that start the ranks."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.explain import advice
from launcher.explain.evidence import Explanation, short
from launcher.explain.signs import sign, unset
from launcher.slurm.sizes import clock

if TYPE_CHECKING:
    from launcher.explain.evidence import Evidence
    from launcher.explain.signs import Sign

_WRONG_WORLD = 86  # bootstrap.py's exit status for it
_WORLD = re.compile(r"(\d+) ranks were asked for, this one sees (\d+)")
_OOM = re.compile(
    r"^.*(?:oom.kill event|OOM Killed|: Out Of Memory|exceeded memory limit|Exceeded (?:job|step) "
    r"memory limit|Memory cgroup out of memory).*$",
    re.MULTILINE,
)
_TIME = re.compile(r"DUE TO TIME LIMIT")
_NODE = re.compile(
    r"Node failure on (?P<node>[\w.-]+)|DUE TO NODE FAILURE|"
    r"lost communication with a remote daemon|daemon has unexpectedly failed after launch"
)
_PREEMPTED = re.compile(r"DUE TO PREEMPTION")


def world(evidence: Evidence) -> Explanation | None:
    """Explain ranks that did not see each other."""
    found = evidence.anywhere(_WORLD)
    if not found and evidence.status != _WRONG_WORLD:
        return None
    numbers = f": {found[1]} were asked for, each saw {found[2]}" if found else ""
    starter = str(evidence.option("compute.launch") or "mpirun")
    by = "" if starter == "auto" else f" by {starter}"
    return Explanation(
        sentence=f"the ranks did not see each other{numbers}; they were not started{by} as the "
        "environment's MPI expects, and nothing was trained",
        override=advice.other_starter(evidence),
    )


def memory(evidence: Evidence) -> Explanation | None:
    """Explain a job or step that was killed because it used more memory than it was given."""
    found = evidence.anywhere(_OOM)
    if not found and "OUT_OF_MEMORY" not in evidence.scheduler_state:
        return None
    given = evidence.option("compute.mem")
    asked = f" (compute.mem={given})" if given else ""
    said = f": {short(found[0])}" if found else " [OUT_OF_MEMORY]"
    who = evidence.who if "rank" in evidence.failed else "a rank"
    why = f"the job used more memory than it was given{asked}{said}"
    return Explanation(
        sentence=f"{who} was killed because {why}",
        override=advice.more_memory(evidence),
    )


def time_limit(evidence: Evidence) -> Explanation | None:
    """Explain the end of a run whose time was up."""
    if evidence.state.value != "TIMED_OUT" and not (
        "TIMEOUT" in evidence.scheduler_state or evidence.anywhere(_TIME)
    ):
        return None
    given = evidence.record.time_s
    limit = f"compute.time={clock(given)}" if given else "the partition's or QOS's own"
    said = evidence.reason if "time limit" in evidence.reason else "the time limit was reached"
    used = "compute.max_restarts" in evidence.reason
    override = (advice.again(evidence) if used else "") or advice.more_time(evidence)
    return Explanation(sentence=f"{said} ({limit})", override=override)


def node_failure(evidence: Evidence) -> Explanation | None:
    """Explain a node that died under the run."""
    found = evidence.anywhere(_NODE)
    down = evidence.scheduler_reason == "NodeDown"
    if not found and not down and evidence.scheduler_state not in ("NODE_FAIL", "BOOT_FAIL"):
        return None
    told = re.search(r"node failure(?: on|:) ([\w.-]+)", evidence.reason, re.IGNORECASE)
    node = (found and found["node"]) or (told and told[1]) or ""
    if not node and evidence.record.nodes == 1:
        node = evidence.nodes
    where = node or (f"one of {evidence.nodes}" if evidence.nodes else "a node")
    override = advice.again(evidence)
    if override != "compute.requeue=true":
        override = advice.without_node(evidence, node) or override
    word = evidence.scheduler_state or "NODE FAILURE"
    sentence = f"{where} failed under the run{evidence.after} [{word}]"
    return Explanation(sentence=sentence, override=override)


def silent(evidence: Evidence) -> Explanation | None:
    """Explain a host that went away under its ranks: what was seen of it is all there is."""
    failed = evidence.failed
    went = "rank" in failed and "status" not in failed and "signal" not in failed
    if evidence.record.hosts is None or not (went or "no longer answers" in evidence.reason):
        return None
    return Explanation(sentence=evidence.reason)


def preempted(evidence: Evidence) -> Explanation | None:
    """Explain a run that had to make room and was not started again."""
    if "PREEMPTED" not in evidence.scheduler_state and not evidence.anywhere(_PREEMPTED):
        return None
    override = advice.again(evidence)
    why = {"compute.requeue=true": ": compute.requeue is false"}.get(override, "")
    if override.startswith("compute.max_restarts"):
        why = f": it had been started again {evidence.restarts} times (compute.max_restarts)"
    sentence = (
        f"the job had to make room for another one and was not started again{why} [PREEMPTED]"
    )
    return Explanation(sentence=sentence, override=override)


def deadline(evidence: Evidence) -> Explanation | None:
    """Explain a job that could not end before the deadline that it was given."""
    if evidence.scheduler_state != "DEADLINE":
        return None
    sentence = "the job could not end before its deadline [DEADLINE]"
    return Explanation(sentence=sentence, override=advice.unset(evidence, "compute.extra.deadline"))


# What sbatch, srun, mpirun and the shell say when the ranks could not be started.
_SAID: tuple[Sign, ...] = (
    sign(
        r"Invalid MPI type|cannot find mpi plugin for|annot create context for mpi|"
        r"can not load PMIx library|OMPI was not built with SLURM'?s? PMI support",
        "srun cannot start ranks of this MPI",
        advice.other_starter,
    ),
    sign(
        r"Invalid account or account/partition combination",
        "the cluster does not take compute.account={account} on compute.partition={partition}",
        unset("compute.account"),
    ),
    sign(
        r"[Ii]nvalid partition (?:name )?specified",
        "there is no compute.partition={partition}",
        unset("compute.partition"),
    ),
    sign(
        r"Invalid qos specification", "there is no compute.qos={qos} for you", unset("compute.qos")
    ),
    sign(
        r"Invalid feature specification",
        "no node has compute.constraint={constraint}",
        unset("compute.constraint"),
    ),
    sign(
        r"Requested reservation is invalid",
        "compute.reservation={reservation} is not valid now",
        unset("compute.reservation"),
    ),
    sign(
        r"Required partition not available",
        "compute.partition={partition} does not take jobs now",
        advice.other_partition,
    ),
    sign(
        r"Requested node configuration is not available",
        "no nodes of compute.partition={partition} have what was asked for",
        advice.other_partition,
    ),
    sign(r"Job violates accounting/QOS policy", "a limit of the account or QOS was reached"),
    sign(
        r"More processors requested than permitted", "the job has fewer cores than its ranks need"
    ),
    sign(
        r"Memory required by task is not available",
        "the job has less memory than its step asks for",
        advice.more_memory,
    ),
    sign(r"There are not enough slots available", "mpirun found fewer slots than ranks"),
    sign(
        r"(?:^.+\n-+\n)?A daemon failed to report back|unable to complete a TCP connection|"
        r"An ORTE daemon has unexpectedly failed",
        "mpirun could not start its daemon on another node",
        lambda evidence: advice.other_starter(evidence) if evidence.has("compute.launch") else "",
    ),
    sign(
        r"could not\s+access an executable|execve\(\): (.+): No such file",
        "a program is not there on {node}",
    ),
    sign(r"^.*: (.+?): command not found", "the setup names a program that is not there on {node}"),
    sign(
        r"Unable to locate a modulefile|The following module\(s\) are unknown",
        "the setup loads a module that is not there on {node}",
    ),
    sign(r"No space left on device|Disk quota exceeded", "the disk is full or the quota used up"),
)


def start(evidence: Evidence) -> Explanation | None:
    """Explain ranks that could not be started: there is no rank that failed."""
    if evidence.failed.get("rank") is not None:
        return None
    text = evidence.started
    for each in _SAID:
        found = each.said.search(text)
        if found:
            begin = text.rfind("\n", 0, found.start()) + 1
            lines = text[begin : found.end() + 120].splitlines()
            line = short(" ".join([each for each in lines if each.strip("-")][:2]))
            names = ("account", "partition", "qos", "constraint", "reservation")
            values = {name: evidence.option(f"compute.{name}") for name in names}
            shown = {name: "null" if value is None else value for name, value in values.items()}
            sentence = (
                f"the ranks were not started: {each.means.format(**shown, node=evidence.here)}"
            )
            return Explanation(sentence=f"{sentence} ({line})", override=each.helps(evidence))
    return _not_launched(evidence)


def _not_launched(evidence: Evidence) -> Explanation | None:
    # Slurm gives this reason to a batch script that is killed, too: its log then has lines.
    if evidence.scheduler_reason != "JobLaunchFailure" or evidence.launch_lines:
        return None
    folder = evidence.option("runs_dir") or "runs"
    return Explanation(
        sentence=f"Slurm could not launch the job on {evidence.here}: runs_dir={folder} must be "
        "there for you to write on every node [JobLaunchFailure]"
    )
