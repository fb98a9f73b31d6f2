"""What this machine has and lacks for each compute and dist, and how to get what it lacks.

Reads only, and asks no network: a cluster or a host is examined from where one submits to it.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher import process, show
from launcher.environment.catalog import list_environments
from launcher.slurm.ask import ask, first_line
from launcher.slurm.cluster import plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that a job may want here: what was found ("": nothing), and how to get it."""

    thing: str
    found: str
    fix: str


# What each part of a configuration wants, all of it.
_ALWAYS = ("Python 3.10+", "git", "bash")
_WANTS = {
    "compute=local": _ALWAYS,
    "dist=mpi": (*_ALWAYS, "Horovod"),
    "compute=slurm": (*_ALWAYS, "sbatch", "slurmctld"),
    "compute=ssh": (*_ALWAYS, "ssh", "rsync"),
    "environment=gpu": ("nvidia-smi",),
    "environment.conda_packages": ("conda",),
}


def examine() -> list[Check]:
    """Return a check for each program and library that a job may want."""
    python = f"{sys.version.split()[0]} ({sys.executable})"
    return [
        Check(
            thing="Python 3.10+",
            found=python if sys.version_info >= (3, 10) else "",
            fix="install Python 3.10 or newer",
        ),
        _program("git", "apt-get install git"),
        _program("bash", "apt-get install bash"),
        _horovod(),
        _program("nvidia-smi", "install NVIDIA's driver"),
        _first("conda", ("micromamba", "mamba", "conda"), "install micromamba"),
        _program("sbatch", "run this on a login node of the cluster"),
        _controller("slurmctld"),
        _plugins("srun's PMIx"),
        _program("ssh", "apt-get install openssh-client", "-V"),
        _program("rsync", "apt-get install rsync"),
    ]


def _program(name: str, fix: str, option: str = "--version") -> Check:
    path = shutil.which(name)
    if not path:
        return Check(thing=name, found="", fix=fix)
    done = process.run((path, option), timeout_s=10)
    version = re.search(r"\d+(\.\w+)+", done.stdout + done.stderr)
    return Check(thing=name, found=f"{version[0]} ({path})" if version else path, fix=fix)


def _first(thing: str, names: Sequence[str], fix: str) -> Check:
    return Check(thing=thing, found=next(filter(None, map(shutil.which, names)), ""), fix=fix)


def _horovod() -> Check:
    """Return whether Horovod is built already, or can be built here."""
    ready = [
        each.key
        for each in list_environments()
        if each.state == "ready" and any(name.startswith("horovod") for name in each.requirements)
    ]
    if ready:
        return Check(thing="Horovod", found=f"built, in environment {ready[-1]}", fix="")
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    needs: dict[str, tuple[Callable[[], object], str]] = {
        "a C++ compiler": (lambda: shutil.which("g++") or shutil.which("c++"), "g++"),
        "make": (lambda: shutil.which("make"), "make"),
        "Python.h": (lambda: os.path.exists(header), "python3-dev"),
    }
    lacks = {name: package for name, (there, package) in needs.items() if not there()}
    found = "" if lacks else "can be built here, by itself, in some minutes"
    fix = f"to build it, {', '.join(lacks)}: apt-get install {' '.join(lacks.values())}"
    return Check(thing="Horovod", found=found, fix=fix)


def _controller(thing: str) -> Check:
    done = ask(("scontrol", "ping"), timeout_s=10)
    up = [line for line in done.stdout.splitlines() if line.endswith("is UP")]
    fix = first_line(done.stderr or done.stdout) or "ask the cluster's administrators"
    return Check(thing=thing, found=up[0] if up and not done.status else "", fix=fix)


def _plugins(thing: str) -> Check:
    done = ask(("srun", "--mpi=list"), timeout_s=10)
    names = [name for name in plugins(done.stdout + done.stderr) if name.startswith("pmix")]
    found = ", ".join(names) if done.status == 0 else ""
    return Check(thing=thing, found=found, fix="none is needed: mpirun starts the ranks then")


def verdicts(checks: Sequence[Check]) -> dict[str, str]:
    """Return for each part of a configuration ``ready``, or what it lacks with the fix."""
    lacks = {check.thing: check.fix for check in checks if not check.found}
    return {
        part: "; ".join(f"no {thing}: {lacks[thing]}" for thing in wants if thing in lacks)
        or "ready"
        for part, wants in _WANTS.items()
    }


def healthy(checks: Sequence[Check]) -> bool:
    """Return whether a job can run on this machine at all."""
    return verdicts(checks)["compute=local"] == "ready"


def report_text(checks: Sequence[Check]) -> str:
    """Return the verdicts, and below them what was found."""
    parts = show.table(("FOR", "THIS MACHINE"), list(verdicts(checks).items()))
    rows = [(check.thing, check.found or "not here") for check in checks]
    return f"{parts}\n{show.table(('WHAT', 'FOUND'), rows)}"
