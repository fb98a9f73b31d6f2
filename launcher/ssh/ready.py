"""Hosts that are ready to be asked: reached, with the launcher's own code on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.compute.ssh import between
from launcher.ssh import explained
from launcher.ssh.bundle import bundle
from launcher.ssh.connection import Target, connected
from launcher.ssh.travel import bring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.hosts import Host, Hosts
    from launcher.ssh.channel import Channel


def target(hosts: Hosts, name: str) -> Target:
    """Return how one of the hosts of a run is reached."""
    return Target(
        name=name,
        config=hosts.config,
        python=hosts.python,
        workdir=hosts.workdir,
        timeout_s=hosts.connect_timeout_s,
    )


def ready(host: Target, paths: Sequence[str] | None = None) -> Channel:
    """Return the connection to a host that has our code; SubmitError when that cannot be.

    ``paths``: the host is asked anew what it has, and which of these paths are not there.
    """
    channel = connected(host)
    if not channel.root or paths is not None:
        asked = list(paths or ())
        channel.facts = channel.ask("hello", workdir=host.workdir, paths=asked)[0]
    if not channel.root:
        tree = bundle()
        bring(channel, tree)
        channel.root = channel.ask("load", name=tree.name)[0]
    return channel


def try_ways(hosts: Hosts, first: Host) -> None:
    """Have one of the hosts try to ssh to each other one, which takes a while; see next."""
    if others := _others(hosts, first):
        addresses = [each.address for each in others]
        of_run(hosts, first).ask("reach", between(hosts).encode(), addresses=addresses)


def check_ways(hosts: Hosts, first: Host) -> None:
    """Raise SubmitError where that host could not ssh to another one, as mpirun will."""
    if others := _others(hosts, first):
        answers = of_run(hosts, first).ask("reached")[0]
        for host, (said, status) in zip(others, answers, strict=True):
            if status:
                raise explained.between(first, host, said)


def _others(hosts: Hosts, first: Host) -> list[Host]:
    return [each for each in hosts.hosts if each is not first]


def of_run(hosts: Hosts, host: Host) -> Channel:
    """Return the connection to one of the hosts of a run."""
    return ready(target(hosts, host.name))
