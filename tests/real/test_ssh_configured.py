"""What users have in their own files, here and on hosts, for their prompts, breaks no run."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.cluster import sshd
from tests.cluster.user import USER, give, lay
from tests.real.conftest import log, until
from tests.real.slurm import WAITS
from tests.real.ssh import RANKS, SINGLE, SshProject
from tests.real.test_ssh_leases import end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.ssh_host import SshHost

BOTH = (*RANKS, "compute.hosts=[{host: hosta, slots: 2}, {host: hostb, slots: 2}]", "nodes=2")
FISH = r"""#!/bin/sh
case $SSH_ORIGINAL_COMMAND in
[A-Z_]*=*\;*) echo "fish: Unsupported use of '='" >&2; exit 127 ;;
*) exec sh -c "$SSH_ORIGINAL_COMMAND" ;;
esac
"""


@contextlib.contextmanager
def has(host: SshHost, name: str, text: str) -> Iterator[None]:
    """Have a file in the user's home on a host."""
    lay(host.user_home, {name: text})
    try:
        yield
    finally:
        (host.user_home / name).unlink()


# ------------------------------------------------------------------ ssh's, on hosts


def test_a_run_does_not_end_with_another_one_whose_ssh_came_first(box: SshProject) -> None:
    box.write("train.py", WAITS)
    shares = "ControlMaster auto\nControlPath ~/.ssh/master-%C\n"
    with has(box.hosts.hosta, ".ssh/config", shares):
        first, second = box.submit(*BOTH), box.submit(*BOTH)
        for run in (first, second):
            until(lambda run=run: "ready" in box.said(run, 1, box.hosts.hostb), 60)
        assert box.launch("cancel", first.name).stdout == f"{first.name} CANCELLED\n"
        end(box, second)
    assert log(second, 1) == "ready\nend\n"


@pytest.mark.parametrize(
    "line",
    [
        "RemoteCommand uptime",
        "LogLevel DEBUG",
        "PermitLocalCommand yes\nLocalCommand echo never",
    ],
)
def test_what_hosts_say_of_ssh_for_a_prompt_is_not_for_runs(box: SshProject, line: str) -> None:
    box.write("train.py", "print('here')\n")
    with has(box.hosts.hosta, ".ssh/config", f"{line}\n"):
        done = box.launch(*BOTH, "wait=true")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[0] here", "[1] here"]


# ------------------------------------------------------------------ ssh's, here


def test_a_command_ends_by_itself_though_another_shares_its_connection(box: SshProject) -> None:
    box.write("train.py", WAITS)
    shares = f"  ControlMaster auto\n  ControlPath {box.path}/master\n"
    config = box.write("ssh_config", box.hosts.config.read_text() + shares)
    config.chmod(0o600)
    give(box.path)
    words = (*SINGLE, f"compute.ssh_config={config}", "compute.hosts=[{host: hosta, slots: 2}]")
    first, second = box.submit(*words), box.submit(*words)
    with box.start("logs", "-f", first.name) as one:
        assert one.stdout
        assert one.stdout.readline() == "ready\n"
        with box.start("logs", "-f", second.name) as other:
            assert other.stdout
            assert other.stdout.readline() == "ready\n"
            (box.there(first) / "go").touch()
            try:
                assert one.communicate(timeout=60)[0] == "end\n"
                assert other.poll() is None
            finally:
                (box.there(second) / "go").touch()
            assert other.communicate(timeout=60)[0] == "end\n"


