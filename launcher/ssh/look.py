"""A look at the hosts of a job -> Facts: what plan may know of them."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, Any, cast

from launcher import process
from launcher.environment.locate import Prefix
from launcher.errors import ConfigError, PlanError, ProvisionError, SubmitError
from launcher.hosts import PLAIN, Host, Hosts, is_plain, told_to_mpirun
from launcher.job import Facts
from launcher.processes import this_process
from launcher.ssh.agent.environments import asked
from launcher.ssh.bundle import bundle
from launcher.ssh.carry import looked
from launcher.ssh.connection import (
    Target,
    also_known,
    connected,
    everywhere,
    settings,
    side_by_side,
)
from launcher.ssh.ready import ready
from launcher.ssh.verdict import OWN_DISK, ROOM_MB, RUNS_PROGRAMS, noexec, shares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.compute.named import Named
    from launcher.compute.ssh import Ssh
    from launcher.git import Place
    from launcher.job import JobSpec
    from launcher.snapshot import Snapshot
    from launcher.ssh.channel import Channel


def facts(job: JobSpec, source: Place | Snapshot, *, pool: bool) -> Facts:
    """Return what the hosts have that the job may be on; SubmitError: too few are reached.

    ``pool``: it is one of several. ConfigError, PlanError, ProvisionError: a host lacks something,
    or hosts differ where they must not; each names the host.
    """
    compute = cast("Ssh", job.compute)
    # While ssh connects there is time to look at what is to be sent.
    threading.Thread(target=bundle, daemon=True).start()
    named, targets = _reached(compute, job.resources.nodes, pool=pool)
    paths = [path for name, path in job.data.items() if name not in job.uploads]
    channels = everywhere(lambda target: ready(target, paths), targets)
    for target, channel in zip(targets, channels, strict=True):
        also_known(target, channel.facts["workdir"])
    check(job, channels)
    found = everywhere(
        lambda trio: host_of(*trio), list(zip(named, targets, channels, strict=True))
    )
    first = channels[0]
    return Facts(
        user=process.user(),
        uid=first.facts["uid"],
        host=this_process()["host"],
        cpus=min(host.cpus for host in found),
        gpus=min(host.gpus for host in found),
        python=first.facts["python"],
        package_root=first.root,
        git_dir=source.git_dir,
        source_prefix=source.prefix,
        prefix=prefix_of(job, channels),
        hosts=Hosts(
            hosts=tuple(found),
            workdir=first.facts["workdir"],
            config=targets[0].config,
            python=compute.python,
            connect_timeout_s=compute.connect_timeout_s,
        ),
        data=looked(job.uploads, channels, _say),
    )


def _reached(compute: Ssh, nodes: int, *, pool: bool) -> tuple[list[Named], list[Target]]:
    """Return the hosts that the job may be on, less those that are down and can be done without."""
    # Who leases, and who is one of many, is wherever there is room.
    named = compute.named()[: None if pool or compute.lease else nodes]
    targets = [way_to(compute, each.name) for each in named]
    answers = side_by_side(connected, targets)
    errors = [each for each in answers if isinstance(each, SubmitError)]
    if len(answers) - len(errors) < nodes:
        raise errors[0]
    for error in errors:
        _say(f"launcher: {error.message}: done without it")
    there = [number for number, each in enumerate(answers) if not isinstance(each, SubmitError)]
    return [named[number] for number in there], [targets[number] for number in there]


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def way_to(compute: Ssh, name: str) -> Target:
    """Return how a host of a configuration is reached; ConfigError where ssh's is not there."""
    config = os.path.abspath(os.path.expanduser(compute.ssh_config)) if compute.ssh_config else ""
    if config and not os.path.isfile(config):
        raise ConfigError(
            f"compute.ssh_config={compute.ssh_config}: there is no such file",
            hint=f"It is read from the current folder, {os.getcwd()}; null: your own.",
        )
    return Target(
        name=name,
        config=config,
        python=compute.python,
        workdir=compute.workdir,
        timeout_s=compute.connect_timeout_s,
    )


def host_of(named: Named, target: Target, channel: Channel) -> Host:
    """Return a host that has told what it is."""
    told, known = settings(target), channel.facts
    return Host(
        name=named.name,
        address=named.address or told["hostname"],
        user=told["user"],
        port=int(told["port"]),
        hostname=known["hostname"],
        cpus=known["cpus"],
        gpus=known["gpus"] if named.gpus is None else named.gpus,
    )


