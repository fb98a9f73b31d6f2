"""Folders of ssh hosts that are not what runs need: what is told, and that NFS will do."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cluster.host import ENVIRONMENT
from tests.cluster.nfs import locks
from tests.cluster.ssh_hosts import SshHosts
from tests.cluster.user import USER, give
from tests.real.conftest import state
from tests.real.ssh import RANKS, SINGLE, TWO_HOSTS, SshProject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OWN_DISK = "compute.workdir=/path names a folder on a disk of each host's own."


def faults(box: SshProject, *options: str) -> list[tuple[str, str, str]]:
    """Return what `launcher doctor` finds: where, what, and what helps."""
    named = [each for each in options if not each.startswith(("entry_script", "compute.grace_s"))]
    done = box.launch("doctor", "--json", *named)
    found = json.loads(done.stdout)["faults"]
    assert done.returncode == (1 if any(each["blocks"] for each in found) else 0)
    return [(each["where"], each["what"], each["fix"]) for each in found if each["blocks"]]


# ------------------------------------------------------------------ NFS


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


@pytest.fixture(scope="module")
def shared(_root: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the user's that hosts of this file share."""
    path = tmp_path_factory.mktemp("shared")
    path.parent.chmod(0o755)
    return give(path)


@pytest.fixture(scope="module")
def sharing(shared: Path) -> Iterator[SshHosts]:
    with SshHosts(keep=(shared,)) as up:
        yield up


@pytest.mark.parametrize("options", [TWO_HOSTS, (*SINGLE, "compute.hosts=[hosta,hostb]")])
def test_hosts_that_share_a_home(
    sharing: SshHosts, shared: Path, installed: Path, options: tuple[str, ...]
) -> None:
    path = shared / f"of-{len(options)}"
    box = SshProject(path=sharing.project(path.name), hosts=sharing, venv=installed)
    box.write("train.py", "print('done')\n")
    where = f"compute.workdir={path}"
    words = (f"launcher: compute.workdir: hosta and hostb share {path}\n  {OWN_DISK}\n",)
    box.refused(*options, where, status=2, words=words)
    box.refused(*options, where, status=2, words=words)  # also with connections that are kept
    assert not (path / "runs").exists()
    assert faults(box, *options, where) == [("hostb", f"it shares {path} with hosta", OWN_DISK)]
    done = box.launch(*SINGLE, where, "wait=true")  # one may have it for itself
    assert done.returncode == 0, done.stderr


def test_a_folder_that_was_copied_is_not_shared(box: SshProject) -> None:
    box.write("train.py", "print('done')\n")
    assert box.launch(*TWO_HOSTS, "wait=true").returncode == 0
    source, target = (each.user_home / ".launcher" for each in box.hosts.all[:2])
    words = ("cp", "-a", source / "machines", target)  # as if that machine was a copy
    subprocess.run(words, env=ENVIRONMENT, check=True)
    assert box.launch(*TWO_HOSTS, "wait=true").returncode == 0
    assert faults(box, *TWO_HOSTS) == []


# ------------------------------------------------------------------ whose, and what runs there


@pytest.mark.parametrize(
    ("owner", "mode", "why"),
    [
        (1, 0o777, "belongs to daemon, who can change what runs there"),
        (0, 0o777, "can be written by other users too, who can change what runs there"),
        (0, 0o1777, "can be written by other users too, who can change what runs there"),
    ],
)
def test_a_folder_that_others_can_change(box: SshProject, owner: int, mode: int, why: str) -> None:
    box.write("train.py", "print('done')\n")
    for host in box.hosts.all[:2]:
        path = host.root / "srv" / f"of-{owner}-{mode:o}"
        path.mkdir()
        os.chown(path, owner, owner)
        path.chmod(mode)
    where = f"compute.workdir=/srv/{path.name}"
    said = f"{where}: /srv/{path.name} {why}"
    fix = "compute.workdir=/path names a folder of your own; one that is not there is made."
    box.refused(*TWO_HOSTS, where, status=3, words=(f"launcher: hosta: {said}\n  {fix}\n",))
    assert faults(box, *TWO_HOSTS, where) == [(name, said, fix) for name in ("hosta", "hostb")]
    assert os.listdir(path) == []
    done = box.launch(*SINGLE, f"{where}/mine", "wait=true")  # a folder of one's own
    assert done.returncode == 0, done.stderr


@pytest.fixture
def noexec(box: SshProject) -> Iterator[SshProject]:
    """The same, but nothing in hosta's homes is run as a program."""

    def mount(how: str) -> None:
        words = ("mount", "-o", f"remount,bind,{how}", "/home")
        subprocess.run(box.hosts.hosta.inside(words), env=ENVIRONMENT, check=True)

    mount("noexec")
    yield box
    mount("exec")


def test_a_folder_that_runs_no_programs(noexec: SshProject) -> None:
    noexec.write("train.py", "print('done')\n")
    built = (*TWO_HOSTS, "environment.provision=venv")
    said = f"/home/{USER}/.launcher is mounted noexec: no program runs there"
    fix = "compute.workdir=/path names a folder on a disk that programs are run from."
    noexec.refused(*built, status=3, words=(f"launcher: hosta: {said}\n  {fix}\n",))
    assert faults(noexec, *built) == [("hosta", said, fix)]
    done = noexec.launch(*SINGLE, "wait=true")  # its Python is the host's own
    assert done.returncode == 0, done.stderr
