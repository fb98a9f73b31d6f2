"""Overrides that are likely to help, computed from what the run had; "" where none is known.

Only keys that the run's configuration has are suggested, and never a value that nobody gave: a
batch size or a path is the user's own.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher import params
from launcher.environment.requirement import name
from launcher.slurm.sizes import clock, megabytes

if TYPE_CHECKING:
    from launcher.cluster import NodeGroup
    from launcher.explain.evidence import Evidence

_PLAIN = re.compile(r"[A-Za-z0-9_.=-]+")
_MEMORY = re.compile(r"(\d+)([KMGT]?)B?", re.IGNORECASE)


def text(value: Any) -> str:
    """Return ``value`` as an override's: between quotes where Hydra's grammar needs them."""
    word = params.text(value)
    if _PLAIN.fullmatch(word):
        return word
    return params.quoted(word) if re.search(r'["\\$]', word) else f'"{word}"'


def setting(evidence: Evidence, key: str, value: Any) -> str:
    """Return ``key=value`` where the run has that key with another value, else ""."""
    if not evidence.has(key) or evidence.option(key) == value:
        return ""
    return f"{key}={text(value)}"


def built_in_job(evidence: Evidence) -> str:
    """Return what has the environment built where its ranks run; "" where that is so already."""
    there = evidence.record.compute == "ssh"
    return "" if there else setting(evidence, "environment.build_on", "job")


def more_memory(evidence: Evidence) -> str:
    """Return twice the memory; all of a node's where the run left it to the cluster's default."""
    extra = evidence.option("compute.extra") or {}
    named = [f"compute.extra.{each}" for each in extra if str(each).lstrip("-").startswith("mem")]
    key = next((each for each in named if _MEMORY.fullmatch(str(evidence.option(each)))), "")
    key = key or "compute.mem"
    if evidence.has(key) and evidence.option(key) is None:
        return f"{key}=0"  # Source: sbatch(1), --mem
    given = _MEMORY.fullmatch(str(evidence.option(key)))
    if not evidence.has(key) or given is None or not int(given[1]):
        return ""
    return f"{key}={2 * int(given[1])}{given[2]}"


def more_time(evidence: Evidence) -> str:
    """Return twice the time, as far as the partition goes; else a partition that goes further."""
    given = evidence.record.time_s
    if not given or not evidence.has("compute.time"):
        return ""
    most = longest(evidence)
    if most is None or most > given:
        return f"compute.time={clock(2 * given if most is None else min(2 * given, most))}"
    return other_partition(evidence, time_s=2 * given)


def longest(evidence: Evidence) -> int | None:
    """Return the longest time in seconds that the run's partition gives; None: not known."""
    groups = [each for each in _groups(evidence) if _chosen(evidence, each)]
    limits = [each.max_time_s for each in groups if each.max_time_s is not None]
    return max(limits) if limits and len(limits) == len(groups) else None


def other_partition(evidence: Evidence, *, time_s: int | None = None) -> str:
    """Return another partition that takes the job, by what sinfo says; "" without one."""
    wanted = time_s or evidence.record.time_s or 0
    nodes: dict[str, int] = {}
    for each in _groups(evidence):
        limit = each.max_time_s
        if not _chosen(evidence, each) and each.up and (limit is None or limit >= wanted):
            fits = each.nodes if _fits(evidence, each) else 0
            nodes[each.partition] = nodes.get(each.partition, 0) + fits
    good = [each for each, count in nodes.items() if count >= evidence.record.nodes]
    return setting(evidence, "compute.partition", good[0]) if good else ""


def _groups(evidence: Evidence) -> tuple[NodeGroup, ...]:
    return evidence.cluster.groups if evidence.cluster else ()


def _chosen(evidence: Evidence, group: NodeGroup) -> bool:
    given = evidence.option("compute.partition")
    return group.default if given is None else group.partition in str(given).split(",")


def _fits(evidence: Evidence, group: NodeGroup) -> bool:
    ranks = evidence.record.procs_per_node
    cpus = evidence.option("compute.cpus_per_proc") or 1
    gpus = evidence.option("environment.gpus_per_proc") or 0
    mem_mb = megabytes(evidence.option("compute.mem"))
    return group.cpus >= ranks * cpus and group.gpus >= ranks * gpus and group.mem_mb >= mem_mb


def again(evidence: Evidence) -> str:
    """Return what lets the run be started again: requeue, or more restarts than it had."""
    if evidence.option("compute.requeue") is False:
        return "compute.requeue=true"
    most = evidence.option("compute.max_restarts")
    if isinstance(most, int) and evidence.restarts >= most:
        return f"compute.max_restarts={2 * most or 3}"
    return ""


def without_node(evidence: Evidence, node: str) -> str:
    """Return the exclusion of ``node`` besides those that are excluded; "" without one name."""
    if not re.fullmatch(r"[\w.-]+", node) or not evidence.has("compute.exclude"):
        return ""
    given = evidence.option("compute.exclude")
    if node in str(given or "").split(","):
        return ""
    return f"compute.exclude={text(f'{given},{node}' if given else node)}"


def with_package(evidence: Evidence, requirement: str) -> str:
    """Return the list of packages with ``requirement`` added; "" where it is in it."""
    key = "environment.pip_packages"
    given = [str(each) for each in evidence.option(key) or []]
    if not evidence.has(key) or name(requirement) in map(name, given):
        return built(evidence)
    return f"{key}=[{','.join(map(text, [*given, requirement]))}]"


def built(evidence: Evidence) -> str:
    """Return the environment that is built for the run, where it used one as it is."""
    if evidence.option("environment.provision") in ("venv", "conda"):
        return ""
    return setting(evidence, "environment.provision", "venv")


def on_gpus(evidence: Evidence) -> str:
    """Return the GPU environment, or a GPU a rank, where the run had none."""
    if evidence.option("environment.kind") == "cpu":
        return "environment=gpu"
    return "" if evidence.option("environment.gpus_per_proc") else _one_gpu(evidence)


def _one_gpu(evidence: Evidence) -> str:
    return setting(evidence, "environment.gpus_per_proc", 1)


def other_starter(evidence: Evidence) -> str:
    """Return the other way to start ranks on a cluster; elsewhere an MPI that is built for it."""
    if not evidence.has("compute.launch"):
        return built(evidence)
    plugin = str(evidence.option("compute.mpi") or "auto")
    if evidence.option("compute.launch") == "mpirun":
        return "compute.launch=srun"
    known = plugin == "auto" or plugin.startswith("pmix")
    return "compute.launch=mpirun" if known else "compute.mpi=auto"


def unset(evidence: Evidence, key: str) -> str:
    """Return the override that takes an option back, where the run set it."""
    return f"{key}=null" if evidence.option(key) else ""
