"""Environments on all hosts of a run, built side by side; what takes minutes is built once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.ssh.agent import environments
from launcher.ssh.agent.environments import asked
from launcher.ssh.agent.serve import kind
from launcher.ssh.carry import carry
from launcher.ssh.connection import everywhere
from launcher.ssh.look import check, prefix_of
from launcher.ssh.ready import of_run, ready
from launcher.ssh.taught import ways_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from launcher.data import Dataset
    from launcher.environment.locate import Prefix
    from launcher.hosts import Hosts
    from launcher.job import JobSpec
    from launcher.ssh.channel import Channel


def on_hosts(
    hosts: Hosts,
    job: JobSpec,
    prefix: Prefix,
    data: Sequence[Dataset],
    say: Callable[[str], None],
) -> str:
    """Return the lock of a job's environment; all hosts have that, and the data, by then."""
    channels = everywhere(lambda host: of_run(hosts, host), hosts.hosts)
    carry(channels, data, say)
    return _build(channels, _asks(job, prefix), say, built=prefix.ready)


def ahead(job: JobSpec, say: Callable[[str], None]) -> Prefix:
    """Return a job's environment, which all hosts that its configuration names have by then."""
    channels = everywhere(lambda way: ready(way, list(job.data.values())), ways_of(job))
    check(job, channels)
    prefix = prefix_of(job, channels)
    _build(channels, _asks(job, prefix), say, built=prefix.ready)
    return prefix


def _asks(job: JobSpec, prefix: Prefix) -> dict[str, Any]:
    asks = asked(job.environment, horovod=job.dist.horovod, mpi=job.dist.kind == "mpi")
    return asks | {"path": prefix.path, "python": prefix.python}


def _build(
    channels: Sequence[Channel], asks: dict[str, Any], say: Callable[[str], None], *, built: bool
) -> str:
    """Return the lock of the environment that all hosts have when this returns.

    ``asks``: as ``environments.asked`` says it; ``built``: all have it already. Horovod's wheel
    is built where no machine of a kind has it, this one included, and once. SubmitError names the
    host.
    """
    locks: dict[str, str] = {}

    def one(channel: Channel) -> None:
        def heed(told: dict[str, Any]) -> None:
            say(f"{channel.name}: {told['say']}")

        locks[channel.name] = str(channel.ask("build", heed=heed, **asks)[0])

    def of_a_kind(group: list[Channel]) -> None:
        here = [_Here()] if group[0].facts["kind"] == kind() else []
        without = _give([*here, *group], group, asks, say)
        if without:
            first = next((each for each in without if _compiles(each)), without[0])
            others = [each for each in without if each is not first]
            for each in others:
                say(f"{each.name}: Horovod's wheel is built on {first.name}, once")
            one(first)
            _give([first], others, asks, say)
        everywhere(one, [each for each in group if each.name not in locks])

    kinds: dict[str, list[Channel]] = {}
    for channel in channels:
        kinds.setdefault(channel.facts["kind"], []).append(channel)
    if asks["path"] and asks["horovod"] and not built:
        everywhere(of_a_kind, list(kinds.values()))
    else:
        everywhere(one, channels)
    return locks[channels[0].name]


class _Here:
    """This machine's wheels, asked for as those of a host are."""

    name = "this machine"

    def ask(self, request: str, **head: Any) -> tuple[Any, bytes]:
        """Return what a host would answer."""
        if request == "wheel":
            return environments.wheel(head, b"")
        return environments.wheels(head, b""), b""


def _compiles(channel: Channel) -> bool:
    programs = {*channel.facts["programs"]}
    return "make" in programs and bool({"c++", "g++", "clang++"} & programs)


def _give(
    sources: Sequence[Channel | _Here],
    targets: Sequence[Channel],
    asks: dict[str, Any],
    say: Callable[[str], None],
) -> list[Channel]:
    """Give hosts the wheels that may fit there; return those that have none and want one."""
    has: dict[str, tuple[Channel | _Here, dict[str, Any]]] = {}
    for source in sources:
        for key, about in source.ask("wheels")[0].items():
            has.setdefault(key, (source, about))

    def one(target: Channel) -> bool:
        offers = {key: about["facts"] for key, (_, about) in has.items()}
        wanted = target.ask("wanted", offers=offers, **asks)[0]
        for key in wanted or ():
            source, about = has[key]
            say(f"{target.name}: Horovod's wheel: from {source.name}")
            body = b"".join(_whole(source, key, name) for name, _ in about["files"])
            target.ask("adopt", body, key=key, files=about["files"])
        return bool(wanted == [])

    lacks = everywhere(one, targets)
    return [target for target, without in zip(targets, lacks, strict=True) if without]


def _whole(source: Channel | _Here, key: str, name: str) -> bytes:
    data = b""
    while part := source.ask("wheel", key=key, name=name, offset=len(data))[1]:
        data += part
    return data
