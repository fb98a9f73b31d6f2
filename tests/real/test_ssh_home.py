"""Homes of ssh hosts that are no folders of a plain disk of each one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.nfs import locks
from tests.cluster.user import USER
from tests.real.conftest import state
from tests.real.ssh import RANKS, SshProject

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def nfs(box: SshProject) -> Iterator[SshProject]:
    """The same, but files of hosta can be locked as those of an NFS are."""
    host = box.hosts.hosta
    library = locks(host.user_home / "nfs.so")
    config = host.folder / "ssh" / "sshd_config"
    usual = config.read_text()
    preload = f'"LD_PRELOAD=/home/{USER}/nfs.so"'
    others = [line for line in usual.splitlines() if not line.startswith("SetEnv")]
    old = "".join(line for line in usual.splitlines() if line.startswith("SetEnv"))
    config.write_text("\n".join([*others, f"{old or 'SetEnv'} {preload}"]) + "\n")
    host.restart_sshd(cut=True)
    yield box
    config.write_text(usual)
    host.restart_sshd(cut=True)
    library.unlink()


def test_a_home_on_nfs(nfs: SshProject) -> None:
    nfs.write("train.py", "print('done')\n")
    done = nfs.launch(*RANKS, "procs_per_node=2", "wait=true")
    assert done.returncode == 0, done.stderr
    (run,) = (nfs.path / "runs").glob("[0-9]*")
    assert state(run) == "SUCCEEDED"
    assert not (nfs.there(run) / "code" / "train.py").exists()  # the last rank tidies up
