"""The whole of it on ssh hosts: Horovod's wheel from one to the other, and a net that learns."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.real.conftest import HOROVOD, log
from tests.real.ssh import SSH, horovod_on, outcome

if TYPE_CHECKING:
    from tests.real.ssh import SshProject

DIGITS = (
    *(each for each in (*SSH, *HOROVOD) if not each.startswith(("entry_script", "compute.hosts"))),
    *("compute.hosts=[hosta,hostb]", "nodes=2", "entry_script=train_horovod.py"),
    # Twice as many ranks as cores: one that waits must let another one work.
    "dist.mca.mpi_yield_when_idle=1",
)


def test_two_hosts_train_the_digits(box: SshProject) -> None:
    there = horovod_on(box.hosts.hosta)
    box.copy_example("digits")
    with box.start(*DIGITS, "script_params.epochs=8", "wait=true") as running:
        out, err = running.communicate(timeout=580)
    assert running.returncode == 0, err + box.everything(box.run) if box.runs else err
    assert outcome(box.run)["metrics"]["accuracy"] > 0.8
    assert "[0] epoch 7" in out
    assert "hosta: " in err
    assert "hostb: Horovod's wheel: from the cache" in err
    assert "epoch 7" in log(box.run)
    assert not [each for each in box.left() if "python" in each]
    keys = {Path(each).name for each in there.iterdir() if each.is_dir()}
    other = box.hosts.hostb.user_home / ".launcher" / "cache" / "wheels"
    assert keys <= {each.name for each in other.iterdir()}
