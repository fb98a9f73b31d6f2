"""A run on a real Slurm cluster against what users have: hydra-submitit-launcher, a bare srun.

    python -m tests.bench.bench_slurm queued   # enter -> job queued; installs the peer once
    python -m tests.bench.bench_slurm start    # allocation -> first line of all ranks, 2 x 2
    python -m tests.bench.bench_slurm steps    # Horovod's training steps a second, 2 x 1
    python -m tests.bench.bench_slurm runs     # `launcher runs`: 5,000 runs, 200 of them live

As root: the cluster of tests/cluster is brought up for it. Medians of interleaved rounds on one
machine: believe the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.job import RunRecord, RunState
from launcher.observe import observe
from launcher.store import Store
from tests.cluster.cluster import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PEER = (
    "import hydra\n"
    "@hydra.main(version_base=None, config_path=None)\n"
    "def main(cfg):\n    pass\n"
    "main()\n"
)
FIRST = (
    "import os, time\n"
    "now = time.time()\n"
    "rank = os.environ['SLURM_PROCID']\n"
    "open(f\"{os.environ['BENCH']}/first-{rank}\", 'w').write(str(now))\n"
)
STEPS = (
    "import os, time, torch, horovod.torch as hvd\n"
    "hvd.init()\ntorch.set_num_threads(1)\n"
    "layers = torch.nn.Linear(512, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 512)\n"
    "model = torch.nn.Sequential(*layers)\n"
    "optimizer = torch.optim.SGD(model.parameters(), lr=0.01)\n"
    "optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())\n"
    "x = torch.randn(32, 512)\n"
    "def step():\n"
    "    optimizer.zero_grad()\n"
    "    (model(x) - x).pow(2).mean().backward()\n"
    "    optimizer.step()\n"
    "for _ in range(20): step()\n"
    "begun = time.perf_counter()\n"
    "for _ in range(100): step()\n"
    "rate = 100 / (time.perf_counter() - begun)\n"
    "if hvd.rank() == 0: open(os.environ['BENCH'] + '/rate', 'w').write(str(rate))\n"
)
PEERS = ("hydra-core==1.3.8", "omegaconf==2.3.0", "submitit==1.5.4")  # as ours has them
PEER_ENVIRONMENT = Path("/var/tmp/launcher-bench-peer")
LAUNCHER = (sys.executable, "-m", "launcher", "compute=slurm", "entry_script=train.py")
PLAIN = ("environment.torch=null", "dist=mpi", "dist.horovod=false")


class Bench:
    """A project folder of root's on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.path = cluster.project("bench", user="root")
        self.notes = self.path / "notes"
        self.notes.mkdir()
        subprocess.run(["git", "init", "-q"], cwd=self.path, check=True)
        (self.path / ".gitignore").write_text("notes\nmultirun\n.submitit\n")
        self.wrappers = self.path / "notes" / "bin"
        self.wrappers.mkdir()

    def note_calls(self, program: str) -> Path:
        """Have each call of ``program`` written down when it has ended: its time and words."""
        log = self.notes / f"{program}.log"
        real = subprocess.run(["which", program], check=True, capture_output=True, text=True)
        script = (
            f'#!/bin/bash\n{real.stdout.strip()} "$@"; status=$?\n'
            f'echo "$EPOCHREALTIME $*" >>{log}\nexit $status\n'
        )
        path = self.wrappers / program
        path.write_text(script)
        path.chmod(0o755)
        log.touch()
        return log

    def run(self, words: Sequence[str], timeout_s: float = 120) -> str:
        keep = ("PATH", "PIP_INDEX_URL", "PIP_FIND_LINKS", "SSL_CERT_FILE")
        env = {name: os.environ[name] for name in keep if name in os.environ}
        env |= {"PATH": f"{self.wrappers}:{env['PATH']}", "BENCH": str(self.notes)}
        env |= {"LAUNCHER_CACHE": os.path.expanduser("~/.cache/launcher")}
        done = self.cluster.run(words, user="root", cwd=self.path, env=env, timeout_s=timeout_s)
        if done.returncode:
            raise SystemExit(f"{words}: {done.stdout}{done.stderr}")
        return done.stdout

    def idle(self) -> None:
        """Wait until no job is left."""
        while self.run(("/usr/bin/squeue", "--noheader")).strip():
            time.sleep(0.1)


def peer_python() -> str:
    """Return the interpreter of an environment of its own that has hydra-submitit-launcher."""
    python = PEER_ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "virtualenv", "-q", PEER_ENVIRONMENT], check=True)
        words = ("-m", "pip", "install", "-q", "hydra-submitit-launcher==1.2.0", *PEERS)
        subprocess.run([python, *words], check=True)
    return str(python)


