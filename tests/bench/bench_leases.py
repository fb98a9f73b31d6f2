"""Forty runs onto two hosts of four slots: how much of the slots' time is idle while runs wait.

    python -m tests.bench.bench_leases             # runs of 0.5, 2 and 10 s
    python -m tests.bench.bench_leases 1           # only of so many seconds
    python -m tests.bench.bench_leases sweep 2     # a sweep of the launcher's: scripts of 2 s

A real pool on a real ssh host, hold on the other by ssh, supervisors that do nothing for so long:
what is measured is ours alone. `busy` is the time from a supervisor's first line to its last, so
the start of its Python counts as idle, as it does for a user; `bare` is that start measured by
itself, as many at once as there are slots. Idle counts from the first run's start to the last's.
With `sweep`, runs are those of a user's line: supervisor, launch.sh, the code's checkout and the
rank's Python count as idle, only the script itself as busy.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time

from tests.cluster.ssh_hosts import SshHosts
from tests.real.pools import overlaps, prepare, queue

RUNS, SLOTS = 40, 4


def idle(hosts: SshHosts, seconds: float, *, mixed: bool) -> tuple[float, float]:
    """Return the share of the slots' time that was idle, and the seconds until all had ended.

    ``mixed``: every fifth run has a slot of each host.
    """
    on = [hosts.hosta, hosts.hostb]
    nodes = [1 + (mixed and n % 5 == 0) for n in range(RUNS)]
    runs = queue(hosts, on, [str(seconds)] * RUNS, slots=SLOTS, nodes=nodes)
    begun = time.time()
    runs.start()
    told = runs.wait(timeout_s=60 + RUNS * seconds)
    if overlaps(told):
        raise SystemExit(f"overbooked: {overlaps(told)}")
    first, last = (pick(each["begun"] for each in told) for pick in (min, max))
    busy = sum(
        (min(last, each["ended"]) - each["begun"]) * len(each["hosts"].split(",")) for each in told
    )
    return 1 - busy / (len(on) * SLOTS * (last - first)), max(e["ended"] for e in told) - begun


def sweep(hosts: SshHosts, seconds: float) -> tuple[float, float]:
    """Return what ``idle`` does of a sweep of the launcher's own."""
    path = hosts.project("bench", user="root")
    script = (
        "import sys, time\nbegun = time.time()\ntime.sleep(float(sys.argv[2]))\n"
        "print(begun, time.time())\n"
    )
    (path / "train.py").write_text(script)
    on = f"[{{host: hosta, slots: {SLOTS}}}, {{host: hostb, slots: {SLOTS}}}]"
    words = ("-m", "compute=ssh", f"compute.hosts={on}", f"compute.ssh_config={hosts.config}")
    words += ("entry_script=train.py", "environment.torch=null", f"script_params.s={seconds}")
    launcher = (sys.executable, "-m", "launcher")
    argv = (*launcher, *words, f"script_params.n=range({RUNS})")
    begun = time.time()
    done = subprocess.run(argv, cwd=path, check=True, capture_output=True, text=True)
    name = done.stdout.strip()
    subprocess.run((*launcher, "wait", name), cwd=path, check=True, capture_output=True)
    logs = (path / "runs").glob(f"{name}-*/logs/rank-0.log")
    told = [tuple(map(float, log.read_text().split())) for log in logs]
    first, last = (pick(each[0] for each in told) for pick in (min, max))
    busy = sum(min(last, ended) - start for start, ended in told)
    return 1 - busy / (2 * SLOTS * (last - first)), max(each[1] for each in told) - begun


def bare(hosts: SshHosts) -> float:
    """Return the seconds that as many starts of Python take as there are slots, at once."""
    each = "python3 -I -S -c 'import json, os, time' &"
    begun = time.perf_counter()
    hosts.ssh("hosta", f"{each * 2 * SLOTS} wait")
    both = time.perf_counter() - begun
    begun = time.perf_counter()
    hosts.ssh("hosta", "true")
    return both - (time.perf_counter() - begun)


def main() -> None:
    words = sys.argv[1:]
    product = words[:1] == ["sweep"]
    lengths = [float(each) for each in words[product:]] or [0.5, 2.0, 10.0]
    with SshHosts() as hosts:
        if product:
            for length in lengths:
                share, took = sweep(hosts, length)
                print(
                    f"{RUNS} runs of {length} s: idle {share:.1%}, all in {took:.1f} s", flush=True
                )
            return
        prepare(hosts)
        starts = statistics.median(bare(hosts) for _ in range(5))
        print(f"{RUNS} runs, 2 hosts x {SLOTS} slots; bare {starts:.2f} s")
        print(f"{'a run':>8} {'hosts':>6} {'idle':>6} {'all':>8} {'at best':>8}")
        for length, mixed in itertools.product(lengths, (False, True)):
            share, took = idle(hosts, length, mixed=mixed)
            best = length * RUNS * (1.2 if mixed else 1) / (2 * SLOTS)
            which = "1 or 2" if mixed else "1"
            row = f"{length:>7.1f}s {which:>6} {share:>6.1%} {took:>7.1f}s {best:>7.1f}s"
            print(row, flush=True)


if __name__ == "__main__":
    main()
