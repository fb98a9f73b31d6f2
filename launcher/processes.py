"""Processes as a run's events name them: known on this machine and after it has started again.

Why by start time too: ids of processes are used again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

START = "LAUNCHER_START"  # the word of one start of a run by a pool
HEARTBEAT_S = 5.0
# On another machine only the heartbeat tells; shared file systems may show it late.
_SILENT_S = 90.0
_POLL_S = 0.1
_KILLED_S = 10.0  # for which processes may outlive a SIGKILL
_LOOKS = 3  # that find nothing: what was just being started takes a moment to carry the mark


def this_process() -> dict[str, Any]:
    """Return what identifies this process, on this machine and after it."""
    return {"host": os.uname().nodename, "pid": os.getpid(), "born": _born(os.getpid())}


def beside(path: str) -> str:
    """Return what to call ``path`` until it is whole: no other process, of no machine, does."""
    return f"{path}.{os.uname().nodename}.{os.getpid()}.new"


def _born(pid: int) -> str | None:
    """Return when ``pid`` started, in this boot's ticks; None when it is gone or a zombie."""
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read(8).decode()
        if fields[0] not in (b"Z", b"X"):
            return f"{boot}-{int(fields[19])}"
    return None


def alive(process: dict[str, Any], heartbeat: str) -> bool:
    """Return whether ``process`` lives; by the age of the file ``heartbeat`` on another host."""
    if process.get("host") == os.uname().nodename:
        return _born(int(process["pid"])) == process.get("born")
    return beats(heartbeat)


def beats(heartbeat: str) -> bool:
    """Return whether a supervisor, wherever it is, wrote ``heartbeat`` not long ago."""
    with contextlib.suppress(OSError):
        return time.time() - os.stat(heartbeat).st_mtime < _SILENT_S
    return False


def next_signal(numbers: Sequence[int], patience_s: float) -> int:
    """Return which of these signals came within ``patience_s``; 0: none did.

    They are blocked, and so is SIGALRM, which is used for the time. Why not sigtimedwait: where we
    were stopped until after its end, as a job is that Slurm suspends, Python makes up a signal.
    Source: signalmodule.c, 3.10 to 3.13
    """
    signal.setitimer(signal.ITIMER_REAL, max(patience_s, 0.001))  # 0 would be none at all
    number = signal.sigwaitinfo((*numbers, signal.SIGALRM)).si_signo
    signal.setitimer(signal.ITIMER_REAL, 0.0)
    return 0 if number == signal.SIGALRM else number


def marked(run_id: str, start: str = "") -> list[int]:
    """Return the processes of a run, of ours, on this machine: by their environment.

    ``start``: the name of the one of the run's starts that is meant; "": all.
    """
    mark, found = {f"LAUNCHER_RUN_ID={run_id}".encode()}, []
    mark |= {f"{START}={start}".encode()} if start else set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if mark.issubset(file.read().split(b"\0")):
                found.append(int(name))
    return found


def end(run_id: str, grace_s: float, start: str = "") -> list[int]:
    """Return what outlives SIGKILL of a run's processes here, each of which is sent SIGTERM first.

    They have ``grace_s`` between the two. What the kernel does not let go waits for a disk or a
    device.
    """
    told: set[int] = set()
    kill_at, quiet = time.monotonic() + grace_s, 0
    while quiet < _LOOKS and time.monotonic() < kill_at + _KILLED_S:
        left = set(marked(run_id, start))
        late = time.monotonic() >= kill_at
        for pid in left if late else left - told:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        told |= left
        quiet = 0 if left else quiet + 1
        time.sleep(_POLL_S)
    return marked(run_id, start)
