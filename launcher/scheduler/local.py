"""The supervisors of this machine, each a process, and the pools that start those of sweeps."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher import process
from launcher.errors import StateError, SubmitError
from launcher.job import RunState
from launcher.processes import alive, end, this_process
from launcher.scheduler import View
from launcher.store import RunFolder, last_lines
from launcher.sweep.store import Groups

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.environment.locate import Prefix
    from launcher.job import GroupPlan, JobSpec, LaunchPlan
    from launcher.process import Running
    from launcher.scheduler import Open
    from launcher.snapshot import Snapshot
    from launcher.store import Folder
    from launcher.sweep.store import GroupFolder

_HANDOVER_S = 10.0  # at most, from a run's claim to its supervisor's first word
_POLL_S = 0.02
_GONE = "the pool that was to start it is gone; the same command queues it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A supervisor, or a pool, that waits to be told to begin; it ends if we do."""

    folder: Folder
    process: Running
    log: str
    say: Callable[[str], None]

    def provide(self, source: Snapshot, job: JobSpec, prefix: Prefix) -> str:  # noqa: ARG002
        """Have the environment built on this machine; launch.sh gets the code."""
        from launcher.environment import build  # noqa: PLC0415 - to submit, not to list

        return build.lock_text(build.ensure(prefix, self.say))

    def go(self) -> None:
        """Tell it to begin; its first word makes the run its own, whatever we do then."""
        started, known = self.process, len(self.folder.events())
        assert started.stdin is not None  # noqa: S101 - for the type checker
        with contextlib.suppress(BrokenPipeError), started.stdin:
            started.stdin.write(b"!")
        while len(self.folder.events()) == known and started.poll() is None:
            time.sleep(0.002)
        if len(self.folder.events()) == known:
            raise SubmitError(
                f"{self._what()} ended at once: " + "\n".join(last_lines(self.log)),
                exit_status=started.returncode,
            )

    def report(self) -> None:
        """Say nothing: it has started."""

    def undo(self) -> bool:
        """Kill it, and wait."""
        with self.process:  # closes our end of its pipe
            self.process.kill()
        return True

    def _what(self) -> str:
        return "the supervisor" if isinstance(self.folder, RunFolder) else "the pool"


class Local:
    """This machine."""

    def begin(
        self,
        folder: RunFolder,
        plan: LaunchPlan,
        env: Mapping[str, str],
        say: Callable[[str], None],
    ) -> Started:
        """Return the start of the supervisor, which takes as long as the run's recording."""
        (argv,) = plan.commands
        os.makedirs(folder.file("logs"))
        return _start(folder, argv, folder.file("logs", "launch.log"), env, say)

    def queue(
        self,
        group: GroupFolder,
        plan: GroupPlan,
        env: Mapping[str, str],
        say: Callable[[str], None],
        lock: int,
    ) -> None:
        """Start the pool of a group, which has its runs when this returns; else SubmitError."""
        (argv,) = plan.commands
        group.event(RunState.SUBMITTING, **this_process())
        pool = _start(group, argv, group.file("pool.log"), env, say, holds=(lock,))
        try:
            pool.go()
        except BaseException:
            if not self.find(group):
                pool.undo()
            raise

    def find(self, group: GroupFolder) -> bool:
        """Return whether a pool has told that it has the group's runs; before, it starts none."""
        return any(each["state"] == RunState.PENDING.value for each in group.events())

    def look(self, runs: Sequence[Open]) -> dict[str, View]:
        """Return whether the process that keeps each run, or is to start it, is alive."""
        pools: dict[str, bool] = {}  # by group
        views = {}
        for run in runs:
            if RunState(run.last["state"]) is RunState.PENDING:
                views[run.folder.id] = _queued(run, pools)
            else:
                heartbeat = run.folder.file("heartbeat")
                views[run.folder.id] = View(holds=alive(run.last, heartbeat))
        return views

    def refresh(self, runs: Sequence[Open]) -> None:
        """Do nothing: what runs write lies in their folders."""

    def cancel_waiting(self, runs: Sequence[Open]) -> dict[str, str]:
        """Have those cancelled that no pool has started; nothing was run, so none is committed."""
        for run in runs:
            if RunState(run.last["state"]) is RunState.PENDING:
                _cancel(run, lambda *_: None)
        return {}

    def interrupt(self, run: Open, *, waits: bool) -> None:
        """Tell the run's supervisor to stop it, at once when told twice; one that waits just ends.

        ``waits``: a pool is to start it.
        """
        if waits and RunState(run.last["state"]) is RunState.PENDING:
            from launcher.record import record_outcome  # noqa: PLC0415 - seldom

            if _cancel(run, record_outcome):
                return
            run = _begun(run)
        last = run.last
        if run.given_up:
            begun = [each for each in run.events if each["state"] == RunState.RUNNING.value]
            last = begun[-1] if begun else last
        if RunState(last["state"]).final:
            return
        if RunState(last["state"]) is not RunState.RUNNING:
            raise StateError(
                f"run {run.folder.id}: its supervisor does not start", hint="Try again."
            )
        if last["host"] != os.uname().nodename:
            raise StateError(
                f"run {run.folder.id} runs on {last['host']}, not on this machine",
                hint=f"launcher cancel {run.folder.id}, on {last['host']}.",
            )
        if alive(last, run.folder.file("heartbeat")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(last["pid"], signal.SIGTERM)

    def end_left(self, run: Open) -> None:
        """End what the run has left on this machine."""
        if run.told("host") == os.uname().nodename:
            end(run.folder.id, run.record.grace_s)


def _start(
    folder: Folder,
    argv: tuple[str, ...],
    log: str,
    env: Mapping[str, str],
    say: Callable[[str], None],
    holds: Sequence[int] = (),
) -> Started:
    with open(log, "ab") as output:
        try:
            started = process.start(argv, log=output, env=env, waits=True, holds=holds)
        except OSError as error:
            raise SubmitError(
                f"{argv[0]} cannot be started: {error}", argv=argv, exit_status=127
            ) from error
    return Started(folder=folder, process=started, log=log, say=say)


def _queued(run: Open, pools: dict[str, bool]) -> View:
    """Return the view of a run that waits; ``pools``: which are alive, as far as is known."""
    name = str(run.told("group"))
    if name not in pools:
        group = Groups(os.path.dirname(run.folder.path)).folder(name)
        pools[name] = alive(run.last, group.file("heartbeat"))
    if pools[name]:
        return View(holds=True)
    from launcher.pool.claim import is_on_its_way  # noqa: PLC0415 - seldom

    if is_on_its_way(run.folder):
        return View(holds=True)
    return View(holds=False, reason=_GONE)


def _cancel(run: Open, commit: Callable[..., object]) -> bool:
    """Return whether a run that waits has ended so; False: it is being started."""
    from launcher import outcome  # noqa: PLC0415 - seldom
    from launcher.pool.claim import claim  # noqa: PLC0415

    try:
        claimed = claim(run.folder)
    except OSError as error:
        raise StateError(
            f"run {run.folder.id} cannot be cancelled: {error}",
            hint=f"It is {run.record.user}'s.",
        ) from error
    if claimed is None:
        return False
    outcome.cancelled(run.folder, run.record, commit)
    os.close(claimed)
    return True


def _begun(run: Open) -> Open:
    """Return a run that a pool has claimed, once its supervisor has had its first word."""
    from launcher.observe import read  # noqa: PLC0415 - it imports us

    end = time.monotonic() + _HANDOVER_S
    while RunState(run.last["state"]) is RunState.PENDING and time.monotonic() < end:
        time.sleep(_POLL_S)
        run = read(run.folder)
    return run