def test_a_key_that_only_this_machine_has_is_no_way_between_hosts(box: SshProject) -> None:
    box.write("train.py", "pass\n")
    config = box.write("ssh_config", box.hosts.config.read_text() + "  ForwardAgent yes\n")
    config.chmod(0o600)
    give(box.path)
    agent, key = str(box.path / "agent"), box.hosts.hosta.user_home / sshd.KEY
    kept = key.read_text()
    with box.hosts.start(("ssh-agent", "-D", "-a", agent), cwd=box.path) as started:
        key.unlink()
        try:
            until(lambda: os.path.exists(agent))
            own = {"SSH_AUTH_SOCK": agent}
            added = box.hosts.run(("ssh-add", box.hosts.home() / sshd.KEY), env=own)
            assert added.returncode == 0, added.stderr
            words = (
                "hosta cannot ssh to hostb",
                "Permission denied",
                "ssh-keygen, if it has no key",
            )
            options = (*BOTH, f"compute.ssh_config={config}")
            # None of its connections is shared: the first one says whether agents are forwarded.
            box.refused(*options, status=3, words=words, XDG_RUNTIME_DIR=str(box.path), **own)
        finally:
            lay(box.hosts.hosta.user_home, {sshd.KEY: kept})
            started.terminate()


# ------------------------------------------------------------------ login scripts


def test_what_a_login_script_prints_without_an_end_of_line_is_no_answer(box: SshProject) -> None:
    box.write("train.py", "print('here')\n")
    title = "printf '\\033]0;title\\007'\n"
    with has(box.hosts.hosta, ".bashrc", title), has(box.hosts.hostb, ".bashrc", title):
        # No connection that was there before.
        done = box.launch(*BOTH, "wait=true", XDG_RUNTIME_DIR=str(box.path))
    assert done.returncode == 0, done.stderr
    assert {"[0] here", "[1] here"} <= {*done.stdout.splitlines()}


@contextlib.contextmanager
def forces(box: SshProject, command: str) -> Iterator[None]:
    """Have the user's commands on two hosts run by this one."""
    files = [(host, host.folder / "ssh" / "sshd_config") for host in box.hosts.all[:2]]
    kept = files[0][1].read_text()
    try:
        for host, file in files:
            file.write_text(f"{kept}ForceCommand {command}\n")
            host.restart_sshd(cut=True)
        yield
    finally:
        for host, file in files:
            file.write_text(kept)
            host.restart_sshd(cut=True)


def test_a_shell_that_is_not_like_sh_starts_the_ranks_of_another_host(box: SshProject) -> None:
    box.write("train.py", "print('here')\n")
    for host in box.hosts.all[:2]:
        lay(host.user_home, {"fish": FISH})
        (host.user_home / "fish").chmod(0o755)
    with forces(box, "./fish"):
        said = box.hosts.ssh("hosta", "A=b; export A")
        assert (said.returncode, said.stderr) == (127, "fish: Unsupported use of '='\n")
        done = box.launch("doctor", *BOTH)
        assert done.returncode == 0, done.stdout
        done = box.launch(*BOTH, "wait=true")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["[0] here", "[1] here"]


@pytest.mark.parametrize("name", ["Ada B", "Ada's", r"DOM\\ada"])
def test_a_home_that_mpirun_cannot_be_told_of(box: SshProject, name: str) -> None:
    box.write("train.py", "pass\n")
    home = f"/home/{USER}/{name}".replace("\\\\", "\\")
    for host in box.hosts.all[:2]:
        (host.user_home / home.rpartition("/")[2]).mkdir(exist_ok=True)
        give(host.user_home)
    fresh = {"XDG_RUNTIME_DIR": str(box.path)}
    with forces(box, f'export HOME="/home/{USER}/{name}"; exec sh -c "$SSH_ORIGINAL_COMMAND"'):
        words = (f"compute.workdir: {home + '/.launcher'!r} on hosta is no path that mpirun can",)
        said = box.refused(*SINGLE, status=2, words=words, **fresh)
        assert "compute.workdir=/path names another. Letters, digits and" in said
        done = box.launch("doctor", *SINGLE, **fresh)
        assert done.returncode == 1
        assert f"hosta: compute.workdir: {home + '/.launcher'!r} is no path" in done.stdout
        workdir = f"compute.workdir=/home/{USER}/.launcher"
        assert box.launch(*SINGLE, workdir, "wait=true", **fresh).returncode == 0
