"""The whole of it on ssh hosts that have sshd, Python and a compiler: a net learns on two of them.

Horovod's wheel is this machine's where it has one, else the first host builds it, which takes
minutes.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.real.conftest import HOROVOD, log, until
from tests.real.slurm_install import share_wheels
from tests.real.ssh import SSH, outcome

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.ssh import SshProject

DIGITS = (
    *(each for each in (*SSH, *HOROVOD) if not each.startswith(("entry_script", "compute.hosts"))),
    *("nodes=2", "entry_script=train_horovod.py"),
    # Twice as many ranks as cores: one that waits must let another one work.
    "dist.mca.mpi_yield_when_idle=1",
)


def wheels(box: SshProject, name: str) -> set[str]:
    """Return the keys of the wheels that a host has."""
    host = next(each for each in box.hosts.all if each.name == name)
    return {each.parent.name for each in _cache(host.user_home).glob("wheels/*/wheel.json")}


def _cache(home: Path) -> Path:
    return home / ".launcher" / "cache"


@pytest.mark.parametrize("names", [("hosta", "hostb"), ("hostc", "hostb"), ("hostb", "hostc")])
def test_two_hosts_train_the_digits(box: SshProject, names: tuple[str, str]) -> None:
    share_wheels()
    for host in box.hosts.all:  # what lies there is of other tests
        shutil.rmtree(_cache(host.user_home), ignore_errors=True)
    box.copy_example("digits")
    words = (*DIGITS, f"compute.hosts=[{','.join(names)}]", "script_params.epochs=8", "wait=true")
    with box.start(*words) as running:
        out, err = running.communicate(timeout=580)
    assert running.returncode == 0, err + box.everything(box.run) if box.runs else err
    assert outcome(box.run)["metrics"]["accuracy"] > 0.8
    assert "[0] epoch 7" in out
    assert "epoch 7" in log(box.run)
    assert "setpgid" not in out + err
    for name in names:
        assert f"{name}: installing torch" in err
        assert f"{name}: Horovod's wheel: from " in err
    # Built once, or not at all: what this machine has is sent.
    assert err.count("building Horovod's wheel") <= 1
    assert wheels(box, names[0]) == wheels(box, names[1]) != set()
    until(lambda: not [each for each in box.running() if "python" in each])
