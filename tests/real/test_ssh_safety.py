"""What can go wrong between here and ssh hosts, and what a run promises then."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.cluster.user import USER, give
from tests.real.conftest import events, log, state, until
from tests.real.held import held
from tests.real.slurm import STUBBORN, WAITS
from tests.real.ssh import SINGLE, TWO_HOSTS, outcome, write_much

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.ssh import SshProject

FOREVER = "import time\nprint('ready', flush=True)\ntime.sleep(600)\n"
QUICK = "compute.host_timeout_s=6"
SOON = "compute.connect_timeout_s=4"  # which is enough where it is slow, too


def started(box: SshProject, *options: str, script: str = WAITS) -> Path:
    """Return a run whose ranks have begun, on each of its hosts."""
    box.write("train.py", script)
    run = box.submit(*options)
    two = "nodes=2" in options
    until(lambda: "ready" in box.said(run))
    until(lambda: not two or "ready" in box.said(run, 3, box.hosts.hostb))
    # The supervisor has heard of all of them.
    until(lambda: len(list((box.there(run) / "ranks").glob("?.json"))) == (4 if two else 1))
    box.begins(run)
    return run


def quiet(box: SshProject) -> None:
    until(lambda: not box.running())


# ------------------------------------------------------------------ hosts that are not reached


def test_a_host_that_is_not_reached_says_why(box: SshProject) -> None:
    box.write("train.py", "pass\n")
    a, b, _ = box.hosts.all
    box.refused(
        *SINGLE, "compute.hosts=[nohost]", status=3, words=("nohost", "no host of this name")
    )
    box.refused(*SINGLE, "compute.hosts=[hosta:2]", status=3, words=("hosta:2", "sshd does not"))
    box.refused(*SINGLE, "compute.python=python9", status=3, words=("hosta", "compute.python"))
    a.stop_sshd(cut=True)
    a.start_sshd()
    a.new_host_key()
    box.refused(*SINGLE, status=3, words=("hosta", "host key", "ssh-keygen -f"))
    a.old_host_key()
    a.refuse()
    box.refused(*SINGLE, status=3, words=("hosta", "refuses this user or key", "ssh-copy-id"))
    a.accept()
    b.stop_sshd(cut=True)
    box.refused(*TWO_HOSTS, status=3, words=("hostb", "Connection refused"))
    b.start_sshd()
    b.unplug()
    box.refused(*TWO_HOSTS, SOON, status=3, words=("hostb", "does not answer"))


def test_a_host_that_the_first_one_does_not_reach(box: SshProject) -> None:
    box.write("train.py", "pass\n")
    box.hosts.hostb.refuse("hosta")
    folders = [host.user_home / ".launcher" / "runs" for host in box.hosts.all[:2]]
    before = [{*there.glob("2*")} for there in folders]
    said = box.refused(
        *TWO_HOSTS, status=3, words=("hosta cannot ssh to hostb", "Permission denied")
    )
    assert "ssh-copy-id" in said
    assert [{*there.glob("2*")} for there in folders] == before


def test_a_host_behind_a_jump_and_another_port(box: SshProject) -> None:
    box.write("train.py", "import os\nprint(os.uname().nodename)\n")
    done = box.launch(*SINGLE, "compute.hosts=[hostc]", "wait=true")
    assert done.stdout == "hostc\n", done.stderr
    done = box.launch(*SINGLE, f"compute.hosts=[{USER}@hostb:2222]", "wait=true")
    assert done.stdout == "hostb\n", done.stderr


def test_hosts_that_differ(box: SshProject) -> None:
    box.write("train.py", "pass\n")
    there = box.hosts.hostb.user_home / "elsewhere"
    there.mkdir(exist_ok=True)
    give(there)
    (box.hosts.hostb.user_home / "python").unlink(missing_ok=True)
    (box.hosts.hostb.user_home / "python").symlink_to("/usr/bin/python3")
    words = ("compute.python", "hosta", "No such file")
    box.refused(*TWO_HOSTS, f"compute.python=/home/{USER}/python", status=3, words=words)


def test_a_full_disk(box: SshProject) -> None:
    box.write("train.py", "pass\n")
    box.launch("plan", *SINGLE)  # our own code is there
    box.hosts.hosta.fill()
    box.refused(*SINGLE, status=2, words=("hosta", "room", "compute.workdir"))
    box.hosts.hosta.relieve()
    run = started(box, *SINGLE)
    box.hosts.hosta.fill()
    until(lambda: box.status(run)["state"] == "RUNNING")
    assert box.launch("cancel", run.name).stdout == f"{run.name} CANCELLED\n"
    quiet(box)


# ------------------------------------------------------------------ cut off, and back


def test_a_network_that_is_gone_for_a_while(box: SshProject) -> None:
    run = started(box, *SINGLE, SOON)
    with box.start("logs", "-f", run.name) as following:
        assert following.stdout
        assert following.stdout.readline() == "ready\n"
        box.hosts.hosta.unplug()
        told = box.status(run)
        assert told["state"] == "RUNNING"
        (box.there(run) / "go").touch()
        until(lambda: "end" in box.said(run))
        box.becomes(run, "RUNNING", why="hosta")
        assert following.stderr
        assert "launcher: hosta" in following.stderr.readline()
        box.hosts.hosta.plug()
        assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"
        assert following.communicate(timeout=180)[0] == "end\n"
    assert log(run) == "ready\nend\n"


def test_a_network_that_fails_while_code_travels(box: SshProject) -> None:
    write_much(box)
    objects = box.hosts.hosta.user_home / ".launcher" / "objects"
    box.launch("plan", *SINGLE)
    before = len(list(objects.glob("*/*")))
    with held(box, "hosta put 8", *SINGLE, "wait=true") as (running, go_on):
        until(lambda: len(list(objects.glob("*/*"))) > before + 3)
        box.hosts.hosta.unplug()
        box.hosts.hosta.stop_sshd(cut=True)
        box.hosts.hosta.plug()
        go_on()
        _, err = running.communicate(timeout=180)
    assert running.returncode == 3, err
    assert "hosta" in err
    assert not list(box.path.glob("runs/*/events.jsonl"))
    box.hosts.hosta.start_sshd()
    done = box.launch(*SINGLE, "wait=true")
    assert done.stdout == f"{40 * (4 << 20)}\n", done.stderr


def test_ctrl_c_ends_a_build_and_leaves_no_run(box: SshProject) -> None:
    box.write("train.py", "pass\n")
    box.hosts.hostc.unplug()  # an index that does not answer: pip tries for minutes
    index = f"environment.pip_args=[--index-url,http://{box.hosts.hostc.address}/]"
    words = (*TWO_HOSTS, index, "environment.pip_packages=[left-pad]")
    folders = [host.user_home / ".launcher" / "runs" for host in box.hosts.all[:2]]
    known = [{*there.glob("2*")} for there in folders]
    with box.start(*words) as running:
        until(lambda: sum("left-pad" in each for each in box.running()) >= 2)
        os.killpg(running.pid, signal.SIGINT)
        _, err = running.communicate(timeout=60)  # pip would take longer
    assert running.returncode == 130, err
    assert not list(box.path.glob("runs/*/events.jsonl"))
    until(lambda: not any("left-pad" in each for each in box.running()))
    assert [{*there.glob("2*")} for there in folders] == known


# ------------------------------------------------------------------ what dies


def test_a_killed_supervisor_leaves_nothing(box: SshProject) -> None:
    run = started(box, *TWO_HOSTS, script=FOREVER)
    host = box.hosts.hosta
    (pid,) = [pid for pid, words in host.processes().items() if words.endswith(run.name)]
    assert "supervise.py" in host.processes()[pid]
    os.kill(pid, signal.SIGKILL)
    quiet(box)
    assert box.becomes(run, "LOST")["reason"]


def test_a_host_that_started_again(box: SshProject) -> None:
    run = started(box, *SINGLE, SOON, script=FOREVER)
    box.hosts.hosta.kill()
    box.becomes(run, "RUNNING", why="hosta")
    refused = box.launch("cancel", run.name)
    assert refused.returncode != 0
    assert f"launcher cancel --give-up {run.name}" in refused.stderr
    box.hosts.hosta.start()
    box.becomes(run, "FAILED", why="hosta")
    assert outcome(run)["state"] == "FAILED"


def test_a_host_that_is_gone_for_good(box: SshProject) -> None:
    run = started(box, *SINGLE, SOON, script=FOREVER)
    box.hosts.hosta.kill()
    done = box.launch("cancel", "--give-up", run.name)
    assert done.stdout == f"{run.name} CANCELLED\n", done.stderr
    told = box.status(run)
    assert (told["state"], told["exit_status"]) == ("CANCELLED", None)
    assert told["reason"].startswith(f"given up: launcher cancel {run.name} ends what it may still")
    assert "hosta cannot be reached" in told["reason"]


@pytest.mark.parametrize("waits", [False, True])
def test_a_run_that_was_given_up_is_ended_once_its_host_is_back(
    box: SshProject, waits: bool
) -> None:
    slot = ("compute.hosts=[{host: hosta, slots: 1}]", "compute.connect_timeout_s=1")
    first = started(box, *SINGLE, *slot, script=FOREVER)
    run = box.submit(*SINGLE, *slot) if waits else first
    if waits:
        assert box.status(run)["state"] == "PENDING"
    box.hosts.hosta.unplug()
    assert box.launch("cancel", "--give-up", run.name).returncode == 0
    away = box.launch("cancel", run.name)
    assert away.returncode == 1
    assert "hosta cannot be reached" in away.stderr
    box.hosts.hosta.plug()
    assert box.running()
    assert box.launch("cancel", "--give-up", run.name).returncode == 0  # changes nothing
    done = box.launch("cancel", run.name)
    assert done.stdout == f"{run.name} CANCELLED\n", done.stderr
    if waits:
        assert box.status(first)["state"] == "RUNNING"
        assert box.launch("cancel", first.name).returncode == 0
    quiet(box)
    assert box.said(run) == ("" if waits else "ready\n")
    assert box.status(run)["reason"] == "given up, and ended later"
    assert box.launch("cancel", run.name).stdout == f"{run.name} CANCELLED\n"


@pytest.mark.parametrize("silent", [False, True])
def test_another_host_dies(box: SshProject, silent: bool) -> None:
    run = started(box, *TWO_HOSTS, QUICK, SOON, script=FOREVER)
    if silent:
        box.hosts.hostb.unplug()
    else:
        box.hosts.hostb.kill()
    box.becomes(run, "FAILED", why="hostb")
    quiet(box)


def test_the_first_host_dies(box: SshProject) -> None:
    run = started(box, *TWO_HOSTS, QUICK, SOON, script=FOREVER)
    box.hosts.hosta.kill()
    # Once the ranks of the other have ended by themselves.
    box.becomes(run, "FAILED", why="hosta cannot be reached")
    assert state(run) == "FAILED"
    quiet(box)


def test_to_cancel_ends_what_the_others_run(box: SshProject) -> None:
    run = started(box, *TWO_HOSTS, QUICK, SOON, script=STUBBORN)
    box.hosts.hosta.unplug()  # silently: nobody has noticed yet
    assert box.launch("cancel", run.name).stdout == f"{run.name} CANCELLED\n"
    at_hostb = box.hosts.hostb.processes().values()
    assert [each for each in at_hostb if "bootstrap" in each] == []
    assert events(run)[-1]["state"] == "CANCELLED"
    box.hosts.hosta.plug()
    quiet(box)
