"""What an agent can do for runs that wait on the first of their hosts: their pool's, until then.

Why whoever queues a group is asked twice whether it has: a submit may be killed at any moment, and
what it had asked for may still come through. So a pool claims its group before it begins, as it
does its runs; who asks later, and is the first to claim, knows that it never will.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from typing import TYPE_CHECKING, Any

from launcher import outcome, process
from launcher.errors import LaunchError
from launcher.hosts import POOL
from launcher.job import WRITTEN, RunState
from launcher.pool.claim import OVER, claim, is_claimed, is_on_its_way
from launcher.pool.claim import has_begun as launched
from launcher.processes import alive
from launcher.ssh.agent.objects import Objects
from launcher.store import RunFolder, last_lines, write_atomically
from launcher.sweep.store import SWEEPS, GroupFolder

if TYPE_CHECKING:
    from launcher.process import Running
    from launcher.ssh.agent.serve import Agent

_NAME = re.compile(rf"([\w-]+)/(\d+|{POOL})")
_POLL_S = 0.002
_HANDOVER_S = 10.0  # at most, from when a pool or a supervisor is told to begin to its first word


def extend(agent: Agent) -> None:
    """Have the agent carry out what is below."""
    queues = Queues(agent)
    agent.requests |= {
        each.__name__: each
        for each in (
            *(queues.lay, queues.pool, queues.go, queues.settle, queues.withdraw),
            queues.leased,
        )
    }


class Queues:
    """The host's side of groups. Each method carries out the request of its name."""

    def __init__(self, agent: Agent) -> None:
        """Begin with what the agent knows."""
        self.agent = agent
        self.waiting: dict[str, Running] = {}  # pools that have not been told to begin

    def lay(self, head: dict[str, Any], body: bytes) -> int:
        """Make the folders of runs, and their group's, with the files that the body holds.

        Those that are ``common`` are each run's; they are sent once.
        """
        with Objects(self.agent.workdir).in_use():
            common, at = _texts(head["common"], body, 0)
            for run_id, files in head["runs"].items():
                own, at = _texts(files, body, at)
                folder = self._run(run_id)
                if is_claimed(folder):
                    continue  # it was cancelled meanwhile
                for name in WRITTEN:
                    os.makedirs(folder.file(name), exist_ok=True)
                _write(folder.path, [*common, *own])
            if head["files"]:
                own, at = _texts(head["files"], body, at)
                _write(group(self.agent.workdir, head["group"]).path, own)
        return len(head["runs"])

    def pool(self, head: dict[str, Any], body: bytes) -> bool:
        """Start a group's pool, which connects to its hosts until it is told to go, or we end.

        The body holds the variables that it is to have beside ours.
        """
        folder = group(self.agent.workdir, head["group"])
        texts = body.decode("utf-8", "surrogateescape").split("\0")
        given = dict(each.split("=", 1) for each in texts if each)
        with open(folder.file("pool.log"), "ab") as log:
            started = process.start(head["argv"], log=log, env={**os.environ, **given}, waits=True)
        self.waiting[head["group"]] = started
        return True

    def go(self, head: dict[str, Any], _: bytes) -> bool:
        """Tell a group's pool to begin; return True once it has told that it has its runs."""
        folder = group(self.agent.workdir, head["group"])
        started = self.waiting.pop(head["group"])
        assert started.stdin is not None  # noqa: S101 - for the type checker
        with contextlib.suppress(BrokenPipeError), started.stdin:
            started.stdin.write(b"!")
        while not has_begun(folder) and started.poll() is None:
            time.sleep(_POLL_S)
        if not has_begun(folder):
            _check_room(folder)  # on a full disk it could not even say so
            said = "\n".join(last_lines(folder.file("pool.log")))
            raise LaunchError(f"the pool ended at once: {said or 'it left no word'}")
        return True

    def settle(self, head: dict[str, Any], _: bytes) -> bool:
        """Return whether a group's pool has begun; one that has not never will, and it is gone."""
        folder = group(self.agent.workdir, head["group"])
        claimed = None if has_begun(folder) else claim(folder)
        if claimed is None:
            while is_on_its_way(folder) and not has_begun(folder):
                time.sleep(_POLL_S)
        if has_begun(folder):
            return True
        for run_id in folder.runs():
            shutil.rmtree(self._run(run_id).path, ignore_errors=True)
        shutil.rmtree(folder.path, ignore_errors=True)
        if claimed is not None:
            os.close(claimed)
        return False

    def withdraw(self, head: dict[str, Any], _: bytes) -> list[str]:
        """Cancel those runs that nobody has started yet; return which."""
        done = []
        for run_id in head["runs"]:
            folder = self._run(run_id)
            claimed = claim(folder)
            if claimed is not None:
                outcome.cancelled(folder, folder.record(), lambda *_: None)
                os.close(claimed)
                done.append(run_id)
        return done

    def leased(self, head: dict[str, Any], _: bytes) -> dict[str, int]:
        """Return what runs have of this host, whoever's; ``slots``, ``gpus``: as configured."""
        from launcher.pool.place import Here, Host  # noqa: PLC0415 - seldom asked

        return Here((), Host(slots=head["slots"], gpus=head["gpus"])).leases.told()

    def _run(self, run_id: str) -> RunFolder:
        return RunFolder(os.path.join(self.agent.workdir, "runs", os.path.basename(run_id)))


