"""Supervisors on hosts that are reached by ssh, each the first of its run's hosts."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher import outcome
from launcher.errors import StateError, SubmitError
from launcher.hosts import POOL
from launcher.job import RunState
from launcher.observe import read
from launcher.processes import alive, this_process
from launcher.record import record_outcome
from launcher.scheduler import View
from launcher.ssh import mirror, queue
from launcher.ssh.build import on_hosts
from launcher.ssh.connection import everywhere, side_by_side
from launcher.ssh.ready import check_ways, of_run, try_ways
from launcher.ssh.travel import bring, code
from launcher.ssh.where import all_hosts, hosts_of, waits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.environment.locate import Prefix
    from launcher.hosts import Host, Hosts
    from launcher.job import GroupPlan, JobSpec, LaunchPlan
    from launcher.scheduler import Open
    from launcher.snapshot import Snapshot
    from launcher.ssh.channel import Channel
    from launcher.ssh.mirror import Seen
    from launcher.store import RunFolder
    from launcher.sweep.store import GroupFolder

_EVENTS = "events.jsonl"
_HANDOVER_S = 10.0  # at most, from a run's claim to its supervisor's first word
_POLL_S = 0.1
_START_S, _SOON_S = 1.0, 0.05  # in which most runs start: a submit looks for it so often


@dataclass(slots=True, kw_only=True)
class Prepared:
    """A run whose files are brought to its hosts; until it is let go nothing is started."""

    folder: RunFolder
    plan: LaunchPlan
    hosts: Hosts
    secrets: dict[str, str]
    say: Callable[[str], None]
    channels: list[Channel] = field(default_factory=list)
    let_go: bool = False

    def provide(self, source: Snapshot, job: JobSpec, prefix: Prefix) -> str:
        """Have code and environment on all hosts, side by side; return the lock of the first.

        By then the pool on the first one is connected to the others.
        """
        self.channels = everywhere(lambda host: of_run(self.hosts, host), self.hosts.hosts)
        for host in self._firsts(job.resources.nodes):
            try_ways(self.hosts, host)  # we have to know of it in the end only
        tree = code(source)
        first = self.channels[0]
        queue.lay(first, [self.folder], {"code.tree": tree.name})
        queue.start(first, self._group, self.plan.commands[-1], self.secrets)
        everywhere(lambda channel: bring(channel, tree), self.channels)
        return on_hosts(self.hosts, job, prefix, self.plan.data, self.say)

    @property
    def _group(self) -> str:
        return f"{self.folder.id}/{POOL}"

    def _firsts(self, nodes: int) -> Sequence[Host]:
        return queue.may_be_first(self.hosts, nodes)

    def go(self) -> None:
        """Have the pool begin; its first word makes the run its own, whatever we do."""
        for host in self._firsts(self.folder.record().nodes):
            check_ways(self.hosts, host)
        self.folder.event(RunState.PENDING, group=self._group)
        first = self.channels[0]
        queue.lay(first, [self.folder], {}, only=("run.json", _EVENTS, f"{POOL}/group.json"))
        self.let_go = True
        first.ask("go", group=self._group)

    def report(self) -> None:
        """Look for its start, and say what it waits for, where it does."""
        end = time.monotonic() + _START_S
        try:
            with contextlib.suppress(SubmitError):  # it begins, whether we come to see it or not
                while waits(run := read(self.folder)) and time.monotonic() < end:
                    mirror.bring([run])
                    time.sleep(_SOON_S)
        except KeyboardInterrupt:
            name = self.folder.id
            self.say(f"launcher: run {name} goes on without us: launcher cancel {name} ends it")
            raise
        if waits(run := read(self.folder)):
            self.say(f"launcher: {_waits_for(run)}")

    def undo(self) -> bool:
        """Remove the run; return whether it is certain that nothing of it runs anywhere.

        Other hosts than the first have a folder of it only once its pool has started it.
        """
        for channel in self.channels:
            channel.abort()
        answers = side_by_side(
            lambda host: of_run(self.hosts, host).ask("remove", run=self.folder.id)[0],
            self.hosts.hosts[:1] if self.channels else (),
        )
        return not self.let_go or answers[0] is True


class Ssh:
    """Hosts, each asked for all of its runs at once."""

    def begin(
        self,
        folder: RunFolder,
        plan: LaunchPlan,
        env: Mapping[str, str],
        say: Callable[[str], None],
    ) -> Prepared:
        """Return the start of the supervisor on the first host."""
        hosts = all_hosts(folder.record())
        secrets = {name: env[name] for name in plan.secrets}
        os.makedirs(folder.file("logs"))
        return Prepared(folder=folder, plan=plan, hosts=hosts, secrets=secrets, say=say)

    def queue(
        self,
        group: GroupFolder,
        plan: GroupPlan,
        env: Mapping[str, str],
        say: Callable[[str], None],  # noqa: ARG002
        lock: int,  # noqa: ARG002 - whoever asks later settles on the host whether it is queued
    ) -> None:
        """Have all that the runs need on their hosts, and their pool started on the first one."""
        group.event(RunState.SUBMITTING, **this_process())
        queue.queue(group, plan, env)
        group.event(RunState.PENDING)

    def find(self, group: GroupFolder) -> bool:
        """Return whether a pool has the group's runs; one that has not will have them no more."""
        if not queue.settle(group):
            return False
        group.event(RunState.PENDING)
        return True

    def look(self, runs: Sequence[Open]) -> dict[str, View]:
        """Bring what the runs have written, and return what their first hosts tell."""
        asked = {run.folder.id: run for run in runs}
        return {run_id: _view(asked[run_id], seen) for run_id, seen in mirror.bring(runs).items()}

    def refresh(self, runs: Sequence[Open]) -> None:
        """Bring what the runs have written, as far as their hosts are reached."""
        # Who follows a run has read it once, maybe before it had hosts.
        mirror.bring([read(run.folder) if waits(run) else run for run in runs])

    def cancel_waiting(self, runs: Sequence[Open]) -> dict[str, str]:
        """Have those cancelled that no pool has started; return why a pool could not be asked."""
        errors = queue.withdraw([run for run in runs if waits(run)])
        return {run: error.message for run, error in errors.items()}

    def interrupt(self, run: Open, *, waits: bool) -> None:
        """Have the supervisor end the run; where its host is gone, end what the others run.

        Of a run that was given up, all that its hosts run is ended.
        """
        run = _begun(run) if waits else read(run.folder)
        if run.given_up:
            _end_all(run)
        if RunState(run.last["state"]).final:
            return
        hosts, (first, *others) = all_hosts(run.record), hosts_of(run)
        try:
            of_run(hosts, first).ask("interrupt", run=run.folder.id)
        except SubmitError as error:
            ended = side_by_side(lambda host: _end(run, hosts, host), others)
            if all(isinstance(each, SubmitError) for each in ended):
                raise _out_of_reach(run, error) from error
            told = {"reason": f"what its other hosts ran was ended; {error.message}"}
            outcome.cancelled(
                run.folder, run.record, record_outcome, started=run.started, told=told
            )

    def end_left(self, run: Open) -> None:
        """End what the run has left on each of its hosts."""
        _end_on(run, hosts_of(run))


