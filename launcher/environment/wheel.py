"""Horovod's wheel: built once for each torch, MPI and Python, then taken from the cache.

Why under a key of its own: environments come and go with every package that is added to them, and
the wheel takes minutes. Published by a rename, so that what lies under its key is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import process
from launcher.environment import answers
from launcher.environment.horovod import COMPILE_OPTION, CONDA_MPIS
from launcher.environment.installed import installed, torch_build
from launcher.errors import ProvisionError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.environment.recipe import Recipe

_FILE = "wheel.json"
_COMPILER = (
    "Debian and Ubuntu: apt install g++ make; conda: environment.conda_packages=[gxx,make]; "
    "a cluster: module load gcc."
)
_MPI = (
    "Debian and Ubuntu: apt install openmpi-bin libopenmpi-dev; a cluster: module load openmpi; "
    "environment.mpi's default brings one."
)
_CUDA = "Set CUDA_HOME, or put nvcc on PATH; a cluster: module load cuda."
_ELSEWHERE = "Or build once on a machine that has it: the cache folder may be shared."


def lacks(recipe: Recipe) -> tuple[tuple[str, str], ...]:
    """Return what this machine has not got to build Horovod, each with how to get it."""
    environment, machine = recipe.environment, recipe.machine
    names = {each.partition("=")[0] for each in environment.conda_packages}
    compilers = {"gxx", "cxx-compiler", "compilers"} & names
    needs = (
        (machine.compiler or compilers, "a C++ compiler (c++, g++ or clang++)", _COMPILER),
        (machine.make or {"make", "compilers"} & names, "make", _COMPILER),
        (recipe.own_mpi or machine.mpicxx, "mpicxx (environment.mpi=system)", _MPI),
        (environment.kind != "gpu" or machine.cuda_home, "nvcc, CUDA's compiler", _CUDA),
    )
    return tuple((what, hint) for there, what, hint in needs if not there)


def check(recipe: Recipe) -> None:
    """Raise ProvisionError, in a second and not after minutes, where Horovod cannot be built."""
    missing = lacks(recipe)
    if missing:
        raise ProvisionError(
            f"Horovod is built from source, and this machine lacks {missing[0][0]}",
            hint=f"{missing[0][1]} {_ELSEWHERE}",
        )
    compiler = recipe.machine.compiler
    if recipe.conda or not compiler:
        return  # its compiler comes with the environment
    words = (compiler, COMPILE_OPTION, "-fsyntax-only", "-x", "c++", "-")
    tried = process.run(words, stdin="#include <concepts>\n#include <vector>\n", timeout_s=60)
    if tried.status:
        last = (tried.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise ProvisionError(
            f"{compiler} cannot compile C++20, which torch's headers are written in: {last}",
            hint="GCC 10 or later is needed; environment.conda_packages=[gxx,make] brings one.",
        )
    ask = "import sysconfig; print(sysconfig.get_path('include'))"
    folder = process.run((recipe.machine.python.path, "-I", "-c", ask), timeout_s=60).stdout.strip()
    if not (Path(folder) / "Python.h").is_file():
        raise ProvisionError(
            f"Horovod is built from source, and {folder} has no Python.h",
            hint=f"Debian and Ubuntu: apt install python3-dev; Fedora: python3-devel. {_ELSEWHERE}",
        )


def check_gpu(recipe: Recipe) -> None:
    """Raise ProvisionError where the torch that pip installed does not go with this CUDA."""
    build = torch_build((recipe.site,))
    if "cuda" not in build:
        raise ProvisionError(
            f"environment.kind=gpu, and pip installed torch {build.get('version', '')}, which is "
            "built without CUDA",
            hint="environment.pip_args=[--index-url,...] names an index with CUDA builds.",
        )
    nvcc = f"{recipe.machine.cuda_home}/bin/nvcc"
    found = re.search(r"release ([0-9.]+)", process.run((nvcc, "--version"), timeout_s=60).stdout)
    if found and found[1].partition(".")[0] != build.get("cuda", "").partition(".")[0]:
        raise ProvisionError(
            f"{nvcc} is CUDA {found[1]}, and torch is built with CUDA {build.get('cuda')}",
            hint="Set CUDA_HOME to a toolkit of torch's CUDA; a cluster: module load cuda/X.Y.",
        )


def is_likely(recipe: Recipe) -> bool:
    """Return whether the cache holds a wheel that may fit: torch's build is not known yet."""
    return bool(likely(recipe, described(recipe.machine.cache)))


