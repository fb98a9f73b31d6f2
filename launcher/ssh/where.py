"""Which hosts a run has: those of its record, or of these the ones that its pool has chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.errors import StateError
from launcher.job import RunState
from launcher.ssh.ready import target

if TYPE_CHECKING:
    from launcher.hosts import Host, Hosts
    from launcher.job import RunRecord
    from launcher.scheduler import Open
    from launcher.ssh.connection import Target


def all_hosts(record: RunRecord) -> Hosts:
    """Return the hosts of the record: the run's own, or those that its pool chooses from."""
    if record.hosts is None:
        raise StateError(f"run {record.id}: its record names no hosts")
    return record.hosts


def hosts_of(run: Open) -> tuple[Host, ...]:
    """Return the hosts that the run is on, the first of them first; () as long as it has none."""
    hosts = all_hosts(run.record)
    return hosts.only(run.told("hosts") or ()) if run.told("group") else hosts.hosts


def waits(run: Open) -> bool:
    """Return whether a pool is to start the run, and has not as far as we know."""
    waiting = (RunState.SUBMITTING, RunState.PENDING)
    return bool(run.told("group")) and RunState(run.last["state"]) in waiting


def asked_of(run: Open) -> tuple[Host, ...]:
    """Return the hosts that know of the run: its own, before it begins its pool's first of all."""
    pool = all_hosts(run.record).hosts[:1] if waits(run) else ()
    return tuple(dict.fromkeys((*pool, *hosts_of(run))))


def way(run: Open, host: Host) -> Target:
    """Return how one of them is reached."""
    return target(all_hosts(run.record), host.name)
