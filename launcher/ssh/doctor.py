"""Hosts of a configuration, examined side by side: what each has, and who reaches whom.

Why from memory first: a host without room must be able to say so. Why ranks' ways are tried too:
a firewall between hosts is else found by a run that hangs.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from launcher.compute.ssh import between
from launcher.environment import answers
from launcher.environment.wheel import described
from launcher.errors import LaunchError, SubmitError
from launcher.hosts import IPV4, Hosts
from launcher.ssh import explained
from launcher.ssh.agent.environments import asked
from launcher.ssh.agent.serve import kind
from launcher.ssh.connection import forget, side_by_side, within
from launcher.ssh.look import host_of
from launcher.ssh.ready import ready
from launcher.ssh.taught import taught, ways_of
from launcher.ssh.verdict import Fault, Needs, Told, builds, differences, faults_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.compute.ssh import Ssh
    from launcher.hosts import Host
    from launcher.job import JobSpec
    from launcher.ssh.channel import Channel
    from launcher.ssh.connection import Target

Result = TypeVar("Result")

_QUICK_S = 3.0  # for an answer from nearby, or from the index of packages
_BRING_S = 30.0  # for our own code to travel
_LOCATED = ("ready", "kind", "key", "python", "path", "missing", "wheel")
_FIREWALL = (
    "Let TCP pass between the hosts, on all ports; or {{host: {name}, address: ...}} in "
    "compute.hosts names an address by which the others reach it."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A way from one host to another: why it is barred, or "". ``ssh``: None where not asked."""

    source: str
    target: str
    ssh: str | None
    ranks: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found on all hosts that a configuration names, in its order."""

    hosts: tuple[Told, ...]
    pairs: tuple[Pair, ...]
    faults: tuple[Fault, ...]

    @property
    def healthy(self) -> bool:
        """Return whether a job can run there."""
        return not any(each.blocks for each in self.faults)

    def of(self, name: str) -> list[Fault]:
        """Return the faults of a host, and of the ways from it."""
        return [each for each in self.faults if each.where.partition(" ->")[0] == name]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        hosts = [
            {
                "host": told.name,
                "reached": bool(told.known),
                "ready": not any(each.blocks for each in self.of(told.name)),
                **told.known,
            }
            for told in self.hosts
        ]
        pairs = [asdict(each) for each in self.pairs]
        faults = [asdict(each) for each in self.faults]
        return {"ready": self.healthy, "hosts": hosts, "pairs": pairs, "faults": faults}


def examine(job: JobSpec) -> Report:
    """Return what the hosts of a job have and lack; nothing but the launcher's folder is written.

    PlanError, ConfigError: the configuration itself is wrong.
    """
    ways = ways_of(job)
    resources = job.resources
    needs = Needs(
        nodes=resources.nodes,
        ranks=resources.procs_per_node,
        gpus=resources.procs_per_node * resources.gpus_per_proc,
        horovod=job.dist.horovod,
    )
    answers = side_by_side(lambda way: _known(way, job), ways)
    told = [
        Told(name=way.name, fault=_unreached(way, answer))
        if isinstance(answer, SubmitError)
        else Told(name=way.name, known=answer[1])
        for way, answer in zip(ways, answers, strict=True)
    ]
    channels = {
        way.name: answer[0]
        for way, answer in zip(ways, answers, strict=True)
        if not isinstance(answer, SubmitError)
    }
    pairs, barred = _ways(job, dict(zip((way.name for way in ways), ways, strict=True)), channels)
    kinds = {each.known["kind"] for each in told if each.known and builds(each)}
    faults = [fault for each in told for fault in faults_of(each, needs, kinds)]
    faults += [*differences(told, needs), *barred]
    return Report(hosts=tuple(told), pairs=tuple(pairs), faults=tuple(faults))


def _unreached(way: Target, error: SubmitError) -> Fault:
    return Fault(where=way.name, what=error.message.removeprefix(f"{way.name} "), fix=error.hint)


def _asked(way: Target, limit_s: float, work: Callable[[], Result]) -> Result:
    """Return what a host answers; hang up when that takes longer."""
    late = explained.error(way, f"timed out after {limit_s:g} s", None)
    try:
        return within(limit_s, work, late)
    except SubmitError as error:
        if error is late:
            forget(way)
        raise


def _known(way: Target, job: JobSpec) -> tuple[Channel, dict[str, Any]]:
    """Return the connection to a host, and all that it tells."""
    quick = min(_QUICK_S, way.timeout_s / 2)

    def look() -> tuple[Channel, dict[str, Any]]:
        channel = taught(way, "ssh.agent.checkup")
        facts: dict[str, Any]
        asks: dict[str, Any] = {"workdir": way.workdir, "paths": list(job.data.values())}
        facts = channel.facts = channel.ask("hello", looks=True, **asks)[0]
        asks = {"workdir": facts["workdir"], "pip_args": list(job.environment.pip_args)}
        told = channel.ask("checkup", timeout_s=quick, **asks)[0]
        clock, unsure = _clock(channel)
        return channel, {**facts, **told, "clock_s": clock, "unsure_s": unsure}

    channel, known = _asked(way, max(way.timeout_s, 2 * _QUICK_S), look)
    known |= {"lost": known["missing"], "minor": ".".join(known["version"].split(".")[:2])}
    known["environment"] = {} if known["unwritable"] else _located(way, channel, job)
    known["leased"] = _leased(way, channel, job) if channel.root else {}
    known |= {name: channel.facts[name] for name in ("machine", "since", "machines")}
    return channel, known


def _clock(channel: Channel) -> tuple[float, float]:
    """Return how far a host's clock is ahead of ours, and how sure that is, in seconds."""
    before = time.time()
    there = channel.ask("time")[0]
    after = time.time()
    return there - (before + after) / 2, (after - before) / 2


