"""Hosts that are asked what needs none of our files there: modules travel to the agent's memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from launcher.ssh.connection import connected
from launcher.ssh.look import way_to

if TYPE_CHECKING:
    from launcher.compute.ssh import Ssh
    from launcher.job import JobSpec
    from launcher.ssh.channel import Channel
    from launcher.ssh.connection import Target


def taught(way: Target, *modules: str) -> Channel:
    """Return the connection to a host that can do what these modules of ours can.

    Each has its name below ``launcher``. SubmitError: it is not reached.
    """
    channel = connected(way)
    for name in modules:
        source = Path(__file__).parents[1].joinpath(*name.split(".")).with_suffix(".py")
        channel.ask("learn", source.read_bytes(), name=f"launcher.{name}")
    return channel


def ways_of(job: JobSpec) -> list[Target]:
    """Return how each host is reached that a configuration names; PlanError when it names none."""
    compute = cast("Ssh", job.compute)
    compute.check(job.resources)
    return [way_to(compute, each.name) for each in compute.named()]