def _begun(run: Open) -> Open:
    """Return a run that no longer waits: it was cancelled before it began, or begins."""
    end = time.monotonic() + _HANDOVER_S
    if waits(run):
        for error in queue.withdraw([run]).values():
            raise _out_of_reach(run, error) from error
    seen: Seen | SubmitError | None = None
    while waits(run) and time.monotonic() < end:
        seen = mirror.bring([run]).get(run.folder.id)
        run = read(run.folder)
        if RunState(run.last["state"]).final:
            return run
        time.sleep(_POLL_S)
    if not run.told("group"):
        raise StateError(
            f"run {run.folder.id} is being submitted", hint="Ctrl-C ends that; or wait for it."
        )
    if RunState(run.last["state"]) is not RunState.RUNNING:
        if isinstance(seen, SubmitError):
            raise StateError(seen.message, hint=seen.hint)
        raise StateError(f"run {run.folder.id}: its supervisor does not start", hint="Try again.")
    return run


def _out_of_reach(run: Open, error: SubmitError) -> StateError:
    hint = f"To have it end here only: launcher cancel --give-up {run.folder.id}"
    return StateError(error.message, hint=f"{error.hint}\n  {hint}".lstrip())


def _end_all(run: Open) -> None:
    """End what hosts run of it, and have its pool start it no more; StateError: one is away."""
    errors = queue.withdraw([run]).values()
    # Those that its pool chose are known where it had begun, as far as we had heard.
    _end_on(run, hosts_of(run) or all_hosts(run.record).hosts)
    for error in errors:
        raise StateError(error.message, hint=error.hint)


