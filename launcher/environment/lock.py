"""The lock of an environment: all that is installed in it, as one text in stable order.

Why no path and no date stands in it: two environments with equal locks are equal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.environment import wheel
from launcher.environment.installed import installed, torch_build
from launcher.environment.machine import mpi_line

if TYPE_CHECKING:
    from launcher.environment.recipe import Recipe


def of_built(recipe: Recipe, mpirun: str) -> str:
    """Return the lock of the environment that was just built."""
    build: dict[str, object] | None = None
    if recipe.needs_horovod:
        build = {"flags": list(recipe.flags), "compiler": wheel.built_with(recipe)}
    return _text(recipe, site=(recipe.site,), mpirun=mpirun, build=build, prefix=recipe.path)


def of_current(recipe: Recipe, mpirun: str) -> str:
    """Return the lock of an interpreter that is used as it is; how it was built is not known."""
    python = recipe.machine.python
    prefix = str(Path(python.path).parent.parent)
    return _text(recipe, site=python.site, mpirun=mpirun, build=None, prefix=prefix)


def _text(
    recipe: Recipe,
    *,
    site: tuple[str, ...],
    mpirun: str,
    build: dict[str, object] | None,
    prefix: str,
) -> str:
    python = recipe.machine.python
    conda = sorted(file.stem for file in Path(prefix, "conda-meta").glob("*.json"))
    values = {
        "python": f"{python.implementation} {python.version}",
        "platform": python.platform,
        "packages": sorted(each.frozen() for each in installed(site).values()),
        "conda": conda,
        "torch": torch_build(site) or None,
        "mpi": mpi_line(mpirun, remember=True) or None,
        "horovod": build,
    }
    return json.dumps(values, indent=1) + "\n"
