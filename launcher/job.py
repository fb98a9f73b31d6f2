"""The values that flow along the straight path: JobSpec, Facts, LaunchPlan, RunRecord, RunState.

All frozen, all JSON, nothing of OmegaConf inside: what a test writes down is what the code sees.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.errors import StateError

if TYPE_CHECKING:
    from launcher.compute import Compute
    from launcher.dist import Dist
    from launcher.environment import Environment
    from launcher.environment.locate import Prefix

RUN_SCHEMA = 1


class RunState(enum.Enum):
    """Where a run is; ``final`` says that it can no longer change."""

    SUBMITTING = "SUBMITTING"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"
    LOST = "LOST"

    @property
    def final(self) -> bool:
        """Return whether this state can no longer change."""
        return self not in (RunState.SUBMITTING, RunState.PENDING, RunState.RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a job asks for. ``mem_mb`` is MiB a node, ``time_s`` seconds; None: no limit."""

    nodes: int = 1
    procs_per_node: int = 1
    cpus_per_proc: int | None = None
    gpus_per_proc: int = 0
    mem_mb: int | None = None
    time_s: int | None = None

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.nodes * self.procs_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One fully resolved job: nothing is left to look up."""

    name: str
    entry: tuple[str, ...]  # ("train.py",) or ("-m", "package.module")
    args: tuple[str, ...]  # the script's arguments, byte for byte
    source_directory: str  # absolute
    runs_dir: str  # absolute
    resources: Resources
    env: dict[str, str]
    secrets: tuple[str, ...]  # names of variables; their values never stand in a job
    data: dict[str, str]  # name -> path on the target
    compute: Compute
    environment: Environment
    dist: Dist
    grace_s: float
    detach: bool
    overrides: tuple[str, ...]
    config: dict[str, Any]  # the resolved configuration, secrets left out
    rerun_of: str = ""  # the run that this one repeats


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a read-only look at this machine saw: all that ``plan`` may know of the world."""

    user: str
    uid: int
    host: str
    cpus: int
    python: str  # the interpreter that runs the launcher, and so the supervisor
    package_root: str  # the folder that holds the launcher package
    git_dir: str  # the repository that holds the snapshot
    source_prefix: str  # path of the source directory below that repository's root
    prefix: Prefix  # the interpreter, mpirun and libraries that the job will use
    gpus: int = 0  # NVIDIA's, as devices of this machine
    slurm_version: str = ""
    slurm_mpi: tuple[str, ...] = ()  # what `srun --mpi=list` names


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """A file of the run's folder: its path there, its text and its mode."""

    path: str
    text: str
    mode: int = 0o644
    copied_from: str = ""  # set where the text is a file of the launcher's own, word for word


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPlan:
    """Every file to be written, every command to be run, every variable. Nothing else happens."""

    name: str
    run_id: str
    run_dir: str
    files: tuple[PlannedFile, ...]
    build: tuple[tuple[str, ...], ...]  # commands that build the environment; () when it is there
    commands: tuple[tuple[str, ...], ...]  # what submits: words, never a shell's line
    env: dict[str, str]  # of the ranks, as launch.sh exports it
    secrets: tuple[str, ...]  # variables handed on by name

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """What ``run.json`` holds: all that reading, following and repeating a run needs."""

    id: str
    name: str
    created: float  # seconds since the epoch
    user: str
    host: str  # the submitting machine
    compute: str  # local, slurm, ssh
    dist: str  # single, mpi
    entry: tuple[str, ...]
    nodes: int
    procs_per_node: int
    grace_s: float
    time_s: int | None
    git_dir: str
    prefix: str  # path of the source directory below the commit's root
    commit: str
    secrets: tuple[str, ...]
    overrides: tuple[str, ...]
    rerun_of: str = ""
    schema: int = field(default=RUN_SCHEMA)

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.nodes * self.procs_per_node

    def to_json(self) -> str:
        """Return the text of ``run.json``."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Return the record; raise StateError on text that is none, or of another schema."""
        try:
            values = json.loads(text)
            if values["schema"] != RUN_SCHEMA:
                raise StateError(
                    f"run.json has schema {values['schema']}, this launcher reads {RUN_SCHEMA}",
                    hint="pip install --upgrade training-launcher",
                )
            for name in ("entry", "secrets", "overrides"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"run.json cannot be read ({error}): {text[:200]!r}") from error