def check(job: JobSpec, channels: Sequence[Channel]) -> None:
    """Raise what keeps the job from running on these hosts."""
    machines: dict[tuple[str, str], str] = {}
    for channel in channels:
        one = channel.facts["boot"], channel.facts["hostname"]
        if one in machines:
            raise PlanError(
                f"compute.hosts: {machines[one]} and {channel.name} are one machine",
                hint="procs_per_node=2 starts two ranks on each host.",
            )
        machines[one] = channel.name
    if job.environment.build_on == "job":
        raise PlanError(
            "environment.build_on=job: hosts of compute=ssh build their environments themselves, "
            "before a job starts",
            hint="environment.build_on=submit (the default) has them do so.",
        )
    for channel in channels:
        known = channel.facts
        for name, path in job.data.items():
            if path in known["missing"]:
                raise ConfigError(
                    f"data.{name}.path={path}: there is no such file or folder on {channel.name}",
                    hint="It is used where it lies, on each host; "
                    f"data.{name}.upload=true sends what is here.",
                )
        _plain(channel, job.resources.nodes)
        if known["free_mb"] < ROOM_MB:
            raise PlanError(
                f"{channel.name}: {known['workdir']} has {known['free_mb']} MB of room left",
                hint="compute.workdir=/path names a folder on a larger disk.",
            )
    _apart(channels)
    _same("workdir", channels, "compute.workdir=/path names one that is the same on all.")
    _same("python", channels, "compute.python=/path names one that is the same on all.")
    roots = {channel.root for channel in channels}
    assert len(roots) == 1  # noqa: S101 - it follows from the folder, and from our own code


def _apart(channels: Sequence[Channel]) -> None:
    """Raise PlanError where hosts share the launcher's folder: each takes all there for its own."""
    for at, channel in enumerate(channels):
        for other in channels[:at]:
            if shares(channel.facts, other.facts):
                path = channel.facts["workdir"]
                raise PlanError(
                    f"compute.workdir: {other.name} and {channel.name} share {path}", hint=OWN_DISK
                )


def _plain(channel: Channel, nodes: int) -> None:
    for what in told_to_mpirun(nodes):
        path = channel.facts[what]
        if not is_plain(path):
            raise PlanError(
                f"compute.{what}: {path!r} on {channel.name} is no path that mpirun can be told of",
                hint=f"compute.{what}=/path names another. {PLAIN}.",
            )


def _same(what: str, channels: Sequence[Channel], hint: str) -> None:
    """Raise PlanError where hosts of one run differ: mpirun's words are the same on all."""
    first = channels[0]
    for each in channels[1:]:
        if each.facts[what] != first.facts[what]:
            raise PlanError(
                f"compute.{what}: {first.facts[what]} on {first.name}, {each.facts[what]} on "
                f"{each.name}",
                hint=hint,
            )


def prefix_of(job: JobSpec, channels: Sequence[Channel]) -> Prefix:
    """Return where the environment is, or will be, on all hosts; ready: it is on each."""
    asks = asked(job.environment, horovod=job.dist.horovod, mpi=job.dist.kind == "mpi")
    found = everywhere(lambda channel: _read(channel.ask("locate", **asks)[0]), channels)
    first = found[0]
    for channel, each in zip(channels, found, strict=True):
        if (each.path, each.python, each.mpirun) != (first.path, first.python, first.mpirun):
            one, other = channels[0], channel
            raise ProvisionError(
                f"the environment would be {first.path or first.python} on {one.name}, and "
                f"{each.path or each.python} on {other.name}",
                hint=f"{one.name} has Python {one.facts['version']} on {one.facts['platform']}, "
                f"{other.name} {other.facts['version']} on {other.facts['platform']}: "
                "environment.python=/path or compute.python=/path names a common one.",
            )
        if each.path and (why := noexec(channel.facts)):
            raise ProvisionError(f"{channel.name}: {why}", hint=RUNS_PROGRAMS)
        if each.kind == "current" and each.missing != first.missing:
            raise ProvisionError(
                f"{channel.name} lacks {', '.join(each.missing) or 'nothing'}, {channels[0].name} "
                f"lacks {', '.join(first.missing) or 'nothing'}",
                hint="environment.provision=venv builds the same on all.",
            )
    unready = [each for each in found if not each.ready]
    return unready[0] if unready else first


def _read(values: dict[str, Any]) -> Prefix:
    lists = {
        "mpi_version": tuple(values["mpi_version"]),
        "missing": tuple(values["missing"]),
        "commands": tuple(tuple(words) for words in values["commands"]),
    }
    return Prefix(**{**values, **lists})
