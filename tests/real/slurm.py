"""A plain user's project on a Slurm cluster, and looks at the scheduler. Fixtures: see the end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.host import ENVIRONMENT
from tests.cluster.user import USER
from tests.conftest import Project
from tests.real.conftest import events, log, state, until
from tests.real.slurm_install import LASTING, give, install, pip_variables, share_wheels

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

FINAL = ("SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "LOST")

SLURM = ("compute=slurm", "entry_script=train.py", "compute.grace_s=10")  # KillWait is 30 there
SINGLE = (*SLURM, "environment.torch=null")
RANKS = (*SINGLE, "dist=mpi", "dist.horovod=false")
TWO_NODES = (*RANKS, "nodes=2", "procs_per_node=1")
HOROVOD = (
    *("compute=slurm", "entry_script=train_horovod.py", "dist=mpi", "nodes=2"),
    *("procs_per_node=2", "environment.pip_packages=[scikit-learn]"),
    # Twice as many ranks as cores: one that waits must let another one work.
    "dist.mca.mpi_yield_when_idle=1",
)

# Scripts: the first waits until a file `go` lies in the run's folder.
WAITS = (
    "import os, time\nprint('ready', flush=True)\n"
    "while not os.path.exists(os.environ['LAUNCHER_RUN_DIR'] + '/go'): time.sleep(0.05)\n"
    "print('end')\n"
)
PRINTS_VARIABLES = (
    "import json, os, re, socket\n"
    "names = re.compile('RANK|WORLD_SIZE|LOCAL_|NODE_RANK|MASTER_|OMP_|OMPI_COMM_|OMPI_UNIVERSE|'\n"
    "    'CUDA_VISIBLE|LAUNCHER_RESTART|LAUNCHER_(RUN|CHECKPOINT|OUTPUT)_DIR|SLURM_JOB_ID$')\n"
    "seen = {name: value for name, value in os.environ.items() if names.match(name)}\n"
    "print(json.dumps({**seen, 'host': socket.gethostname()}, sort_keys=True))\n"
)
STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
    "print('ready', flush=True)\n"
    "end = time.monotonic() + 600\n"
    "while time.monotonic() < end: time.sleep(0.05)\n"
)


# ------------------------------------------------------------------ the user's project


@dataclass(frozen=True)
class GivenProject(Project):
    """A project folder whose files are the plain user's."""

    def write(self, name: str, text: str) -> Path:
        path = super().write(name, text)
        give(self.path / Path(name).parts[0])
        return path

    def copy_example(self, name: str) -> None:
        super().copy_example(name)
        give(self.path)


