"""What a Slurm cluster has, as it says itself -> Cluster. Reads only.

Why all questions at once: each is a process of some milliseconds, and none waits for another.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from launcher import process
from launcher.cluster import Cluster, NodeGroup
from launcher.slurm import limits
from launcher.slurm.ask import ask, no_answer, silent, there
from launcher.slurm.hosts import expand
from launcher.slurm.sizes import seconds

if TYPE_CHECKING:
    from typing import Any

    from launcher.job import JobSpec
    from launcher.process import Completed

_NODES = "%R|%P|%a|%l|%D|%c|%m|%G|%f|%N"  # Source: sinfo(1)
_GPUS = re.compile(r"gpu(?::[^:,()]+)?:(\d+)")


def probe(job: JobSpec, *, arrays: bool = False) -> Cluster | None:
    """Return what the cluster has that ``job`` may ask for; None where there is no Slurm.

    SubmitError, transient, when there is a cluster and its controller does not answer.
    """
    questions: dict[str, tuple[str, ...]] = {
        "version": ("sinfo", "--version"),
        "mpi": ("srun", "--mpi=list"),
        "nodes": ("sinfo", "--noheader", "--all", "--exact", "--noconvert", f"--format={_NODES}"),
        **_named(job.compute),
        **(_of_arrays() if arrays else {}),
    }
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = dict(zip(questions, pool.map(ask, questions.values()), strict=True))
    if not there(answers["version"]) or not there(answers["nodes"]):
        return None
    if answers["nodes"].status:
        raise no_answer(answers["nodes"])
    return _cluster(job.compute, {name: done for name, done in answers.items() if _useful(done)})


def _named(compute: Any) -> dict[str, tuple[str, ...]]:
    """Return the questions that are asked only where the job names such a thing."""
    asked: dict[str, tuple[str, ...]] = {}
    if compute.account or compute.qos:
        show = ("show", "associations", f"user={process.user()}", "format=account,qos")
        asked["accounts"] = ("sacctmgr", "--noheader", "--parsable2", *show)
    if compute.reservation:
        asked["reservations"] = ("scontrol", "--all", "--oneliner", "show", "reservation")
    return asked


def _of_arrays() -> dict[str, tuple[str, ...]]:
    """Return the questions that are asked for sweeps: how much may be queued at once."""
    return {
        "config": ("scontrol", "show", "config"),
        "limits": limits.question(process.user()),
    }


def _useful(done: Completed) -> bool:
    return not done.status and not silent(done)


def _cluster(compute: Any, answers: dict[str, Completed]) -> Cluster:
    text = {name: done.stdout for name, done in answers.items()}
    groups, names = nodes(text["nodes"], os.environ.get("SBATCH_PARTITION", ""))
    held = text.get("reservations")
    accounts, qos = associations(text.get("accounts", ""))
    return Cluster(
        version=text["version"].split()[-1],
        # Slurm writes the list to one or the other stream, by version.
        mpi=plugins(text.get("mpi", "") + answers["mpi"].stderr) if "mpi" in answers else (),
        groups=groups,
        names=names if compute.nodelist or compute.exclude else None,
        accounts=accounts,
        qos=qos,
        reservations=None if held is None else reservations(held),
        max_array=max_array(text.get("config", "")),
        limits=limits.limits(
            text.get("config", ""), text.get("limits", ""), process.user(), os.getuid()
        ),
    )


def nodes(text: str, default: str = "") -> tuple[tuple[NodeGroup, ...], tuple[str, ...]]:
    """Return the groups of alike nodes that sinfo lists, and the names of all nodes.

    ``default``: the partitions that the user's SBATCH_PARTITION names, which come before the
    cluster's own default.
    """
    groups: list[NodeGroup] = []
    names: dict[str, None] = {}
    own = [each for each in default.split(",") if each]
    for line in text.splitlines():
        words = line.split("|")
        if len(words) != 10:
            continue
        groups.append(_group(words, own))
        names.update(dict.fromkeys(expand(words[9])))
    return tuple(groups), tuple(names)


def _group(words: list[str], own: list[str]) -> NodeGroup:
    name, marked, up, limit, count, cpus, memory, gres, features, _ = words
    return NodeGroup(
        partition=name,
        default=name in own if own else marked.endswith("*"),
        # A partition that is "down" queues jobs for later; these two refuse them.
        up=up not in ("inact", "drain"),
        nodes=_number(count),
        cpus=_number(cpus),
        mem_mb=_number(memory),
        gpus=gpus(gres),
        features=() if features == "(null)" else tuple(features.split(",")),
        max_time_s=seconds(limit),
    )


def _number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else 0


def gpus(gres: str) -> int:
    """Return the GPUs in a list of generic resources: ``gpu:a100:4(S:0-1),shard:8`` -> 4."""
    listed = re.sub(r"\([^)]*\)", "", gres)
    return sum(int(found) for found in _GPUS.findall(listed))


def plugins(text: str) -> tuple[str, ...]:
    """Return the names that ``srun --mpi=list`` lists."""
    found: set[str] = set()
    for line in text.splitlines():
        head, colon, tail = line.rpartition("available:")
        if colon:  # "specific pmix plugin versions available: pmix_v3,pmix_v4"
            found.update(each.strip() for each in tail.split(",") if each.strip())
        else:
            listed = re.fullmatch(r"(?:srun:)?\s+(\w+)\s*", head or line)
            found.update(listed.groups() if listed else ())
    return tuple(sorted(found))


def associations(text: str) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """Return the user's accounts and qualities of service; None for what is not known."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 1]
    accounts = sorted({account for account, _ in rows if account})
    listed = [each.split(",") for _, each in rows]
    # A "+name" is added to what is inherited, which is not shown: then the list is not whole.
    whole = all(name and name[0] not in "+-" for names in listed for name in names)
    qos = sorted({name for names in listed for name in names}) if whole else []
    return tuple(accounts) or None, tuple(qos) or None


def max_array(text: str) -> int | None:
    """Return how many tasks an array may have, in what scontrol shows; None: not told."""
    # The size is one more than the highest number of a task, and ours begin with 0.
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", text, re.MULTILINE)
    return int(found[1]) or None if found else None


def reservations(text: str) -> tuple[str, ...]:
    """Return the names of the reservations that scontrol shows."""
    return tuple(re.findall(r"^ReservationName=(\S+)", text, re.MULTILINE))
