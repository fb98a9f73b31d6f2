"""Full disks of ssh hosts at each step of a run: what is told, and that nothing is lost."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.real.conftest import log, until
from tests.real.held import held
from tests.real.slurm import WAITS
from tests.real.ssh import SINGLE, TWO_HOSTS, outcome, write_much
from tests.real.test_ssh_cut import USES_IT, building, slow

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.ssh_host import SshHost
    from tests.real.ssh import SshProject

MB = 1 << 20


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Check that a submit said these words, and how to go on."""
    assert done.returncode == 3, done.stderr
    for word in (*words, "No space left on device", "compute.workdir"):
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def ended(running: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Return how a submit ended, and what it said."""
    out, err = running.communicate(timeout=180)
    return subprocess.CompletedProcess(running.args, running.returncode, out, err)


def runs_there(box: SshProject, host: SshHost) -> set[Path]:
    return {*(host.user_home / ".launcher" / "runs").glob("2*")}


def test_a_host_that_never_had_room(box: SshProject) -> None:
    box.write("train.py", "print('here')\n")
    host = box.hosts.hosta
    ours = host.user_home / ".launcher"
    box.launch("plan", *SINGLE)
    ours.rename(ours.with_name("away"))
    host.fill()
    refused(box.launch(*SINGLE), "hosta", str(ours).rpartition("/home/")[2])
    host.relieve()
    done = box.launch(*SINGLE, "wait=true")
    assert done.stdout == "here\n", done.stderr


def test_code_that_finds_no_room(box: SshProject) -> None:
    write_much(box)
    box.launch("plan", *TWO_HOSTS)
    host = box.hosts.hostb
    objects = host.user_home / ".launcher" / "objects"
    before, known = len(list(objects.glob("*/*"))), runs_there(box, host)
    with held(box, "hostb put 8", *TWO_HOSTS) as (running, go_on):
        until(lambda: len(list(objects.glob("*/*"))) > before + 3)
        host.fill()
        go_on()
        done = ended(running)
    refused(done, "hostb")
    assert box.runs == []
    assert runs_there(box, host) == known
    assert not list(objects.glob("*/*.new"))
    host.relieve()
    done = box.launch(*TWO_HOSTS, "wait=true", "script_params.again=true")
    assert done.returncode == 0, done.stderr
    assert log(box.run) == f"{40 * 4 * MB}\n"


def test_an_environment_that_finds_no_room(box: SshProject) -> None:
    box.write("train.py", USES_IT)
    host = box.hosts.hosta
    go, words = slow(host, "room")
    runs = runs_there(box, host)
    with box.start(*words) as running:
        until(lambda: building(host))
        host.fill()
        go.touch()
        done = ended(running)
    refused(done, "hosta")
    assert box.runs == []
    assert runs_there(box, host) == runs
    until(lambda: box.left() == [])
    host.relieve()
    done = box.launch(*words, "wait=true")
    assert done.stdout == "here\n", done.stderr


def test_the_end_of_a_run_is_told_on_a_full_disk(box: SshProject) -> None:
    box.write("train.py", WAITS + "for n in range(20): print(str(n) * 300)\nraise SystemExit(3)\n")
    run = box.submit(*SINGLE)
    until(lambda: "ready" in box.said(run))
    box.hosts.hosta.fill()
    (box.there(run) / "go").touch()
    told = box.becomes(run, "FAILED", "LOST")
    assert (told["state"], told["exit_status"]) == ("FAILED", 3), told
    assert "19" * 300 in "".join(told["failed"]["last_lines"])
    assert outcome(run)["state"] == "FAILED"
    until(lambda: box.left() == [])


def test_a_full_disk_of_another_host(box: SshProject) -> None:
    box.write("train.py", WAITS)
    run = box.submit(*TWO_HOSTS)
    until(lambda: all("ready" in box.said(run, rank) for rank in (0, 1)))
    until(lambda: all("ready" in box.said(run, rank, box.hosts.hostb) for rank in (2, 3)))
    box.hosts.hostb.fill()
    for host in box.hosts.all[:2]:
        (box.there(run, host) / "go").touch()
    told = box.becomes(run, "SUCCEEDED", "FAILED", "LOST")
    assert told["state"] == "SUCCEEDED", told
    assert log(run) == "ready\nend\n"
    until(lambda: box.left() == [])
    assert [each["state"] for each in json.loads(box.launch("runs", "--json").stdout)] == [
        "SUCCEEDED"
    ]


@pytest.mark.parametrize("moment", ["code.tree", "run.json", "job", "logs/launch.log"])
def test_a_start_that_finds_no_room(box: SshProject, moment: str) -> None:
    box.write("train.py", WAITS)
    host = box.hosts.hosta
    box.launch("plan", *SINGLE)
    known = runs_there(box, host)
    with box.start(*SINGLE) as running:
        until(lambda: [run for run in runs_there(box, host) - known if (run / moment).exists()])
        host.fill()
        done = ended(running)
    told = json.loads(box.launch("runs", "--json").stdout)
    if done.returncode:
        refused(done, "hosta")
        assert told == []
        assert runs_there(box, host) == known
    else:
        run = box.path / "runs" / done.stdout.strip()
        host.relieve()  # what could not even begin does so now
        box.becomes(run, "RUNNING", "FAILED")
        (box.there(run) / "go").touch()
        end = box.becomes(run, "SUCCEEDED", "FAILED")  # of its ranks, which may have had no room
        assert end["state"] == "SUCCEEDED" or "No space left on device" in end["reason"]
    until(lambda: box.left() == [])
    host.relieve()
    done = box.launch(*SINGLE)
    run = box.path / "runs" / done.stdout.strip()
    until(lambda: "ready" in box.said(run))
    (box.there(run) / "go").touch()
    assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"


def test_a_folder_here_that_takes_nothing_more(box: SshProject) -> None:
    box.write("train.py", "import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
    slots = "compute.hosts=[{host: hosta, slots: 2}]"
    run, other = box.submit(*SINGLE, slots), box.submit(*SINGLE, slots)
    for each in (run, other):
        until(
            lambda each=each: "ready" in box.said(each) and box.status(each)["state"] == "RUNNING"
        )
    kept = [run / "events.jsonl", run / "logs"]
    for each in kept:
        each.chmod(0o500)
    for log_of in (run / "logs").iterdir():
        log_of.unlink()
    told = box.status(run)
    assert told["state"] == "RUNNING"
    assert f"cannot be kept here, in {run}: Permission denied" in told["reason"]
    (other / "logs" / "rank-0.log").unlink()  # it is brought again
    listed = json.loads(box.launch("runs", "--json").stdout)
    assert [each["reason"] for each in listed] == [told["reason"], ""]
    assert log(other) == "ready\n"
    done = box.launch("logs", run.name)
    assert told["reason"] in done.stderr
    assert done.returncode == 0
    # It is ended all the same, and all is told once there is a place for it.
    with box.start("cancel", run.name) as cancelling:
        until(lambda: "CANCELLED" in (box.there(run) / "events.jsonl").read_text())
        for each in kept:
            each.chmod(0o700)
        out, err = cancelling.communicate(timeout=60)
    assert out == f"{run.name} CANCELLED\n", err
    assert log(run) == "ready\n"
    assert box.launch("cancel", other.name).stdout == f"{other.name} CANCELLED\n"
