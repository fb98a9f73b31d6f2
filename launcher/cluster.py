"""A Slurm cluster as a value: what a plan and a run's record hold of it."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Nodes of one partition that are alike, as sinfo lists them. ``mem_mb`` is MiB a node."""

    partition: str
    default: bool  # the partition is the cluster's default
    up: bool  # the partition takes jobs
    nodes: int
    cpus: int  # of a node
    mem_mb: int
    gpus: int
    features: tuple[str, ...] = ()
    max_time_s: int | None = None  # None: no limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A limit to the jobs that are queued at once. ``account``, ``qos``: of those that it is for.

    None: for all; "": for those that name none.
    """

    name: str  # as Slurm calls it
    of: str  # what it is a limit of
    value: int
    used: int | None  # jobs that are queued now; None: not known
    room: int  # jobs that may be queued beside them
    account: str | None = None
    qos: str | None = None

    def __str__(self) -> str:
        """Return the limit as a person is told of it."""
        now = "" if self.used is None else f" ({self.used} jobs were in the queue)"
        return f"{self.name}={self.value} of {self.of}{now}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a Slurm cluster says that it has; None: it was not asked, or does not tell."""

    version: str
    mpi: tuple[str, ...]  # the plugins that `srun --mpi=list` names
    groups: tuple[NodeGroup, ...] = ()
    names: tuple[str, ...] | None = None  # of its nodes
    accounts: tuple[str, ...] | None = None  # of the user
    qos: tuple[str, ...] | None = None  # of the user
    reservations: tuple[str, ...] | None = None
    max_array: int | None = None  # tasks of a job array, at most; asked for sweeps
    limits: tuple[Limit, ...] = ()  # to what this user queues; asked for sweeps

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Cluster:
        """Return the cluster that ``dataclasses.asdict`` gave; raise KeyError or TypeError."""
        groups = [NodeGroup(**_tuples(each)) for each in values["groups"]]
        limits = [Limit(**each) for each in values.get("limits", ())]
        return cls(**{**_tuples(values), "groups": tuple(groups), "limits": tuple(limits)})


@functools.lru_cache(maxsize=16)
def cluster_text(cluster: Cluster | None) -> str:
    """Return the cluster as JSON; the same text serves many runs."""
    return json.dumps(None if cluster is None else asdict(cluster))


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(each) if isinstance(each, list) else each for key, each in values.items()}
