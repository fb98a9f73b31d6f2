"""Runs of no sweep on ssh hosts: where there is room they start, else they wait their turn."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

from tests.real.conftest import log, until
from tests.real.pools import Holder, names, prepare
from tests.real.slurm import WAITS
from tests.real.ssh import SINGLE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.ssh import SshProject

ONE_EACH = (*SINGLE, "compute.hosts=[{host: hosta, slots: 1}, {host: hostb, slots: 1}]")
BOTH = ("nodes=2", "dist=mpi", "dist.horovod=false")


def started(box: SshProject, *options: str) -> Path:
    """Return a run that waits for the file ``go`` beside its logs."""
    run = box.submit(*options)
    on = box.becomes(run, "RUNNING")["nodes"]
    (host,) = [each for each in box.hosts.all if each.name == on[0]]
    until(lambda: "ready" in box.said(run, host=host))
    return run


def end(box: SshProject, run: Path) -> None:
    for host in box.hosts.all:
        if box.there(run, host).exists():
            (box.there(run, host) / "go").touch()
    assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"


def test_runs_spread_over_hosts_and_wait_their_turn(box: SshProject) -> None:
    box.write("train.py", WAITS)
    first, second = started(box, *ONE_EACH), started(box, *ONE_EACH)
    assert box.status(first)["nodes"] == ["hosta"]
    assert box.status(second)["nodes"] == ["hostb"]
    waiting = box.launch(*ONE_EACH, *BOTH)
    assert "waits until 2 of hosta, hostb have room" in waiting.stderr
    both = box.path / "runs" / waiting.stdout.strip()
    last = box.submit(*ONE_EACH)
    for run in (both, last):
        told = box.status(run)
        assert (told["state"], told["started"]) == ("PENDING", None)
    end(box, second)  # hostb is free: who needs both waits for hosta before it asks for hostb
    assert box.becomes(last, "RUNNING")["nodes"] == ["hostb"]
    end(box, first)
    late = box.submit(*ONE_EACH)  # hosta is kept for who came first
    assert box.status(both)["state"] == box.status(late)["state"] == "PENDING"
    end(box, last)
    assert box.becomes(both, "RUNNING")["nodes"] == ["hosta", "hostb"]
    until(lambda: "ready" in box.said(both, 1, box.hosts.hostb))
    assert box.status(late)["state"] == "PENDING"
    end(box, both)
    assert len(box.becomes(late, "RUNNING")["nodes"]) == 1
    end(box, late)
    assert log(late).endswith("end\n")
    assert box.left() == []


def test_a_run_that_waits_is_cancelled(box: SshProject) -> None:
    box.write("train.py", WAITS)
    words = (*SINGLE, "compute.hosts=[{host: hosta, slots: 1}]")
    first, second = started(box, *words), box.submit(*words)
    assert box.launch("cancel", second.name).stdout == f"{second.name} CANCELLED\n"
    assert box.status(first)["state"] == "RUNNING"
    end(box, first)
    assert box.status(second)["started"] is None
    assert box.left() == []


def test_who_follows_a_run_that_waits_sees_it_cancelled(box: SshProject) -> None:
    box.write("train.py", WAITS)
    words = (*SINGLE, "compute.hosts=[{host: hosta, slots: 1}]")
    first = started(box, *words)
    with box.start(*words, "wait=true") as following:
        assert following.stderr
        assert "waits until there is room" in following.stderr.readline()
        (second,) = {each.name for each in box.path.glob("runs/2*")} - {first.name}
        assert box.launch("cancel", second).stdout == f"{second} CANCELLED\n"
        out, err = following.communicate(timeout=180)
    assert (following.returncode, out) == (130, ""), err
    assert f"launcher: run {second} CANCELLED" in err
    end(box, first)


def test_without_a_lease_all_start_at_once(box: SshProject) -> None:
    box.write("train.py", WAITS)
    first = started(box, *ONE_EACH)
    at_once = [started(box, *ONE_EACH, *more, "compute.lease=false") for more in ((), BOTH)]
    assert [box.status(run)["nodes"] for run in at_once] == [["hosta"], ["hosta", "hostb"]]
    for run in (*at_once, first):
        end(box, run)
    assert box.left() == []


def test_a_run_whose_pool_is_gone_is_told_so(box: SshProject) -> None:
    box.write("train.py", WAITS)
    words = (*SINGLE, "compute.hosts=[{host: hosta, slots: 1}]")
    first, second = started(box, *words), box.submit(*words)
    host = box.hosts.hosta
    (pool,) = [pid for pid, said in host.processes().items() if f"{second.name}/pool" in said]
    os.kill(pool, signal.SIGKILL)
    box.becomes(second, "LOST", why="pool on hosta")
    end(box, first)
    assert box.left() == []


def test_a_host_that_started_again_while_others_wait(box: SshProject) -> None:
    """The pool on the first host lives, and has more to start: that says nothing of this run."""
    box.write("train.py", WAITS)
    first = started(box, *ONE_EACH)
    done = box.launch("-m", *ONE_EACH, "compute.connect_timeout_s=4", "script_params.lr=1,2")
    assert done.returncode == 0, done.stderr
    one, other = sorted({*box.runs} - {first})
    assert box.becomes(one, "RUNNING")["nodes"] == ["hostb"]
    box.hosts.hostb.kill()
    box.becomes(one, "RUNNING", why="hostb")
    box.hosts.hostb.start()
    box.becomes(one, "FAILED", why="hostb was started again")
    assert box.becomes(other, "RUNNING")["nodes"] == ["hostb"]
    end(box, first)
    end(box, other)
    assert box.left() == []


def test_a_host_that_is_down_is_done_without(box: SshProject) -> None:
    box.write("train.py", "import os\nprint(os.uname().nodename)\n")
    box.hosts.hosta.stop_sshd(cut=True)
    done = box.launch(*ONE_EACH, "wait=true")
    assert done.stdout == "hostb\n", done.stderr
    assert "hosta cannot be reached" in done.stderr
    assert "done without it" in done.stderr
    record = json.loads((box.run / "run.json").read_text())
    assert [each["name"] for each in record["hosts"]["hosts"]] == ["hostb"]
    two = box.launch(*ONE_EACH, *BOTH)
    assert (two.returncode, "hosta cannot be reached" in two.stderr) == (3, True), two.stderr
    sweep = box.launch("-m", *ONE_EACH, *BOTH[1:], "nodes=1,2")
    assert sweep.returncode == 2
    assert "nodes=2: of compute.hosts only hostb can be reached" in sweep.stderr
    box.hosts.hosta.start_sshd()


def test_a_run_that_its_pool_could_not_start_is_recorded(box: SshProject) -> None:
    box.write("train.py", "print('here')\n")
    nobody = "compute.hosts=[{host: hosta, address: 198.18.255.254}, hostb]"  # who else is there
    box.shell("git init -q")
    run = box.submit(*SINGLE, *BOTH, nobody)
    ended = box.becomes(run, "FAILED")
    assert "does not reach the first, hosta: " in ended["reason"]
    told = box.shell(f"git log -1 --format=%B refs/launcher/runs/{run.name}")
    assert ended["reason"] in told.stdout, box.everything(run)


def test_a_run_that_is_about_to_start_says_so(box: SshProject) -> None:
    prepare(box.hosts)
    box.write("train.py", "print('here')\n")
    a, b = box.hosts.all[:2]
    with Holder(a) as here, Holder(b) as there:
        assert here.ask() == there.ask() == {"held": 1}
        run = box.submit(*ONE_EACH)
        until(lambda: any(each.startswith("core.") for each in names(b)))
        (pool,) = (pid for pid, words in a.processes().items() if f"{run.name}/pool" in words)
        (hold,) = (
            pid
            for pid, words in b.processes().items()
            if "/pool/hold.py" in words and pid != there.pid
        )
        os.kill(pool, signal.SIGSTOP)
        there.say(drop=True)
        until(lambda: names(b) == {"core-0"})  # the pool's, which has not heard of it
        os.kill(hold, signal.SIGSTOP)
        os.kill(pool, signal.SIGCONT)
        until(lambda: "the run starts on hostb" in box.launch("show", run.name).stdout)
        os.kill(hold, signal.SIGCONT)
        assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"
