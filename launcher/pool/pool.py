"""One a group of runs: starts them in order, as many at once as there is room for on its machines.

Standard library only, in a session of its own, as the supervisors are that it starts: each has
its own cores, and goes on when the pool is killed. What waits then is lost, and is seen to be.

Why a run of several machines collects them in one order, the same for all pools, and asks only for
what comes after the ones that it has: two that each had what the other waits for would wait for
ever. Why it asks all of those at once: whichever is free first will do. Runs start in their order,
but for those of one machine, which have machines that the first does not ask for yet.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.job import RunState
from launcher.pool.claim import OVER, claim, failed, is_claimed, unclaim
from launcher.pool.place import Here, Host, LostError, Need, wakes, woken
from launcher.processes import HEARTBEAT_S, START, this_process
from launcher.store import RunFolder
from launcher.sweep.store import GroupFolder

if TYPE_CHECKING:
    from launcher.pool.place import Place

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A run that waits, and what it needs of each of its machines."""

    folder: RunFolder
    nodes: int
    need: Need
    max_parallel: int | None  # it starts while fewer runs of this pool run; None: no limit


class Pool:
    """Starts the runs of one group."""

    def __init__(self, group: GroupFolder, supervisor: tuple[str, ...]) -> None:
        """Read what is to be started, by the words ``supervisor`` and the run's folder."""
        self.group = group
        with open(group.file("group.json"), encoding="utf-8") as file:
            values = json.load(file)
        self.waiting = deque(_tasks(group, values))
        self.tasks = {task.folder.path: task for task in self.waiting}
        self.tells = "hosts" in values  # where runs are
        self.secrets = {name: os.environ[name] for name in values.get("secrets", ())}
        self.ranks = _places(group, values, supervisor)  # as the configuration has them
        self.places = sorted(self.ranks, key=lambda place: place.order)  # as all pools do
        self.collected: list[Place] = []  # for the first run that waits
        self.spare: list[Place] = []  # that it does not ask for yet
        self.running: dict[str, Place] = {}  # by folder
        self.beaten = 0.0  # when we last gave a sign of life

    def run(self) -> None:
        """Start all runs, and wait for those that we started."""
        bell = wakes()
        if self.tells:
            self._use_what_is_needed()
        while self.waiting or any(not place.silent for place in self.running.values()):
            self.beat()
            if self._look_after() or self._go_on():
                if not self.waiting:
                    self._keep_only({*self.running.values()})
                continue
            self._pause(bell)
            woken(bell)
        self.close()

    def _use_what_is_needed(self) -> None:
        """Have on all machines what our runs, and we, need: paths are alike on each."""
        from launcher.ssh.agent.needs import needs  # noqa: PLC0415 - of this machine it is nothing

        workdir = os.path.dirname(self.group.store())
        signs = {sign for task in self.waiting for sign in needs(task.folder.path)}
        paths = [_ROOT, *(os.path.join(workdir, each) for each in sorted(signs))]
        for place in self.places:
            place.use(paths)

    def close(self) -> None:
        """Let go of all machines; what runs there goes on."""
        self._keep_only(set())

    def _keep_only(self, used: set[Place]) -> None:
        """Let go of machines on which we wait for nothing: a run may take days."""
        for place in self.places:
            if place not in used:
                place.close()
        self.places = [place for place in self.places if place in used]

    def told(self) -> bool:
        """Return whether a byte comes on standard input before its end; connect meanwhile."""
        while True:
            for place in self.places:
                place.ended()
            if 0 in self._pause(0):
                return bool(os.read(0, 1))

    def _pause(self, other: int) -> list[int]:
        """Wait until there is something to do; return the files that can be read."""
        files = [file for place in self.places for file in place.files()]
        pause = min(HEARTBEAT_S, *(place.patience for place in self.places))
        return select.select([other, *files], [], [], pause)[0]

    def beat(self) -> None:
        """Show other machines that we live."""
        if time.monotonic() >= self.beaten + HEARTBEAT_S:
            self.beaten = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk must not end the sweep
                open(self.group.file("heartbeat"), "ab").close()
                os.utime(self.group.file("heartbeat"))

    def _look_after(self) -> bool:
        """Return whether a run has ended, or waits again."""
        ended = [path for place in self.places for path in place.ended()]
        missed = [path for place in self.places for path in place.missed()]
        for path in missed:
            self._wait_again(path)
        for path in ended:
            if not isinstance(self.running.pop(path, None), Here):
                with contextlib.suppress(OSError):  # who asks here sees no events of there
                    open(os.path.join(path, OVER), "ab").close()
        return bool(ended or missed)

    def _wait_again(self, path: str) -> None:
        """Have a run be the first that waits, on whatever machine: its start was lost."""
        self.running.pop(path, None)
        task = self.tasks[path]
        self.waiting.appendleft(task)
        self._drop()
        self.places = sorted(self.ranks, key=lambda place: place.order)  # of some we had let go
        with contextlib.suppress(OSError):  # a full disk: where it was to start is told till then
            task.folder.event(RunState.PENDING, hosts=[])
        unclaim(task.folder)

    def _may_start(self, task: Task) -> bool:
        """Return whether fewer runs of ours run than may."""
        running = sum(not place.silent for place in self.running.values())
        return task.max_parallel is None or running < task.max_parallel

    def _go_on(self) -> bool:
        """Return whether the first run that waits does so no longer."""
        task = self.waiting[0] if self.waiting else None
        if task and is_claimed(task.folder):
            self.waiting.popleft()  # it was cancelled
            return True
        if task is None or not self._may_start(task):
            self._drop()
            return False
        if self._collect(task):
            on, self.collected = self.collected, []
        elif not (found := self._other()):
            return False
        else:
            task, on = found
        try:
            self._start(task, on)
        except OSError:  # a full disk, a lost connection: it may be better later
            self._drop()
            return False
        self.waiting.remove(task)
        return True

    def _other(self) -> tuple[Task, list[Place]] | None:
        """Return a run of one machine, and a machine that the first run does not ask for yet."""
        task = next((each for each in self.waiting if each.nodes == 1), None)
        for place in self.spare:
            if task is None:
                place.drop()
                continue
            place.ask(task.need)
            if place.has():
                return task, [place]
        return None

    def _collect(self, task: Task) -> bool:
        """Return whether we have as many machines as a run needs, each with what it needs there."""
        if not all(place.has() for place in self.collected):  # one was lost
            self._drop()
        places = [place for place in self.places if place.up or place in self.collected]
        while more := task.nodes - len(self.collected):
            first = places.index(self.collected[-1]) + 1 if self.collected else 0
            asked = places[first : max(0, len(places) - more + 1)]
            self.spare = [each for each in places if each not in (*asked, *self.collected)]
            for place in asked:
                place.ask(task.need)
            ready = [place for place in asked if place.has()]
            if not ready:
                return False
            # The last one may be any: the list says which is liked best.
            best = min(ready, key=self.ranks.index) if more == 1 else ready[0]
            self.collected.append(best)
        return True

    def _start(self, task: Task, on: list[Place]) -> None:
        """Start a run, unless it was cancelled, on machines that we have; OSError: later."""
        first, *others = on = sorted(on, key=self.ranks.index)
        start = f"start.{os.urandom(8).hex()}"
        refused = self._tie(task.folder, start, first, others) if others else ""
        claimed = claim(task.folder)
        if claimed is None:
            self._drop()
            return
        try:
            if refused:
                failed(task.folder, 1, refused)
                self._drop()
                return
            env = {**self.secrets, START: start}
            if self.tells:
                task.folder.event(RunState.PENDING, hosts=[place.name for place in on])
                env["LAUNCHER_HOSTS"] = ",".join(place.address for place in on)
            first.start(task.folder, env, claimed)
            self.running[task.folder.path] = first
        except OSError:
            unclaim(task.folder)
            raise
        finally:
            os.close(claimed)

    def _tie(self, folder: RunFolder, start: str, first: Place, others: list[Place]) -> str:
        """Have the other machines kept until the run on the first has ended; return why not."""
        port = first.line()
        try:
            for place in others:
                place.keep(folder, first.address, port, start)
        except LostError:
            raise
        except OSError as error:
            return f"a machine of this run does not reach the first, {first.name}: {error}"
        return ""

    def _drop(self) -> None:
        self.collected = []
        for place in self.places:
            place.drop()