def likely(recipe: Recipe, wheels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the keys of those wheels that may fit, of each key's facts."""
    wanted = _known_before(recipe)
    return [key for key, each in wheels.items() if wanted.items() <= each.items()]


def described(cache: str) -> dict[str, dict[str, Any]]:
    """Return the facts of the wheels that a cache holds whole, by their keys."""
    files = (Path(cache) / "wheels").glob(f"*/{_FILE}")
    return {file.parent.name: _read(file).get("facts", {}) for file in files}


def facts(recipe: Recipe) -> dict[str, Any]:
    """Return all that the wheel depends on, once torch and the MPI are in the environment."""
    there = installed((recipe.site,))
    own = [each.frozen() for each in there.values() if each.project == "openmpi"]
    conda = (file.stem for file in Path(recipe.path, "conda-meta").glob("*.json"))
    own += sorted(
        each for each in conda if each.rpartition("-")[0].rpartition("-")[0] in CONDA_MPIS
    )
    nccl = sorted(each.frozen() for each in there.values() if "nvidia-nccl" in each.project)
    return {
        **_known_before(recipe),
        "torch": torch_build((recipe.site,)),
        "mpi": [recipe.environment.mpi, *own]
        if recipe.own_mpi
        else [recipe.machine.mpirun, recipe.machine.mpi],
        "nccl": nccl if recipe.environment.kind == "gpu" else [],
    }


def key(recipe: Recipe) -> str:
    """Return the 16 digits that name the wheel."""
    return answers.digest(facts(recipe))


def folder(recipe: Recipe) -> Path:
    """Return where the wheel is published."""
    return Path(recipe.machine.cache) / "wheels" / key(recipe)


def fetch(recipe: Recipe) -> bool:
    """Return whether the cache has the wheel; it then lies where the environment installs from."""
    source, target = folder(recipe), Path(recipe.work) / "wheel"
    if not (source / _FILE).is_file():
        return False
    target.mkdir(parents=True, exist_ok=True)
    for each in source.glob("*.whl"):
        shutil.copy2(each, target / each.name)
    answers.touch(source / _FILE)
    return True


def publish(recipe: Recipe, *, seconds: float) -> None:
    """Put the wheel that was just built into the cache, whole or not at all."""
    target = folder(recipe)
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(Path(recipe.work) / "wheel", part)
    values = {
        "facts": facts(recipe),
        "compiler": compiler_line(recipe),
        "created": time.time(),
        "seconds": round(seconds, 1),
    }
    answers.write(part / _FILE, json.dumps(values, indent=1) + "\n")
    part.rename(target)


def built_with(recipe: Recipe) -> str:
    """Return the compiler that the wheel was built with."""
    return str(_read(folder(recipe) / _FILE).get("compiler", ""))


def compiler_line(recipe: Recipe) -> str:
    """Return the first line of the compiler's ``--version``."""
    own = Path(recipe.path) / "bin"
    program = shutil.which("c++", path=f"{own}{os.pathsep}{recipe.machine.path}")
    words = (os.environ.get("CXX") or program or "c++", "--version")
    return process.run(words, timeout_s=60).stdout.partition("\n")[0].strip()


def _known_before(recipe: Recipe) -> dict[str, Any]:
    machine = recipe.machine
    gpu = recipe.environment.kind == "gpu"
    cmake = hashlib.sha256()
    for name in ("cxx20.cmake", "after_project.cmake"):
        cmake.update((Path(__file__).parent / name).read_bytes())
    return {
        "python": [machine.python.implementation, machine.python.version.split(".")[:2]],
        "platform": machine.python.platform,
        "horovod": recipe.environment.horovod,
        "flags": list(recipe.flags),
        "cmake": cmake.hexdigest()[:16],
        "cuda_home": machine.cuda_home if gpu else "",
        "conda": recipe.conda,
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return values
