"""Fixtures of hosts that tests of every folder share: they are up once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.cluster.ssh_hosts import SshHosts

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def _root() -> None:
    if os.geteuid():
        pytest.skip("hosts are namespaces, which only root makes")


@pytest.fixture(scope="session")
def ssh_hosts(_root: None) -> Iterator[SshHosts]:
    """The hosts that the plain user can ssh to; whoever breaks one mends it: see `hosts`."""
    with SshHosts() as up:
        yield up


@pytest.fixture
def hosts(ssh_hosts: SshHosts) -> Iterator[SshHosts]:
    """The same, for a test that may break them: they are whole again after it, and run nothing."""
    yield ssh_hosts
    ssh_hosts.mend()
