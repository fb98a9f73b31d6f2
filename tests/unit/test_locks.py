"""Locks of the kernel, here and as an NFS has them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from launcher.locks import is_locked, use
from tests.cluster.nfs import locks

if TYPE_CHECKING:
    from pathlib import Path

LOOKS = """
import sys
from launcher.locks import is_locked
from launcher.ssh.agent.disk import unbuilt
shared = is_locked(sys.argv[1], shared=True)
try:
    with unbuilt([sys.argv[1]]):
        assert not shared
except BlockingIOError:
    assert shared
sys.exit(shared + 2 * is_locked(sys.argv[1]))
"""
IN_USE, TAKEN = 1, 2


@pytest.mark.parametrize("nfs", [False, True])
def test_who_looks_is_told_what_is_in_use(tmp_path: Path, *, nfs: bool) -> None:
    file = tmp_path / "build.log"
    file.touch()
    env = {"LD_PRELOAD": str(locks(tmp_path / "nfs.so"))} if nfs else {}

    def look() -> int:
        words = (sys.executable, "-c", LOOKS, str(file))
        return subprocess.run(words, env={**os.environ, **env}, check=False).returncode

    assert look() == 0
    used = use(str(file))
    assert used is not None
    assert look() == IN_USE
    os.close(used)
    assert look() == 0
    with file.open("ab") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        assert look() == IN_USE | TAKEN


def test_what_may_not_be_written_is_looked_at_all_the_same(tmp_path: Path) -> None:
    assert not is_locked(str(tmp_path / "none"), shared=True)
    used = use(str(tmp_path))
    assert used is not None
    assert is_locked(str(tmp_path), shared=True)  # a folder
    os.close(used)
    assert not is_locked(str(tmp_path), shared=True)