def queued(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Return seconds from enter to the end of the sbatch that queues one job."""
    (bench.path / "train.py").write_text("print('hello')\n")
    (bench.path / "app.py").write_text(PEER)
    log = bench.note_calls("sbatch")
    peer = (peer_python(), "app.py", "-m", "hydra/launcher=submitit_slurm")
    peer += ("hydra.launcher.submitit_folder=.submitit", "+x=1")
    cases = {
        "hydra-submitit-launcher, one point": peer,
        "launcher": (*LAUNCHER, "environment.torch=null"),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    found["launcher, to its last word"] = []
    for number in range(rounds + 1):
        for name, words in cases.items():
            log.write_text("")
            before = time.time()
            bench.run(words)
            after = time.time()
            calls = [line for line in log.read_text().splitlines() if "--test-only" not in line]
            if number:  # the first is a warm-up
                found[name].append(float(calls[-1].split()[0]) - before)
                if name == "launcher":
                    found["launcher, to its last word"].append(after - before)
        bench.idle()
    return found


def start(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Return seconds from the allocation's start to the first line of the last of 2 x 2 ranks."""
    (bench.path / "train.py").write_text(FIRST)
    srun = f"srun --mpi=pmix --cpus-per-task=1 {sys.executable} train.py"
    bare = ("sbatch", "--wait", "--nodes=2", "--ntasks-per-node=2", f"--wrap={srun}")
    ours = (*LAUNCHER, *PLAIN, "nodes=2", "procs_per_node=2", "wait=true")
    found: dict[str, list[float]] = {"srun --mpi=pmix": [], "launcher": []}
    for number in range(rounds + 1):
        for name, words in zip(found, (bare, ours), strict=True):
            for file in bench.notes.glob("first-*"):
                file.unlink()
            bench.run(words)
            times = [float(each.read_text()) for each in bench.notes.glob("first-*")]
            assert len(times) == 4, times
            begun = float((bench.notes / "allocated").read_text())
            if number:
                found[name].append(max(times) - begun)
            bench.idle()
    return found


def steps(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Return training steps a second of Horovod's ranks, one on each of two nodes."""
    (bench.path / "train.py").write_text(STEPS)
    horovod = ("dist=mpi", "procs_per_node=2", "environment.pip_packages=[scikit-learn]")
    python = bench.run((*LAUNCHER[:3], "env", "build", *horovod), timeout_s=900).split()[-1]
    tuned = "OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,sm,tcp OMP_NUM_THREADS=1"
    srun = f"srun --mpi=pmix --cpus-per-task=1 {python} train.py"
    bare = ("sbatch", "--wait", "--nodes=2", "--ntasks-per-node=1")
    ours = (*LAUNCHER, *horovod[::2], "nodes=2", "wait=true")
    cases = {
        "srun --mpi=pmix": (*bare, f"--wrap={srun}"),
        "the same, Open MPI tuned": (*bare, f"--wrap={tuned} {srun}"),
        "launcher": (*ours, "dist=mpi"),
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, words in cases.items():
            bench.run(words, timeout_s=300)
            found[name].append(float((bench.notes / "rate").read_text()))
            bench.idle()
    return found


def runs(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Return seconds of `launcher runs` over 5,000 runs, 200 of whose jobs are in the queue."""
    hold = ("sbatch", "--parsable", "--hold", "--array=0-199", "--job-name=many", "--wrap=true")
    job = bench.run(hold).strip()
    store = Store(str(bench.path / "many"))
    for number in range(5000):
        _recorded(store, number, f"{job}_{number}" if number < 200 else "")
    calls = bench.note_calls("squeue")
    words = (*LAUNCHER[:3], "runs", "--runs-dir", store.path)
    found: dict[str, list[float]] = {"python -c pass": [], "launcher runs": []}
    for _ in range(rounds):
        calls.write_text("")
        before = time.perf_counter()
        listed = bench.run(words)
        found["launcher runs"].append(time.perf_counter() - before)
        assert listed.count("PENDING") == 200, listed[:2000]
        assert len(calls.read_text().splitlines()) == 1
        before = time.perf_counter()
        bench.run((sys.executable, "-c", "pass"))
        found["python -c pass"].append(time.perf_counter() - before)
        time.sleep(5.5)  # the floor between two questions
    bench.run(("scancel", job))
    return found


def _recorded(store: Store, number: int, job: str) -> None:
    run_id = f"261123-{number // 3600:02}{number // 60 % 60:02}{number % 60:02}-{number:05}"
    folder = store.create(run_id)
    record = RunRecord(
        id=run_id,
        name="train",
        created=1e9 + number,
        user="root",
        host="login",
        compute="slurm",
        dist="mpi",
        entry=("train.py",),
        nodes=1,
        procs_per_node=2,
        grace_s=10.0,
        time_s=None,
        git_dir="/repo/.git",
        prefix="",
        commit="0" * 40,
        secrets=(),
        overrides=("entry_script=train.py", "dist=mpi", "script_params.lr=0.1"),
    )
    Path(folder.file("run.json")).write_text(record.to_json())
    folder.event(RunState.SUBMITTING, host="login", pid=1, born="x", job_name="many")
    folder.event(RunState.PENDING, job_id=job or str(number))
    if not job:
        folder.event(RunState.SUCCEEDED, exit_status=0, metrics={"accuracy": 0.97})
        store.add_to_index(observe(folder))


CASES: dict[str, tuple[Callable[[Bench, int], dict[str, list[float]]], str]] = {
    "queued": (queued, "s"),
    "start": (start, "s"),
    "steps": (steps, "steps/s"),
    "runs": (runs, "s"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    measure, unit = CASES[options.case]
    # Run by each node's slurmd when a job comes, before anything of the job's.
    prolog = Path("/var/tmp") / f"launcher-bench-{os.getpid()}.sh"
    cluster = Cluster(settings={"Prolog": str(prolog), "PrologFlags": "Alloc"})
    with cluster:
        bench = Bench(cluster)
        prolog.write_text(f'#!/bin/bash\necho "$EPOCHREALTIME" >{bench.notes}/allocated\n')
        prolog.chmod(0o755)
        found = measure(bench, options.rounds)
    prolog.unlink(missing_ok=True)
    base = statistics.median(next(iter(found.values())))
    for name, values in found.items():
        median = statistics.median(values)
        print(f"{name:40}{median:10.3f} {unit:8}{median / base:8.2f}")
    print(json.dumps({name: statistics.median(values) for name, values in found.items()}))


if __name__ == "__main__":
    main()