def _located(way: Target, channel: Channel, job: JobSpec) -> dict[str, Any]:
    """Return whether the job's environment is on a host, or why it can never be."""
    asks = asked(job.environment, horovod=job.dist.horovod, mpi=job.dist.kind == "mpi")

    def look() -> dict[str, Any]:
        ready(way, list(job.data.values()))  # from now on its folder is made, and told of
        found: dict[str, Any] = channel.ask("locate", **asks)[0]
        offers = described(answers.cache_dir()) if channel.facts["kind"] == kind() else {}
        found["wheel"] = channel.ask("wanted", offers=offers, **asks)[0] != []
        return found

    try:
        found = _asked(way, max(_BRING_S, way.timeout_s), look)
    except LaunchError as error:
        said = error.message.removeprefix(f"{way.name}: ")
        return {"ready": False, "error": said, "hint": error.hint}
    return {name: found[name] for name in _LOCATED}


def _leased(way: Target, channel: Channel, job: JobSpec) -> dict[str, Any]:
    """Return what runs have of a host, by ``slots`` or by cores."""
    (host,) = (each for each in cast("Ssh", job.compute).named() if each.name == way.name)
    asks: dict[str, Any] = {"slots": host.slots, "gpus": host.gpus}
    try:
        told = _asked(way, _BRING_S, lambda: channel.ask("leased", **asks))[0]
    except SubmitError:
        return {}  # it has just gone, and is told of elsewhere
    return {"by": "cores" if host.slots is None else "slots", **told}


def _ways(
    job: JobSpec, ways: dict[str, Target], channels: dict[str, Channel]
) -> tuple[list[Pair], list[Fault]]:
    """Return the ways between hosts that were reached, and what is wrong with them."""
    named = {each.name: each for each in cast("Ssh", job.compute).named()}
    hosts = {name: host_of(named[name], ways[name], channel) for name, channel in channels.items()}
    if len(hosts) < 2:
        return [], []
    first = next(iter(ways))
    entered = (
        _reached(job, list(hosts.values()), ways[first], channels[first]) if first in hosts else {}
    )
    ports = _everyone_connects(list(hosts.values()), ways, channels)
    pairs, faults = [], []
    for (source, target), error in ports.items():
        said = entered.get(target) if source == first else None
        ssh = said.message if said else "" if source == first and first in hosts else None
        pairs.append(Pair(source=source, target=target, ssh=ssh, ranks=error))
        where = f"{source} -> {target}"
        if said:
            blocks = job.resources.nodes > 1
            faults.append(Fault(where=where, what=said.message, fix=said.hint, blocks=blocks))
        if error:
            what = f"ranks on {source} do not reach {target} at {hosts[target].address}: {error}"
            fix = (IPV4 if ":" in hosts[target].address else _FIREWALL).format(name=target)
            blocks = job.resources.nodes > 1
            faults.append(Fault(where=where, what=what, fix=fix, blocks=blocks))
    return pairs, faults


def _reached(
    job: JobSpec, hosts: Sequence[Host], way: Target, channel: Channel
) -> dict[str, SubmitError]:
    """Return why the first host's ssh does not get to others, by their names."""
    compute = cast("Ssh", job.compute)
    together = Hosts(
        hosts=tuple(hosts),
        workdir=channel.facts["workdir"],
        config="",
        python=compute.python,
        connect_timeout_s=min(_QUICK_S, compute.connect_timeout_s),
    )
    others = hosts[1:]
    if not channel.root:
        return {}  # it has no room for our code, and says so
    asks: dict[str, Any] = {"addresses": [each.address for each in others]}
    config = between(together).encode()
    try:
        _asked(way, _QUICK_S, lambda: channel.ask("reach", config, **asks))
        patience = compute.connect_timeout_s + _QUICK_S
        answers, _ = _asked(way, patience, lambda: channel.ask("reached"))
    except SubmitError as error:
        return {each.name: error for each in others}
    return {
        host.name: explained.between(hosts[0], host, said)
        for host, (said, status) in zip(others, answers, strict=True)
        if status
    }


def _everyone_connects(
    hosts: Sequence[Host], ways: dict[str, Target], channels: dict[str, Channel]
) -> dict[tuple[str, str], str]:
    """Return why a host does not reach another one's port, or "", by both names."""
    tokens = {host.name: secrets.token_hex(8) for host in hosts}

    def ask(host: Host, request: str, **values: Any) -> Any:
        channel = channels[host.name]
        return _asked(ways[host.name], 2 * _QUICK_S, lambda: channel.ask(request, **values))[0]

    def listen(host: Host) -> int:
        return int(ask(host, "listen", token=tokens[host.name]))

    ports = dict(zip(tokens, side_by_side(listen, hosts), strict=True))
    up = [each for each in hosts if not isinstance(ports[each.name], SubmitError)]

    def connect(host: Host) -> list[str]:
        to = [[each.address, ports[each.name], tokens[each.name]] for each in _but(up, host)]
        return list(ask(host, "connect", to=to, timeout_s=_QUICK_S))

    answers = side_by_side(connect, up)
    side_by_side(lambda host: ask(host, "hush"), up)
    return {
        (host.name, other.name): answer.message if isinstance(answer, SubmitError) else answer[at]
        for host, answer in zip(up, answers, strict=True)
        for at, other in enumerate(_but(up, host))
    }


def _but(hosts: Sequence[Host], host: Host) -> list[Host]:
    return [each for each in hosts if each is not host]
