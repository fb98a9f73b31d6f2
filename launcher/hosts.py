"""Machines that are reached by ssh, as values: what a plan and a run's record hold of them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.job import Resources

POOL = "pool"  # of a run of no sweep: the folder, in its own, of the pool that is to start it
IPV4 = "{{host: {name}, address: ...}} in compute.hosts names its IPv4 address."
PLAIN = "Letters, digits and ./_+@%=,- only"
_PLAIN = re.compile(r"(~(?=/)|(?=/)|(?=\w))[\w./+@%=,-]*", re.ASCII)
_LESS = {
    "environment.gpus_per_proc": "environment.gpus_per_proc=0 asks for none.",
    "compute.cpus_per_proc": "A smaller one, or slots: in compute.hosts, which lets ranks share "
    "cores.",
}


def is_plain(path: str) -> bool:
    """Return whether mpirun and PATH, which take apart what they are told, can hold a path."""
    return _PLAIN.fullmatch(path) is not None


def told_to_mpirun(nodes: int) -> tuple[str, ...]:
    """Return which of a host's facts are paths that mpirun is told of; Python starts its ssh."""
    return ("workdir", "python") if nodes > 1 else ("workdir",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A machine that is reached by ssh, as it was seen."""

    name: str  # as it is configured: an alias, or user@host:port
    address: str  # by which the other hosts reach it
    user: str
    port: int
    hostname: str  # its own word for itself
    cpus: int
    gpus: int = 0  # NVIDIA's

    def check(self, resources: Resources, cpus_per_proc: int | None) -> None:
        """Raise PlanError where ranks do not get to it, or it has less than those of one node."""
        if resources.nodes > 1 and ":" in self.address:
            raise PlanError(
                f"nodes={resources.nodes}: {self.name} is reached at {self.address}, and mpirun's "
                "hosts reach each other by IPv4",
                hint=IPV4.format(name=self.name),
            )
        ranks = resources.procs_per_node
        for key, each, has, what in (
            ("environment.gpus_per_proc", resources.gpus_per_proc, self.gpus, "GPUs"),
            ("compute.cpus_per_proc", cpus_per_proc or 0, self.cpus, "cores"),
        ):
            if ranks * each > has:
                raise PlanError(
                    f"{key}={each}: {ranks * each} {what} of {self.name} are asked for by "
                    f"procs_per_node={ranks}, and it has {has}",
                    hint=_LESS[key],
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """The hosts of a run, in rank order, and what is the same on all of them."""

    hosts: tuple[Host, ...]
    workdir: str  # absolute; below it all that is ours
    config: str  # ssh's configuration file; "": the user's own
    python: str  # word that starts Python there
    connect_timeout_s: float

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Hosts:
        """Return the hosts that ``dataclasses.asdict`` gave; raise KeyError or TypeError."""
        return cls(**{**values, "hosts": tuple(Host(**each) for each in values["hosts"])})

    def only(self, names: Sequence[str]) -> tuple[Host, ...]:
        """Return the hosts of these names, in this order."""
        return tuple(each for name in names for each in self.hosts if each.name == name)

    def pool(self, run_id: str) -> str:
        """Return where the pool that starts one run only has its folder on the first host."""
        return f"{self.folder(run_id)}/{POOL}"

    def group(self, folder: str) -> str:
        """Return where the group of a sweep, whose folder is here, has its own on the first."""
        sweep, _, number = folder.rsplit("/", 2)
        return f"{self.workdir}/runs/.sweeps/{os.path.basename(sweep)}/groups/{number}"

    def folder(self, run_id: str) -> str:
        """Return a run's folder, which has the same path on each host."""
        return f"{self.workdir}/runs/{run_id}"
