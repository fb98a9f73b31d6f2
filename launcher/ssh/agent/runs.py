"""What an agent can do once the launcher's own code is on its host: runs, from start to end.

Nothing here knows git: code came as a tree, and what ended is recorded where it was submitted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from launcher import process
from launcher.errors import LaunchError
from launcher.processes import alive, end, marked
from launcher.ssh.agent import environments, groups, results, shelf
from launcher.store import RunFolder, write_atomically

if TYPE_CHECKING:
    from launcher.ssh.agent.serve import Agent

_MOST = 4 << 20  # bytes of a run that one answer brings
_CONCLUDES_S = 20.0  # for a supervisor, once ranks have had their time
_POLL_S = 0.1
_RSH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "rsh.py")
_PIECE = tuple[str, int, int, int]  # path, offset, size, time of change in ns


def extend(agent: Agent, root: str) -> None:
    """Have the agent carry out what is below. ``root``: the folder of the launcher's own code."""
    os.environ["LAUNCHER_CACHE"] = os.path.join(agent.workdir, "cache")
    runs = Runs(agent, root)
    agent.requests |= {
        each.__name__: each
        for each in (
            *(runs.pull, runs.is_left_alone, runs.interrupt, runs.stop),
            *(runs.end, runs.remove, runs.reach, runs.reached),
        )
    }
    environments.extend(agent)
    groups.extend(agent)
    results.extend(agent)
    shelf.extend(agent)


class Runs:
    """A host's side of runs. Each method carries out the request of its name."""

    def __init__(self, agent: Agent, root: str) -> None:
        """Begin with what the agent knows."""
        self.agent, self.root = agent, root
        self.trying: list[threading.Thread] = []
        self.tried: list[tuple[str, int]] = []  # by ssh, from here to other hosts
        name = f"ssh_config.{os.getpid()}.{os.uname().nodename}"
        self.config = os.path.join(agent.workdir, name)

    def _folder(self, run_id: str) -> RunFolder:
        return RunFolder(os.path.join(self.agent.workdir, "runs", os.path.basename(run_id)))

    def pull(self, head: dict[str, Any], _: bytes) -> tuple[dict[str, Any], bytes]:
        """Return what runs have written beyond what the other end has, and how they are.

        Of a run, events come last, and no later than all that was written before them.
        """
        told: dict[str, dict[str, Any]] = {}
        body, left = b"", _MOST
        pools = groups.Pools(self.agent.workdir)
        for asked in head["runs"]:
            folder = self._folder(asked["run"])
            # First of all: of who has gone by now, the last event is there.
            coming = pools.has(folder, asked["group"])
            state = self._state(folder)
            seen = _size(folder.file("events.jsonl"))
            pieces: list[_PIECE] = []
            for path, size, changed in (*_written(folder), ("events.jsonl", seen, 0)):
                have, stamp = asked["have"].get(path, (0, 0))
                growing = not path.startswith("ranks/")
                if not growing and not asked["ranks"]:
                    continue
                offset = have if growing else 0
                if (size <= have if growing else (size, changed) == (have, stamp)) or left <= 0:
                    continue
                data = _read(folder.file(path), offset, min(size - offset, left))
                pieces.append((path, offset, len(data), changed))
                body += data
                left -= len(data)
            told[asked["run"]] = {"pieces": pieces, "coming": coming, **state}
        return {"runs": told, "more": left <= 0}, body

    def _state(self, folder: RunFolder) -> dict[str, bool]:
        return {
            "claimed": os.path.exists(folder.file("job")),
            "alive": _supervisor(folder) is not None,
            "restarted": _has_restarted(folder),
        }

    def interrupt(self, head: dict[str, Any], _: bytes) -> bool:
        """Tell the run's supervisor to stop it; return whether there is one."""
        pid = _supervisor(self._folder(head["run"]))
        if pid is not None:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGTERM)
        return pid is not None

    def stop(self, head: dict[str, Any], body: bytes) -> bool:
        """Have the run's supervisor, if it lives, end the run; return once it is gone, or late."""
        folder = self._folder(head["run"])
        late = time.monotonic() + head["grace_s"] + _CONCLUDES_S
        if self.interrupt(head, body):
            while _supervisor(folder) is not None and time.monotonic() < late:
                time.sleep(_POLL_S)
        return True

    def is_left_alone(self, head: dict[str, Any], _: bytes) -> bool:
        """Return whether the run's ranks here have lost their supervisor's host, and ended."""
        ranks = self._folder(head["run"]).ranks()
        return any(each.get("alone") for each in ranks) and not marked(head["run"])

    def end(self, head: dict[str, Any], _: bytes) -> bool:
        """End what is left of a run here, the ranks after their grace; return True.

        LaunchError: the kernel does not let some go, which wait for a disk or a device.
        """
        if left := end(head["run"], head["grace_s"]):
            raise LaunchError(f"processes that SIGKILL does not end: {left}")
        return True

    def remove(self, head: dict[str, Any], _: bytes) -> bool:
        """Remove a run that has not begun; return whether that is so."""
        folder = self._folder(head["run"])
        if not os.path.isdir(folder.path):
            return True
        try:
            open(folder.file("job"), "x").close()  # a supervisor that comes late finds it taken
        except FileExistsError:
            return False
        shutil.rmtree(folder.path, ignore_errors=True)
        return True

    def reach(self, head: dict[str, Any], body: bytes) -> bool:
        """Begin to try whether mpirun's ssh gets from here to addresses; ``reached`` tells."""
        write_atomically(self.config, body.decode("utf-8", "surrogateescape"), 0o600)
        self.tried = [("", 0)] * len(head["addresses"])

        def try_one(index: int) -> None:
            argv = (sys.executable, "-I", "-S", _RSH, self.config, head["addresses"][index], "true")
            done = process.run(argv, timeout_s=60)
            self.tried[index] = done.stderr, done.status

        count = range(len(self.tried))
        self.trying = [threading.Thread(target=try_one, args=(each,)) for each in count]
        for each in self.trying:
            each.start()
        return True

    def reached(self, _: dict[str, Any], __: bytes) -> list[tuple[str, int]]:
        """Return for each address what ssh said, and its exit status."""
        for each in self.trying:
            each.join()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.config)
        return self.tried


def _supervisor(folder: RunFolder) -> int | None:
    """Return the process of the run's supervisor; None when there is none any more."""
    for event in reversed(folder.events()):
        if event["state"] == "RUNNING" and "born" in event:
            return int(event["pid"]) if alive(event, "") else None
    return None


def _has_restarted(folder: RunFolder) -> bool:
    """Return whether this host has started again since the run's supervisor did."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read(8)
    born = [str(each.get("born")) for each in folder.events() if each["state"] == "RUNNING"]
    return bool(born) and not born[-1].startswith(boot)


def _written(folder: RunFolder) -> list[tuple[str, int, int]]:
    """Return path, size and time of change of what a run writes while it runs, events apart."""
    found = []
    for name in ("metrics.jsonl", "logs", "ranks"):
        with contextlib.suppress(OSError):
            inside = os.listdir(folder.file(name)) if name != "metrics.jsonl" else [""]
            for each in inside:
                path = os.path.join(name, each).rstrip("/")
                about = os.stat(folder.file(path))
                if not path.endswith(".new"):
                    found.append((path, about.st_size, about.st_mtime_ns))
    return found


def _size(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(path).st_size
    return 0


def _read(path: str, offset: int, most: int) -> bytes:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return os.pread(file.fileno(), most, offset)
    return b""
