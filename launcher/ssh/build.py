"""Environments on all hosts of a run, built side by side; what takes minutes is built once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.ssh.agent.environments import asked
from launcher.ssh.carry import carry
from launcher.ssh.connection import everywhere
from launcher.ssh.ready import of_run

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
    asks = asked(job.environment, horovod=job.dist.horovod, mpi=job.dist.kind == "mpi")
    return build(channels, asks | {"path": prefix.path, "python": prefix.python}, say)


def build(channels: Sequence[Channel], asks: dict[str, Any], say: Callable[[str], None]) -> str:
    """Return the lock of the environment that all hosts have when this returns.

    ``asks``: as ``environments.asked`` says it. Where Horovod is wanted, the first host
    builds its wheel, and the others of its kind have it from there. SubmitError names the host.
    """

    def one(channel: Channel) -> str:
        who = f"{channel.name}: " if len(channels) > 1 else ""
        return str(channel.ask("build", heed=lambda told: say(who + told["say"]), **asks)[0])

    first, others = channels[0], channels[1:]
    if not (asks["horovod"] and asks["environment"]["horovod"] and others):
        return everywhere(one, channels)[0]
    lock = one(first)
    _share(first, others)
    everywhere(one, others)
    return lock


def _share(first: Channel, others: Sequence[Channel]) -> None:
    """Give the wheels of the first host to those that have none of the same key."""
    there = first.ask("wheels")[0]
    lacks = {
        channel: [key for key in there if key not in has]
        for channel, has in zip(
            others, everywhere(lambda each: each.ask("wheels")[0], others), strict=True
        )
    }
    for key in {key for keys in lacks.values() for key in keys}:
        body = b"".join(_whole(first, key, name) for name, _ in there[key])
        for channel in [each for each, keys in lacks.items() if key in keys]:
            channel.ask("adopt", body, key=key, files=there[key])


def _whole(channel: Channel, key: str, name: str) -> bytes:
    data = b""
    while part := channel.ask("wheel", key=key, name=name, offset=len(data))[1]:
        data += part
    return data