def group(workdir: str, name: str) -> GroupFolder:
    """Return the folder of a group on this host: ``SWEEP/K``, or ``RUN/pool`` of one run only."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise LaunchError(f"{name!r} is no group")
    if found[2] == POOL:
        return GroupFolder(os.path.join(workdir, "runs", name))
    return GroupFolder(os.path.join(workdir, "runs", SWEEPS, found[1], "groups", found[2]))


def has_begun(folder: GroupFolder) -> bool:
    """Return whether a pool has told that it has the group's runs."""
    return any(each["state"] == RunState.PENDING.value for each in folder.events())


class Pools:
    """Which pools of this host live, each looked at once."""

    def __init__(self, workdir: str) -> None:
        """Look at none yet."""
        self._workdir = workdir
        self._live: dict[str, bool] = {}

    def has(self, folder: RunFolder, name: str) -> bool:
        """Return whether who is to start a run lives: its pool, or who has just claimed it."""
        if not name or launched(folder):
            return False
        if is_on_its_way(folder):
            return True
        if os.path.exists(folder.file(OVER)):
            return False
        if name not in self._live:
            of = group(self._workdir, name)
            told = [each for each in of.events() if each["state"] == RunState.PENDING.value]
            heartbeat, begins = of.file("heartbeat"), of.file("group.json")
            self._live[name] = alive(told[-1], heartbeat) if told else _is_young(begins)
        return self._live[name]


def _is_young(path: str) -> bool:
    """Return whether who is to begin was told so just now, and has not had its first word."""
    with contextlib.suppress(OSError):
        return time.time() - os.stat(path).st_mtime < _HANDOVER_S
    return False


def _check_room(folder: GroupFolder) -> None:
    """Raise OSError when nothing can be written there."""
    path = folder.file("room")
    try:
        with open(path, "wb") as file:
            file.write(bytes(1 << 16))
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _texts(
    files: list[tuple[str, int, int]], body: bytes, at: int
) -> tuple[list[tuple[str, int, str]], int]:
    """Return path, mode and text of files that lie one after another, and where the last ends."""
    found = []
    for path, mode, size in files:
        found.append((path, mode, body[at : at + size].decode("utf-8", "surrogateescape")))
        at += size
    return found, at


def _write(top: str, files: list[tuple[str, int, str]]) -> None:
    for path, mode, text in files:
        target = os.path.normpath(os.path.join(top, path))
        if not target.startswith(f"{top}/"):
            raise LaunchError(f"{path}: not in the folder that it is for")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        write_atomically(target, text, mode)
