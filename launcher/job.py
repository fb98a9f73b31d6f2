"""The values that flow along the straight path: JobSpec, Facts, LaunchPlan, RunRecord, RunState.

All frozen, all JSON, nothing of OmegaConf inside: what a test writes down is what the code sees.
"""

from __future__ import annotations

import enum
import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.cluster import Cluster, cluster_text
from launcher.errors import StateError
from launcher.hosts import Hosts

if TYPE_CHECKING:
    from launcher.compute import Compute
    from launcher.data import Dataset, Upload
    from launcher.dist import Dist
    from launcher.environment import Environment
    from launcher.environment.locate import Prefix

RUN_SCHEMA, LINK = 1, 0o120000
WRITTEN = ("code", "logs", "outputs", "checkpoints", "ranks")  # folders that a run writes to


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
class Application:
    """What a job has, beside all that others have, that a Hydra application launched itself."""

    outputs: str  # the folder that Hydra gives it, which outputs/ leads to; "": on another machine
    composed: str  # its configuration as it was composed, as JSON: what a rank is to compose too
    identity: str  # of that configuration, in place of the words that composed it


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
    data: dict[str, str]  # name -> path on the target; of what is sent, once facts are known
    compute: Compute
    environment: Environment
    dist: Dist
    grace_s: float
    wait: bool  # a submit follows the run to its end
    overrides: tuple[str, ...]
    config: dict[str, Any]  # the resolved configuration, secrets left out
    rerun_of: str = ""  # the run that this one repeats
    uploads: dict[str, Upload] = field(default_factory=dict)  # of data: what hosts get from here
    hydra: bool = False  # the script is a Hydra application
    application: Application | None = None  # where it launched this job itself


def _lines(values: dict[str, Any]) -> str:
    """Return ``values`` as JSON, a line a value; to indent it takes ten times as long."""
    return json.dumps(values, separators=(",\n", ": ")) + "\n"


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
    slurm: Cluster | None = None  # None: there is no Slurm here
    # Of compute=ssh. What is said above of interpreters, folders, cores, GPUs and the user's number
    # is then as it is there.
    hosts: Hosts | None = None
    data: tuple[Dataset, ...] = ()  # that these hosts have, or get


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """A file of the run's folder; the mode LINK makes it, as in git, a link to where text says."""

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
    job_name: str  # by which the scheduler knows it
    env: dict[str, str]  # of the ranks, as launch.sh exports it
    secrets: tuple[str, ...]  # variables handed on by name
    data: tuple[Dataset, ...] = ()  # sent to the hosts that lack it

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)

    def summary(self) -> str:
        """Return the plan as JSON without the texts of its files."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["files"] = [[file.path, oct(file.mode), file.copied_from] for file in self.files]
        values["data"] = [asdict(each) for each in self.data]
        return _lines(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """Runs of a sweep that one call queues: a job array, or a pool of this machine."""

    kind: str  # of compute
    folder: str
    job_name: str  # by which the scheduler knows it
    runs: tuple[str, ...]  # ids, by task
    points: tuple[int, ...]  # their numbers, by task
    files: tuple[PlannedFile, ...]  # of the group's folder
    commands: tuple[tuple[str, ...], ...]

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
    sweep: str = ""  # the sweep that launched it
    point: int | None = None  # its number there
    signature: str = ""  # of a sweep's point: the content of what decides its outcome
    max_restarts: int = 0
    signal_s: int = 0  # how long before its end the ranks are sent SIGUSR1; 0: not at all
    silence_s: int = 0  # after which a node counts as lost; 0: its scheduler says
    late: bool = False  # the environment is built inside the job
    config: dict[str, Any] = field(default_factory=dict)  # resolved, without secrets
    cluster: Cluster | None = None  # what it was queued on had, then
    hosts: Hosts | None = None  # of compute=ssh: where it is
    schema: int = field(default=RUN_SCHEMA)

    @property
    def world_size(self) -> int:
        """Return the number of ranks."""
        return self.nodes * self.procs_per_node

    def to_json(self) -> str:
        """Return the text of ``run.json``."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del values["cluster"]  # the same for many runs
        values["hosts"] = None if self.hosts is None else asdict(self.hosts)
        return f'{_lines(values)[:-2]},\n"cluster": {cluster_text(self.cluster)}}}\n'

    @staticmethod
    def committed(text: str, commit: str) -> str:
        """Return ``text``, which ``to_json`` gave before there was a commit, with that commit."""
        # No text within JSON holds a line break.
        return text.replace('\n"commit": "",\n', f'\n"commit": "{commit}",\n', 1)

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
            if values.get("cluster") is not None:
                values["cluster"] = Cluster.from_json(values["cluster"])
            if values.get("hosts") is not None:
                values["hosts"] = Hosts.from_json(values["hosts"])
            return cls(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"run.json cannot be read ({error}): {text[:200]!r}") from error
