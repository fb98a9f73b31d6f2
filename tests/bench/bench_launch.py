"""From enter to the script: against python, an empty Hydra application, horovodrun and mpirun.

    python tests/bench/bench_launch.py             # one process: first line, end, peak memory
    python tests/bench/bench_launch.py --horovod   # two ranks: first allreduce

Medians of interleaved rounds on one machine: believe the ratios, not the seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELLO = "import time\nprint('FIRST', time.time(), flush=True)\n"
HYDRA = (
    "import hydra\n"
    "@hydra.main(version_base=None, config_path=None)\n"
    "def main(cfg):\n    import time; print('FIRST', time.time(), flush=True)\n"
    "main()\n"
)
ALLREDUCE = (
    "import time, torch, horovod.torch as hvd\n"
    "hvd.init()\nhvd.allreduce(torch.ones(1))\n"
    "if hvd.rank() == 0: print('FIRST', time.time(), flush=True)\n"
)
HOROVOD = ("dist=mpi", "procs_per_node=2", "environment.pip_packages=[scikit-learn]")
TUNED = {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,sm"}


def once(words: list[str], env: dict[str, str]) -> tuple[float, float, float]:
    """Return seconds to the first line, seconds to the end, and peak memory in MB."""
    before = time.time()
    running = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env}
    )
    assert running.stdout is not None
    out = running.stdout.read().decode()
    _, status, usage = os.wait4(running.pid, 0)
    after = time.time()
    if status or "FIRST" not in out:
        raise SystemExit(f"{words}: {out}\n{running.stderr.read().decode()}")  # type: ignore[union-attr]
    first = float(out.split("FIRST")[1].split()[0])
    return first - before, after - before, usage.ru_maxrss / 1024


def single_cases() -> dict[str, tuple[list[str], dict[str, str]]]:
    Path("train.py").write_text(HELLO)
    Path("app.py").write_text(HYDRA)
    launcher = [sys.executable, "-m", "launcher", "entry_script=train.py", "environment.torch=null"]
    return {
        "empty Hydra app": ([sys.executable, "app.py"], {}),
        "python": ([sys.executable, "train.py"], {}),
        "launcher": (launcher, {}),
    }


def horovod_cases() -> dict[str, tuple[list[str], dict[str, str]]]:
    Path("train.py").write_text(ALLREDUCE)
    build = [sys.executable, "-m", "launcher", "env", "build", *HOROVOD]
    python = Path(
        subprocess.run(build, check=True, capture_output=True, text=True).stdout.split()[-1]
    )
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    env = {**root, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    script = [str(python), "train.py"]
    mpirun = [str(python.parent / "mpirun"), "-np", "2", "--bind-to", "none"]
    mpirun += ["--map-by", ":OVERSUBSCRIBE", *script]
    launcher = [sys.executable, "-m", "launcher", "entry_script=train.py", *HOROVOD]
    return {
        "horovodrun --gloo": (
            [str(python.parent / "horovodrun"), "--gloo", "-np", "2", *script],
            env,
        ),
        "mpirun -np 2": (mpirun, env),
        "mpirun -np 2, tuned": (mpirun, {**env, **TUNED}),
        "launcher": (launcher, {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--horovod", action="store_true")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        subprocess.run(["git", "init", "-q"], check=True)
        Path(".gitignore").write_text("outputs/\n")  # what Hydra writes is no source
        cases = horovod_cases() if options.horovod else single_cases()
        for words, env in cases.values():
            once(words, env)  # warm
        rounds: dict[str, list[tuple[float, float, float]]] = {name: [] for name in cases}
        for _ in range(options.rounds):
            for name, (words, env) in cases.items():
                rounds[name].append(once(words, env))
        os.chdir("/")
    base = next(iter(cases))
    medians = {
        name: [statistics.median(column) for column in zip(*each, strict=True)]
        for name, each in rounds.items()
    }
    print(f"{'':22}{'first line':>12}{'ratio':>8}{'end':>10}{'peak MB':>10}")
    for name, (first, end, peak) in medians.items():
        ratio = first / medians[base][0]
        print(f"{name:22}{first:>10.3f} s{ratio:>8.2f}{end:>8.3f} s{peak:>10.0f}")
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
