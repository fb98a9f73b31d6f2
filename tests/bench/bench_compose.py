"""The configurations of a sweep's points: what one takes, of Hydra and of ours.

    python tests/bench/bench_compose.py                # 100, 1,000 and 10,000 points
    python tests/bench/bench_compose.py 100 --repeat 5

`hydra.compose` and `multirun` are given 20 points, their time is linear: multirun is Hydra's own,
of a function that does nothing, less what it takes to start; it composes each point twice. Each
sweep of ours is a process of its own, the median of several: its points, and all their
configurations, held at once as a submit holds them; `MiB` is what that adds to the imports.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from launcher import app, config
from launcher.sweep.compose import Composer
from launcher.sweep.points import expand, first

FEW = 20
KINDS = {  # overrides that make so many points
    "grid": lambda n: (
        "environment=cpu,gpu",
        f"script_params.lr=range({n // 10})",
        "nodes=range(1,6)",
    ),
    "one key": lambda n: (f"script_params.seed=range({n})",),
    "lists": lambda n: ("script_params.b=[1],[1,2]", f"script_params.seed=range({n // 2})"),
    "samples": lambda n: (
        *("script_params.lr=tag(log,interval(1e-5,1))", "script_params.x=interval(0,1)"),
        f"sweep.samples={n}",
    ),
}
OF_HYDRA = """
import hydra
@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg):
    pass
main()
"""


def memory(of: str) -> float:
    """Return this process's memory in MiB: ``VmRSS``, now, or ``VmHWM``, at its most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(of)) / 1024


def ours(overrides: tuple[str, ...], count: int) -> dict[str, float]:
    """Return seconds and MiB of a sweep in this process."""
    request = app.Request(overrides=("entry_script=train.py", *overrides))
    begun, before = time.perf_counter(), memory("VmRSS")
    composer = Composer(request)
    points = expand(request, composer.settings(first(request)))
    expanded = time.perf_counter()
    held = [composer.values(point.overrides) for point in points]
    ended = time.perf_counter()
    if len(held) != count:
        raise SystemExit(f"{len(held)} of {count} points")
    return {"points": expanded - begun, "all": ended - begun, "MiB": memory("VmHWM") - before}


def of_hydra() -> float:
    """Return the seconds that hydra.compose takes for a point."""
    words = ("entry_script=train.py", "environment=gpu", "script_params.lr=0.1", "nodes=2")
    config.plain(app.compose(app.Request(overrides=words)))
    begun = time.perf_counter()
    for _ in range(FEW):
        config.plain(app.compose(app.Request(overrides=words)))
    return (time.perf_counter() - begun) / FEW


def of_multirun() -> float:
    """Return the seconds that Hydra's own multirun takes for a point."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "conf").mkdir()
        Path(folder, "conf", "config.yaml").write_text("lr: 1\nnodes: 1\n")
        Path(folder, "main.py").write_text(OF_HYDRA)
        took = []
        for count in (1, FEW + 1):
            begun = time.perf_counter()
            words = [sys.executable, "main.py", "-m", f"lr=range({count})"]
            subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            took.append(time.perf_counter() - begun)
    return (took[1] - took[0]) / FEW


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counts", type=int, nargs="*", default=[100, 1000, 10_000])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--kind", choices=KINDS, help="in this process: its numbers as JSON")
    options = parser.parse_args()
    if options.kind:
        (count,) = options.counts
        print(json.dumps(ours(KINDS[options.kind](count), count)))
        return
    print(f"hydra.compose {of_hydra() * 1000:7.1f} ms a point")
    print(f"multirun      {of_multirun() * 1000:7.1f} ms a point")
    print(f"{'ours':<9}{'points':>8}{'to points':>11}{'in all':>10}{'a point':>12}{'MiB':>6}")
    for kind in KINDS:
        for count in options.counts:
            words = [sys.executable, __file__, str(count), "--kind", kind]
            told = [
                json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
                for _ in range(options.repeat)
            ]
            mid = {name: statistics.median(each[name] for each in told) for name in told[0]}
            row = f"{kind:<9}{count:>8}{mid['points']:>9.2f} s{mid['all']:>8.2f} s"
            print(f"{row}{mid['all'] / count * 1000:>9.3f} ms{mid['MiB']:>6.0f}", flush=True)


if __name__ == "__main__":
    main()