def _end_on(run: Open, those: Sequence[Host]) -> None:
    """End what those hosts run of it; StateError: one is away.

    Where a supervisor lives, it does that first: it leaves ranks their workers and their starter.
    """
    hosts = all_hosts(run.record)
    told = side_by_side(lambda host: _end(run, hosts, host, "stop"), those)
    reached = [host for host, each in zip(those, told, strict=True) if each is None]
    for each in (*told, *side_by_side(lambda host: _end(run, hosts, host), reached)):
        if isinstance(each, SubmitError):
            raise StateError(each.message, hint=each.hint)


def _end(run: Open, hosts: Hosts, host: Host, how: str = "end") -> None:
    of_run(hosts, host).ask(how, run=run.folder.id, grace_s=run.record.grace_s)


def _view(run: Open, seen: Seen | SubmitError) -> View:
    """Return what is told of a run where it is; ``run``: as it was before that was asked."""
    if not isinstance(seen, SubmitError) and (seen.alive or seen.coming):
        reason = seen.away if seen.alive else _waits_for(read(run.folder))
        return View(holds=True, reason=reason, brought=True)
    run = read(run.folder)  # with what has just been brought: that it has begun, for one
    if isinstance(seen, SubmitError):
        return _without_its_first(run, seen)
    queued = any(each["state"] == RunState.PENDING.value for each in run.events)
    if not (queued or seen.claimed):  # its submit is under way, or was killed
        return View(holds=alive(run.last, run.folder.file("heartbeat")), brought=True)
    pools, first = all_hosts(run.record).hosts[0].name, next(iter(hosts_of(run)), None)
    if waits(run) or first is None:
        reason = (
            f"the pool on {pools} that was to start it is gone; the same command queues it again"
        )
        return View(holds=False, reason=reason, brought=True)
    if seen.restarted:
        reason = f"{first.name} was started again while the run was on it"
        return View(holds=False, state=RunState.FAILED, reason=reason, brought=True)
    reason = f"its supervisor on {first.name} is gone and left no result"
    return View(holds=False, state=RunState.LOST, reason=reason, brought=True)


def _without_its_first(run: Open, error: SubmitError) -> View:
    """Return what is told by the others of a run whose first host is not reached.

    It may be cut off from us alone: the run is over only where they have lost it, too.
    """
    hosts, others = all_hosts(run.record), hosts_of(run)[1:]
    ended = side_by_side(
        lambda host: of_run(hosts, host).ask("is_left_alone", run=run.folder.id)[0], others
    )
    if True in ended and not any(each is False for each in ended):
        reason = f"{error.message}; its other hosts have lost it, too, and ended their ranks"
        return View(holds=False, state=RunState.FAILED, reason=reason, brought=True)
    goes_on = "; it may go on there (launcher cancel --give-up ends it here only)"
    kept = isinstance(error, mirror.UnkeptError)
    return View(holds=None, reason=error.message + ("" if kept else goes_on))


def _waits_for(run: Open) -> str:
    if on := hosts_of(run):
        return f"the run starts on {', '.join(each.name for each in on)}"
    names = ", ".join(each.name for each in all_hosts(run.record).hosts)
    if run.record.nodes > 1:
        return f"the run waits until {run.record.nodes} of {names} have room for it"
    return f"the run waits until there is room for it on {names}"