def _tasks(group: GroupFolder, values: dict[str, Any]) -> list[Task]:
    """Return the runs of a group and what each needs, in the order in which they start."""
    store = group.store()
    return [
        Task(
            folder=RunFolder(os.path.join(store, run_id)),
            nodes=need.get("nodes", 1),
            need=Need(slots=need.get("slots", 1), cores=need["cores"], gpus=need["gpus"]),
            max_parallel=need["max_parallel"],
        )
        for run_id, need in zip(values["runs"], values["needs"], strict=True)
    ]


def _places(group: GroupFolder, values: dict[str, Any], supervisor: tuple[str, ...]) -> list[Place]:
    """Return the machines of a group in their order; this one where none is named."""
    if "hosts" not in values:
        return [Here(supervisor, Host())]
    from launcher.pool.elsewhere import Elsewhere  # noqa: PLC0415 - of this machine it is none

    found: list[Place] = []
    for host in (Host(**each) for each in values["hosts"]):
        if host.here:
            found.append(Here(supervisor, host))
        else:
            found.append(Elsewhere(host, tuple(values["ssh"]), supervisor, group.file("ssh.log")))
    return found


def main() -> int:
    """Start the runs of the group whose folder is the first argument; the others are a supervisor.

    We begin when a byte comes on standard input, and end when that ends without one: a submit that
    dies starts nothing. Files that we inherit are held until the group's events tell of us.
    """
    pool = Pool(GroupFolder(sys.argv[1]), tuple(sys.argv[2:]))
    if not pool.told():
        pool.close()
        return 0
    if claim(pool.group) is None:
        pool.close()
        return 1  # it was given up: who did that queues its runs anew
    pool.beat()
    pool.group.event(RunState.PENDING, **this_process())
    for file in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # it was the listing's own
            if file > 2 and os.get_inheritable(file):
                os.close(file)
    pool.run()
    return 0
