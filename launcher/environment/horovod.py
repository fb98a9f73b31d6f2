"""How Horovod's wheel is built: its flags, its tools, its words. Pure.

Why from source, with a toolchain file: the last release (0.28.1, 2023) has no wheels, and pins
C++14 in its CMake files while torch wants C++20. CMake lets a project be followed by an include,
and its toolchain file can be named in the environment, so the source stays as it was published.
Tried with torch 2.13.0, Open MPI 5.0.11 and 4.1.4, CMake 4.4, GCC 12, Python 3.11 and 3.12. For
GPUs it was built with CUDA 13.0 and NCCL 2.29.7, imported, and never run: no GPU was there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher.environment.requirement import name

if TYPE_CHECKING:
    from launcher.environment.recipe import Recipe

# What `import horovod.torch` needs; numpy because broadcast_object goes through it.
RUN_TIME = ("cloudpickle", "psutil", "pyyaml", "packaging", "cffi>=1.4", "numpy")
# setup.py uses setup_requires, which setuptools has announced to drop; CMake 5 may drop the policy
# that CMAKE_POLICY_VERSION_MINIMUM restores.
TOOLS = ("cmake>=3.26,<5", "setuptools>=77,<82", "wheel", "packaging")
CONDA_MPIS = frozenset(("openmpi", "mpich", "impi_rt", "mvapich"))  # of conda-forge
COMPILE_OPTION = "-std=c++20"  # after_project.cmake says the same

_FLAGS = (
    "HOROVOD_WITH_PYTORCH=1",
    "HOROVOD_WITHOUT_TENSORFLOW=1",
    "HOROVOD_WITHOUT_MXNET=1",
    "HOROVOD_WITH_MPI=1",
    "HOROVOD_WITH_GLOO=1",
)
_HERE = Path(__file__).parent


def flags(kind: str) -> tuple[str, ...]:
    """Return the settings that decide what is in the wheel, for ``kind`` cpu or gpu."""
    return (*_FLAGS, "HOROVOD_GPU_OPERATIONS=NCCL") if kind == "gpu" else _FLAGS


def tools_words(recipe: Recipe) -> tuple[str, ...]:
    """Return the words that install the build tools outside the environment."""
    pip = (recipe.python, "-I", "-m", "pip", "install", "--no-input")
    return (*pip, "--target", f"{recipe.work}/tools", *recipe.environment.pip_args, *TOOLS)


def nccl_words(recipe: Recipe) -> tuple[str, ...]:
    """Return the words that let a linker find torch's NCCL: its package has no ``libnccl.so``."""
    library = f"{recipe.site}/nvidia/nccl/lib/libnccl.so.2"
    return ("ln", "-sf", library, f"{recipe.work}/tools/libnccl.so")


def wheel_words(recipe: Recipe) -> tuple[str, ...]:
    """Return the words that build the wheel with the environment's own torch and MPI."""
    environment, machine, work = recipe.environment, recipe.machine, recipe.work
    return (
        "env",
        f"PYTHONPATH={work}/tools",
        f"PATH={work}/tools/bin:{recipe.path}/bin:{machine.path}",
        f"CMAKE_TOOLCHAIN_FILE={toolchain_file()}",
        "CMAKE_POLICY_VERSION_MINIMUM=3.5",
        f"MAKEFLAGS=-j{machine.jobs}",
        *recipe.flags,
        *(_gpu(recipe) if environment.kind == "gpu" else ()),
        # The MPI of the system is found where it is, an own one relative to the wheel.
        *(() if recipe.own_mpi else ("LAUNCHER_SYSTEM_MPI=1",)),
        *(recipe.python, "-I", "-m", "pip", "wheel", "--no-input"),
        # pip's own cache knows a wheel by its source alone: it would hand out one that was built
        # with another torch or another MPI.
        "--no-cache-dir",
        *("--no-build-isolation", "--no-deps"),
        *("--wheel-dir", f"{work}/wheel"),
        *environment.pip_args,
        str(environment.horovod),
    )


def install_words(recipe: Recipe) -> tuple[str, ...]:
    """Return the words that install the wheel; what it needs is there already."""
    pip = (recipe.python, "-I", "-m", "pip", "install", "--no-input")
    wanted = str(recipe.environment.horovod)
    # By name and version: installed by its path, it would be recorded as a file of this machine.
    requirement = name(wanted) if "@" in wanted else wanted
    return (*pip, "--no-index", "--no-deps", "--find-links", f"{recipe.work}/wheel", requirement)


def toolchain_file() -> str:
    """Return the CMake file that ships with the launcher."""
    return str(_HERE / "cxx20.cmake")


def _gpu(recipe: Recipe) -> tuple[str, ...]:
    nccl = f"{recipe.site}/nvidia/nccl"
    return (
        f"HOROVOD_CUDA_HOME={recipe.machine.cuda_home}",
        f"CUDA_HOME={recipe.machine.cuda_home}",
        f"HOROVOD_NCCL_HOME={nccl}",
        f"HOROVOD_NCCL_INCLUDE={nccl}/include",
        f"HOROVOD_NCCL_LIB={recipe.work}/tools",
        "HOROVOD_NCCL_LINK=SHARED",
    )