@dataclass(frozen=True)
class UserProject(GivenProject):
    """The plain user's project folder on a cluster's shared file system."""

    cluster: Cluster
    venv: Path

    @property
    def env(self) -> dict[str, str]:
        """What a login shell of the user's has."""
        return {
            **pip_variables(),
            "PATH": f"{self.venv / 'bin'}:{ENVIRONMENT['PATH']}",
            "LAUNCHER_CACHE": str(LASTING / "cache"),
            "LAUNCHER_POLL_S": "0.2",  # of a tests' cluster, which nobody shares
        }

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        own = {**self.env, **env}
        return self.cluster.start(("launcher", *words), cwd=self.path, env=own)

    def shell(self, line: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a shell's line as the user, in the project, with the launcher on PATH."""
        return self.cluster.run(("bash", "-c", line), cwd=self.path, env={**self.env, **env})

    def submit(self, *words: str, **env: str) -> Path:
        """Return the folder of the run that was queued."""
        done = self.launch(*words, **env)
        assert done.returncode == 0, done.stderr
        return self.path / "runs" / done.stdout.strip()

    def refused(self, *options: str, status: int, words: tuple[str, ...], **env: str) -> str:
        """Check that a submit says these words and leaves nothing; return all that it said."""
        done = self.launch(*options, **env)
        assert done.returncode == status, done.stderr
        for word in words:
            assert word in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") > 1  # a next step
        assert done.stdout == ""
        assert self.queued() == []
        assert not list(self.path.glob("runs/*/events.jsonl"))
        return done.stderr

    def status(self, run: Path) -> dict[str, Any]:
        """Return what `launcher show --json` tells of a run."""
        done = self.launch("show", run.name, "--json")
        assert done.returncode == 0, done.stderr
        values: dict[str, Any] = json.loads(done.stdout)
        return values

    def shown(self, run: Path) -> str:
        """Return a run's state as the launcher tells it."""
        return str(self.status(run)["state"])

    def becomes(self, run: Path, *states: str, timeout_s: float = 180) -> None:
        """Wait until the launcher tells that a run is in one of these states."""
        try:
            until(lambda: self.shown(run) in states, timeout_s)
        except AssertionError as error:
            said = f"{self.status(run)}\n{self.everything(run)}"
            raise AssertionError(f"{error}\n{said}") from None

    def ends(self, run: Path, timeout_s: float = 300) -> str:
        """Return the state that the run's own folder gives at its end, logs at hand if it fails."""
        try:
            until(lambda: events(run) and state(run) in FINAL, timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.everything(run)}") from None
        return state(run)

    def everything(self, run: Path) -> str:
        """Return all that a run wrote, and what Slurm says of its job, for a failure's message."""
        found = [run / "events.jsonl", *sorted((run / "logs").glob("*"))]
        text = "".join(f"-- {each.name}\n{each.read_text()}" for each in found if each.exists())
        names = ",".join(each["job_name"] for each in events(run) if "job_name" in each)
        queue = self.ask("squeue", "--all", "--states=all", f"--name={names}")
        return f"{text}-- squeue\n{queue}"

    # -- the scheduler, as root sees it ------------------------------------------------------

    def ask(self, *argv: str) -> str:
        """Return what a command of Slurm's says; it must succeed."""
        done = self.cluster.run(argv, user="root")
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def job(self, run: Path) -> dict[str, str]:
        """Return `scontrol show job` of a run's job."""
        text = self.ask("scontrol", "--oneliner", "show", "job", job_id(run))
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def queued(self) -> list[str]:
        """Return the ids of the user's jobs that have not ended."""
        return self.ask("squeue", "--noheader", f"--user={USER}", "--format=%A").split()

    def block(self, *words: str) -> str:
        """Occupy nodes with a job that is none of the launcher's; return its id."""
        argv = ("sbatch", "--parsable", "--output=/dev/null", *words, "--wrap=exec sleep 600")
        done = self.cluster.run(argv, cwd=self.path)
        assert done.returncode == 0, done.stderr
        job = done.stdout.strip()
        asks = ("squeue", "--noheader", f"--jobs={job}", "--format=%T")
        until(lambda: self.ask(*asks) == "RUNNING\n")
        return job

    def requeue_now(self, run: Path) -> None:
        """Shorten the wait of a job that Slurm has put back into the queue."""
        # Who looks late finds that it is PENDING no longer: it starts by itself within ten seconds.
        until(lambda: (job := self.job(run))["Restarts"] != "0" and job["JobState"] != "COMPLETING")
        # Sooner, its old credential would still be revoked on the nodes.
        words = ("scontrol", "update", f"JobId={job_id(run)}", "StartTime=now+2")
        self.cluster.run(words, user="root")

    def processes(self, run: Path) -> str:
        """Return the processes of a run that are left on the nodes."""
        mark = f"LAUNCHER_RUN_ID={run.name}"
        look = f"grep -lzx {mark} /proc/[0-9]*/environ 2>/dev/null; :"
        nodes = range(1, len(self.cluster.nodes) + 1)
        alive = (node for node in nodes if self.cluster.nodes[node - 1].pid)
        return "".join(self.cluster.node_exec(node, ("sh", "-c", look)).stdout for node in alive)

    def clean(self) -> None:
        """Leave the cluster as the next test expects it: no job, all nodes idle."""
        self.ask("scancel", f"--user={USER}")
        until(lambda: not self.queued())
        self.cluster.wait_idle()


def job_id(run: Path) -> str:
    """Return the id of a run's job, as the run's folder holds it."""
    return str(until(lambda: [each["job_id"] for each in events(run) if "job_id" in each])[-1])


def ready(run: Path, ranks: int = 1, word: str = "ready", times: int = 1) -> None:
    """Wait until every rank of a run has printed a word."""

    def said() -> bool:
        logs = [run / "logs" / f"rank-{rank}.log" for rank in range(ranks)]
        return all(each.exists() and each.read_text().count(word) >= times for each in logs)

    try:
        until(said)
    except AssertionError as error:
        logs = sorted((run / "logs").glob("*"))
        texts = "".join(f"-- {each.name}\n{each.read_text()}" for each in logs)
        raise AssertionError(f"{error}\n{events(run)}\n{texts}") from None


def records(run: Path, ranks: int) -> list[dict[str, Any]]:
    """Return what each rank printed as one line of JSON."""
    return [json.loads(log(run, rank)) for rank in range(ranks)]


# ------------------------------------------------------------------ fixtures


@pytest.fixture(scope="session")
def installed(_root: None) -> Path:
    """The plain user's virtual environment: this checkout's launcher, not editable."""
    return install()


@pytest.fixture(scope="session", params=["none", "dbd"])
def slurm_cluster(request: pytest.FixtureRequest, installed: Path) -> Iterator[Cluster]:
    """Two nodes with four cores and four GPUs each; without slurmdbd, then with."""
    with Cluster(accounting=request.param) as up:
        yield up


@pytest.fixture
def user(
    slurm_cluster: Cluster, installed: Path, request: pytest.FixtureRequest
) -> Iterator[UserProject]:
    """An empty project folder of the plain user's, on a cluster where nothing else runs."""
    path = slurm_cluster.project(hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8])
    own = UserProject(path=path, cluster=slurm_cluster, venv=installed)
    yield own
    own.clean()


@pytest.fixture(scope="session")
def horovod_python(slurm_cluster: Cluster, installed: Path) -> str:
    """Have the environment of HOROVOD built, on the login side; return its interpreter."""
    share_wheels()
    path = slurm_cluster.project("environment")
    own = UserProject(path=path, cluster=slurm_cluster, venv=installed)
    words = [word for word in HOROVOD if not word.startswith("entry_script")]
    build = ("launcher", "env", "build", *words)
    done = slurm_cluster.run(build, cwd=path, env=own.env, timeout_s=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()[-1]
