"""What hosts told -> what keeps a job from running there, each with its fix. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.hosts import PLAIN, is_plain, told_to_mpirun

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

ROOM_MB = 256  # without which nothing is begun on a host
_CLOCK_S = 2.0
# What building Horovod takes, and the package that has it.
_PARTS = {"C++ compiler": "g++", "make": "make", "Python.h": "python3-dev"}
# Runs want these to be the same on all hosts: what it is called, and what names a common one.
_SAME = (
    ("workdir", "compute.workdir", "compute.workdir=/path names one that is the same on all."),
    ("python", "compute.python", "compute.python=/path names one that is the same on all."),
    ("minor", "Python's version", "compute.python=/path names a common one."),
    ("kind", "the platform", "Name hosts of one kind."),
)
OWN_DISK = "compute.workdir=/path names a folder on a disk of each host's own."
RUNS_PROGRAMS = "compute.workdir=/path names a folder on a disk that programs are run from."


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that is wrong, and what helps. ``blocks``: a job cannot run so."""

    where: str  # hosta, or "hosta -> hostb"
    what: str
    fix: str
    blocks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a job wants of each host."""

    nodes: int = 1
    ranks: int = 1  # on a host
    gpus: int = 0  # on a host
    horovod: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What one host told of itself; ``known`` is empty where it was not reached."""

    name: str
    known: dict[str, Any] = field(default_factory=dict)
    fault: Fault | None = None  # why it was not reached


def builds(told: Told) -> bool:
    """Return whether Horovod's wheel is there, or can be built there."""
    return bool(told.known["environment"].get("wheel")) or not _lacks(told.known)


def faults_of(told: Told, needs: Needs, kinds: Collection[str] = ()) -> list[Fault]:
    """Return what is wrong with one host; ``kinds``: of hosts, that will have Horovod's wheel."""
    if told.fault is not None:
        return [told.fault]
    known = told.known
    horovod = needs.horovod and known["kind"] not in kinds
    found = [*_plain(known, needs.nodes), *_room(known), *_environment(known, horovod=horovod)]
    found += [(f"data: {path} is not there", "It is used where it lies.") for path in known["lost"]]
    if known["gpus"] < needs.gpus:
        what = f"{needs.gpus} GPUs are asked for, and it has {known['gpus']}"
        found.append((what, "environment.gpus_per_proc=0 asks for none."))
    faults = [Fault(where=told.name, what=what, fix=fix) for what, fix in found]
    hints = []
    if known["cpus"] < needs.ranks:
        what = f"{needs.ranks} ranks share {known['cpus']} cores"
        hints.append((what, "A smaller procs_per_node gives each its own."))
    if abs(known["clock_s"]) - known["unsure_s"] > _CLOCK_S:
        what = f"its clock is {known['clock_s']:+.1f} s off ours"
        hints.append((what, "timedatectl set-ntp true, there or here."))
    return faults + [Fault(where=told.name, what=w, fix=f, blocks=False) for w, f in hints]


def _plain(known: dict[str, Any], nodes: int) -> list[tuple[str, str]]:
    return [
        (
            f"compute.{what}: {known[what]!r} is no path that mpirun can be told of",
            f"compute.{what}=/path names another. {PLAIN}.",
        )
        for what in told_to_mpirun(nodes)
        if not is_plain(known[what])
    ]


def _room(known: dict[str, Any]) -> list[tuple[str, str]]:
    room = "compute.workdir=/path names another folder; launcher clean shows what ours takes."
    if known["unwritable"]:
        return [(f"{known['workdir']} cannot be written: {known['unwritable']}", room)]
    if known["free_mb"] < ROOM_MB:
        return [(f"{known['workdir']} has {known['free_mb']} MB of room left", room)]
    return []


def noexec(known: dict[str, Any]) -> str:
    """Return why no environment can be below the launcher's folder of a host, or ""."""
    return f"{known['workdir']} is mounted noexec: no program runs there" if known["noexec"] else ""


def shares(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two hosts have one folder: what either left just now is there for the other.

    Once is enough: the two look at the same time, each after it has left its own.
    """
    return any(
        0 < here["since"] <= there["machines"].get(here["machine"], 0)
        for here, there in ((one, other), (other, one))
    )


def _lacks(known: dict[str, Any]) -> list[str]:
    """Return what a host lacks to build Horovod."""
    there = (known["compiler"], known["make"], known["header"])
    return [each for each, path in zip(_PARTS, there, strict=True) if not path]


def _environment(known: dict[str, Any], *, horovod: bool) -> list[tuple[str, str]]:
    """Return what keeps the environment from being there; ``horovod``: it is to be built there."""
    located = known["environment"]
    if located.get("path") and (why := noexec(known)):
        return [(why, RUNS_PROGRAMS)]
    if located.get("ready"):
        return []
    if located.get("error"):
        return [(located["error"], located["hint"])]
    found = []
    lacks = _lacks(known) if horovod and not located.get("wheel") else []
    if lacks:
        install = " ".join(_PARTS[each] for each in lacks)
        found.append((f"no {', no '.join(lacks)} to build Horovod", f"apt-get install {install}"))
    packages = known["packages"]
    if packages["error"]:
        what = f"packages: {packages['index']} does not answer pip: {packages['error']}"
        fix = "pip.conf or https_proxy there, or environment.pip_args=[--index-url,...]."
        found.append((what, fix))
    return found


def differences(all_told: Sequence[Told], needs: Needs) -> list[Fault]:
    """Return where a host is not as the first one that was reached."""
    reached = [told for told in all_told if told.known]
    found = []
    for at, told in enumerate(reached[1:], 1):
        for other in reached[:at]:
            if all(told.known[key] == other.known[key] for key in ("boot", "hostname")):
                what = f"it is the same machine as {other.name}"
                found.append(Fault(where=told.name, what=what, fix="Name it once."))
            elif shares(told.known, other.known):
                what = f"it shares {told.known['workdir']} with {other.name}"
                found.append(Fault(where=told.name, what=what, fix=OWN_DISK))
        for key, name, fix in _SAME:
            ours, theirs = reached[0].known[key], told.known[key]
            if ours != theirs:
                what = f"{name} is {theirs}, on {reached[0].name} {ours}"
                blocks = needs.nodes > 1
                found.append(Fault(where=told.name, what=what, fix=fix, blocks=blocks))
    return found
