"""The commands that build an environment, in order: Recipe -> Steps. Pure.

What ``launcher plan`` prints and what ``build`` runs come from here, so that they cannot differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.environment import horovod

if TYPE_CHECKING:
    from launcher.environment.recipe import Recipe

# Roles of steps that are passed over when the cache has Horovod's wheel.
WHEEL_ROLES = ("tools", "nccl", "wheel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command: what it is for, what is said while it runs, its words."""

    role: str  # create, install, tools, nccl, wheel, horovod, verify
    says: str
    argv: tuple[str, ...]


def steps(recipe: Recipe) -> tuple[Step, ...]:
    """Return the commands that build ``recipe``, in order."""
    found = [_create(recipe)]
    if recipe.requirements:
        found.append(_install(recipe))
    if recipe.needs_horovod:
        found += _horovod(recipe)
    modules = ["torch"] if recipe.environment.torch or recipe.needs_horovod else []
    modules += ["horovod.torch"] if recipe.needs_horovod else []
    if modules:
        text = f"import {', '.join(modules)}"
        says = f"checking: {text}"
        found.append(Step(role="verify", says=says, argv=(recipe.python, "-I", "-c", text)))
    return tuple(found)


def _create(recipe: Recipe) -> Step:
    machine, path = recipe.machine, recipe.path
    says = f"creating {path}"
    found = ("env", f"PYTHONPATH={machine.packages}") if machine.packages else ()
    argv: tuple[str, ...] = (*found, machine.launcher, "-m", "virtualenv")
    argv += ("--python", machine.python.path, path)
    if recipe.conda:
        series = ".".join(machine.python.version.split(".")[:2])
        says += " with conda"
        argv = (machine.conda, "create", "--yes", "--prefix", path)
        argv += ("--override-channels", "--channel", "conda-forge")
        argv += (f"python={series}", "pip", *recipe.environment.conda_packages)
    return Step(role="create", says=says, argv=argv)


def _install(recipe: Recipe) -> Step:
    # -I: neither PYTHONPATH nor a file of the user's folder is taken for an installed package.
    # One command: pip sees all requirements at once, so a package cannot replace this torch.
    pip = (recipe.python, "-I", "-m", "pip", "install", "--no-input")
    given = recipe.environment.requirements(horovod=recipe.horovod, mpi=recipe.mpi)
    named = [each for each in given if each in recipe.requirements] or ["Horovod's needs"]
    says = f"installing {', '.join(named)}"
    argv = (*pip, *recipe.environment.pip_args, *recipe.requirements)
    return Step(role="install", says=says, argv=argv)


def _horovod(recipe: Recipe) -> list[Step]:
    wheel = "building Horovod's wheel (about 3 minutes, once)"
    nccl = Step(role="nccl", says="linking torch's NCCL", argv=horovod.nccl_words(recipe))
    return [
        Step(role="tools", says="installing build tools", argv=horovod.tools_words(recipe)),
        *([nccl] if recipe.environment.kind == "gpu" else []),
        Step(role="wheel", says=wheel, argv=horovod.wheel_words(recipe)),
        Step(role="horovod", says="installing Horovod", argv=horovod.install_words(recipe)),
    ]
