"""Supervisors on hosts that are reached by ssh, each the first of its run's hosts."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher import outcome
from launcher.compute.ssh import between
from launcher.errors import PlanError, StateError, SubmitError
from launcher.job import LINK, RunState
from launcher.observe import read
from launcher.processes import alive
from launcher.record import record_outcome
from launcher.scheduler import View
from launcher.ssh import explained, mirror
from launcher.ssh.build import build
from launcher.ssh.carry import carry
from launcher.ssh.connection import everywhere, side_by_side
from launcher.ssh.provided import asked
from launcher.ssh.ready import of_run
from launcher.ssh.travel import bring, code

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from launcher.environment.locate import Prefix
    from launcher.hosts import Host, Hosts
    from launcher.job import GroupPlan, JobSpec, LaunchPlan, PlannedFile, RunRecord
    from launcher.scheduler import Open
    from launcher.snapshot import Snapshot
    from launcher.ssh.channel import Channel
    from launcher.ssh.mirror import Seen
    from launcher.store import RunFolder
    from launcher.sweep.store import GroupFolder

_EVENTS = "events.jsonl"
_NOT_YET = "compute=ssh: sweeps there are not built yet"


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
        """Have code and environment on all hosts, side by side; return the lock of the first."""
        self.channels = everywhere(lambda host: of_run(self.hosts, host), self.hosts.hosts)
        tree = code(source)
        asks = asked(job.environment, horovod=job.dist.horovod, mpi=job.dist.kind == "mpi")
        asks |= {"path": prefix.path, "python": prefix.python}

        others = self.hosts.hosts[1:]
        if others:  # it takes a while, and we have to know of it in the end only
            addresses = [each.address for each in others]
            self.channels[0].ask("reach", between(self.hosts).encode(), addresses=addresses)

        def one(channel: Channel) -> None:
            bring(channel, tree)
            texts = {**_texts(self.plan.files), "code.tree": (tree.name, 0o644)}
            if self.plan.data:
                named = "".join(f"{each.digest}\n" for each in self.plan.data)
                texts["data.trees"] = named, 0o644
            self._send(channel, texts)

        everywhere(one, self.channels)
        carry(self.channels, self.plan.data, self.say)
        return build(self.channels, asks, self.say)

    def _check_ways(self) -> None:
        """Raise SubmitError where the first host cannot ssh to another one, as mpirun will."""
        first, *others = self.hosts.hosts
        answers = self.channels[0].ask("reached")[0] if others else []
        for host, (said, status) in zip(others, answers, strict=True):
            if status:
                raise explained.between(first, host, said)

    def _send(self, channel: Channel, texts: dict[str, tuple[str, int]]) -> None:
        data = {path: text.encode("utf-8", "surrogateescape") for path, (text, _) in texts.items()}
        files = [(path, texts[path][1], len(each)) for path, each in data.items()]
        channel.ask("files", b"".join(data.values()), run=self.folder.id, files=files)

    def go(self) -> None:
        """Have the supervisor started; its first word makes the run its own, whatever we do."""
        self._check_ways()
        texts = {}
        for name in ("run.json", _EVENTS):
            with open(self.folder.file(name), encoding="utf-8", errors="surrogateescape") as file:
                texts[name] = file.read(), 0o644
        first = self.channels[0]
        self._send(first, texts)
        given = "".join(f"{name}={value}\0" for name, value in self.secrets.items())
        self.let_go = True
        argv = self.plan.commands[-1]
        first.ask("start", given.encode("utf-8", "surrogateescape"), run=self.folder.id, argv=argv)
        with contextlib.suppress(SubmitError):  # it has begun, whether we come to see it or not
            mirror.bring([read(self.folder)])

    def report(self) -> None:
        """Say nothing: it has started."""

    def undo(self) -> bool:
        """Remove the run from its hosts; return whether it is certain that nothing runs there."""
        for channel in self.channels:
            channel.abort()
        answers = side_by_side(
            lambda host: of_run(self.hosts, host).ask("remove", run=self.folder.id)[0],
            self.hosts.hosts if self.channels else (),
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
        hosts = _hosts(folder.record())
        secrets = {name: env[name] for name in plan.secrets}
        os.makedirs(folder.file("logs"))
        return Prepared(folder=folder, plan=plan, hosts=hosts, secrets=secrets, say=say)

    def queue(
        self,
        group: GroupFolder,  # noqa: ARG002
        plan: GroupPlan,  # noqa: ARG002
        env: Mapping[str, str],  # noqa: ARG002
        say: Callable[[str], None],  # noqa: ARG002
        lock: int,  # noqa: ARG002
    ) -> None:
        """Raise PlanError: sweeps are refused before."""
        raise PlanError(_NOT_YET)

    def find(self, group: GroupFolder) -> bool:  # noqa: ARG002
        """Raise PlanError, as ``queue`` does."""
        raise PlanError(_NOT_YET)

    def look(self, runs: Sequence[Open]) -> dict[str, View]:
        """Bring what the runs have written, and return what their first hosts tell."""
        return {
            run_id: _view(next(run for run in runs if run.folder.id == run_id), seen)
            for run_id, seen in mirror.bring(runs).items()
        }

    def refresh(self, runs: Sequence[Open]) -> None:
        """Bring what the runs have written, as far as their hosts are reached."""
        mirror.bring(runs)

    def cancel_waiting(self, runs: Sequence[Open]) -> None:
        """Do nothing: no run waits."""

    def interrupt(self, run: Open, *, waits: bool) -> None:
        """Have the supervisor end the run; where its host is gone, end what the others run."""
        hosts = _hosts(run.record)
        if waits:
            raise StateError(
                f"run {run.folder.id}: its supervisor does not start", hint="Try again."
            )
        try:
            of_run(hosts, hosts.hosts[0]).ask("interrupt", run=run.folder.id)
        except SubmitError as error:
            ended = side_by_side(lambda host: _end(run, hosts, host), hosts.hosts[1:])
            if all(isinstance(each, SubmitError) for each in ended):
                raise StateError(error.message, hint=error.hint or "Try again.") from error
            _conclude(run, error.message)


def _hosts(record: RunRecord) -> Hosts:
    if record.hosts is None:
        raise StateError(f"run {record.id}: its record names no hosts")
    return record.hosts


def _texts(files: Sequence[PlannedFile]) -> dict[str, tuple[str, int]]:
    """Return the files that hosts need; where results are to lie is a matter of this machine."""
    return {file.path: (file.text, file.mode) for file in files if file.mode != LINK}


def _end(run: Open, hosts: Hosts, host: Host) -> int:
    count, _ = of_run(hosts, host).ask("end", run=run.folder.id, grace_s=run.record.grace_s)
    return int(count)


def _conclude(run: Open, why: str) -> None:
    """Write that a run was cancelled whose first host can no longer tell so itself."""
    result = outcome.judge(run.folder, run.folder.ranks(), 0, RunState.CANCELLED.value)
    result["reason"] = f"what its other hosts ran was ended; {why}"
    begun = next((each["time"] for each in run.events if each["state"] == "RUNNING"), None)
    outcome.conclude(run.folder, run.record, result, record_outcome, started=begun, insist=False)


def _view(run: Open, seen: Seen | SubmitError) -> View:
    """Return what a run's first host tells of it; ``run``: as it was before it was asked."""
    hosts = _hosts(run.record)
    first = hosts.hosts[0].name
    if isinstance(seen, SubmitError):
        return View(holds=None, reason=seen.message)
    if seen.alive:
        return View(holds=True, brought=True)
    if not seen.claimed:  # its submit is under way, or was killed
        return View(holds=alive(run.last, run.folder.file("heartbeat")), brought=True)
    if seen.restarted:
        reason = f"{first} was started again while the run was on it"
        return View(holds=False, state=RunState.FAILED, reason=reason, brought=True)
    reason = f"its supervisor on {first} is gone and left no result"
    return View(holds=False, state=RunState.LOST, reason=reason, brought=True)
