"""What an environment is made of, and so its name: Recipe -> key, folder. Pure.

Why a content hash: the same requirements give the same folder, whoever asks and from wherever, and
a change of any of them gives another one beside it; nothing that runs is ever changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.environment import horovod
from launcher.environment.answers import digest

if TYPE_CHECKING:
    from launcher.environment import Environment
    from launcher.environment.machine import Machine

SCHEMA = 1  # of the key and of environment.json: another number, other folders


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """An environment to be built, and the machine that builds it."""

    environment: Environment
    machine: Machine
    horovod: bool = False  # whether a dist needs it
    mpi: bool = False  # the same; Horovod needs one
    conda: bool = False  # else a virtual environment

    @property
    def needs_horovod(self) -> bool:
        """Return whether Horovod's wheel is a part of it."""
        return self.horovod and self.environment.horovod is not None

    @property
    def own_mpi(self) -> bool:
        """Return whether the mpirun that a dist needs is a part of it."""
        conda = {each.partition("=")[0].strip() for each in self.environment.conda_packages}
        return self.mpi and (self.environment.mpi != "system" or bool(conda & horovod.CONDA_MPIS))

    @property
    def flags(self) -> tuple[str, ...]:
        """Return the settings that decide what is in Horovod's wheel."""
        return (*horovod.flags(self.environment.kind), *self.machine.settings)

    @property
    def requirements(self) -> tuple[str, ...]:
        """Return what pip is asked to install from its index, in order."""
        environment = self.environment
        named = environment.requirements(horovod=self.horovod, mpi=self.mpi)
        if not self.needs_horovod:
            return named
        rest = tuple(each for each in named if each != environment.horovod)
        return (*rest, *horovod.RUN_TIME)

    @property
    def content(self) -> dict[str, Any]:
        """Return all that makes this environment differ from another one, as JSON values."""
        environment, machine = self.environment, self.machine
        python = machine.python
        series = python.version.rpartition(".")[0] if python.version.count(".") > 1 else ""
        return {
            "schema": SCHEMA,
            "kind": environment.kind,
            "provision": "conda" if self.conda else "venv",
            # Conda brings its own interpreter: only the series is asked for.
            "python": [series or python.version]
            if self.conda
            else [python.implementation, python.version, python.base],
            "platform": python.platform,
            "requirements": sorted(set(self.requirements)),
            "conda_packages": sorted(set(environment.conda_packages)),
            "pip_args": list(environment.pip_args),
            "files": [list(each) for each in machine.files],
            "horovod": [environment.horovod, *self.flags] if self.needs_horovod else [],
            "system_mpi": [machine.mpirun, machine.mpi] if self.mpi and not self.own_mpi else [],
        }

    @property
    def key(self) -> str:
        """Return the 16 digits that name this environment."""
        return digest(self.content)

    @property
    def path(self) -> str:
        """Return the folder of this environment."""
        return f"{self.machine.cache}/envs/{self.key}"

    @property
    def work(self) -> str:
        """Return the folder that exists while this environment is built."""
        return f"{self.path}.work"

    @property
    def log(self) -> str:
        """Return the file that the build writes to, and that is locked while it runs."""
        return f"{self.path}.log"

    @property
    def python(self) -> str:
        """Return this environment's interpreter."""
        return f"{self.path}/bin/python"

    @property
    def site(self) -> str:
        """Return the folder of this environment where pip installs."""
        major, minor = self.machine.python.version.split(".")[:2]
        return f"{self.path}/lib/python{major}.{minor}/site-packages"
