"""Real runs on this machine: options, and looks at what they left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher.processes import alive

if TYPE_CHECKING:
    from collections.abc import Callable

PLAIN = ("environment.torch=null",)
RANKS = (*PLAIN, "dist=mpi", "dist.horovod=false", "procs_per_node=2")
HOROVOD = ("dist=mpi", "procs_per_node=2", "environment.pip_packages=[scikit-learn]")


def events(run: Path) -> list[dict[str, Any]]:
    """Return a run's events in their order; what its submit writes may come after its start."""
    path = run / "events.jsonl"
    told = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    late = ("SUBMITTING", "PENDING")
    return sorted(told, key=lambda each: each["state"] not in late or "restart" in each)


def state(run: Path) -> str:
    return str(events(run)[-1]["state"])


def log(run: Path, rank: int = 0) -> str:
    return (run / "logs" / f"rank-{rank}.log").read_text()


def until(condition: Callable[[], Any], timeout_s: float = 180) -> Any:
    """Wait for a condition that other processes bring about; fail when it does not come.

    What is right but slow must not fail: a machine may be busy for a while.
    """
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not come true within {timeout_s} s")


def settled(run: Path) -> None:
    """Wait until a run's supervisor here has left: what it commits comes after its last event."""
    begun = [each for each in events(run) if each["state"] == "RUNNING"]
    until(lambda: not any(alive(each, "") for each in begun))


def processes_of(run_id: str) -> list[str]:
    """Return the command lines of processes that carry the run's id in their environment."""
    mark = f"LAUNCHER_RUN_ID={run_id}".encode()
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (each / "environ").read_bytes().split(b"\0"):
                words = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if words:  # a zombie has none
                    found.append(f"{each.name} {words}")
        except OSError:
            continue
    return found
