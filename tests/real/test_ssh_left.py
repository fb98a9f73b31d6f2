"""What a script leaves running on ssh hosts: it ends as the run does, whatever ended that."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.real.conftest import until
from tests.real.ssh import RANKS, SINGLE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.ssh_host import SshHost
    from tests.real.ssh import SshProject

ONE = (*SINGLE, "compute.hosts=[{host: hosta, slots: 1}]")
TWO = (*RANKS, "compute.hosts=[{host: hosta, slots: 1}, {host: hostb, slots: 1}]", "nodes=2")
BOTH = pytest.mark.parametrize("options", [ONE, TWO], ids=["one-host", "two-hosts"])
# Three that outlive their rank: as it is usual, apart from it, and one that does not heed SIGTERM.
LEAVES = """
import signal, subprocess, time
subprocess.Popen(["sleep", "1200"])
subprocess.Popen(["sleep", "1201"], start_new_session=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "1202"], start_new_session=True)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
print("ready", flush=True)
"""
STAYS = f"{LEAVES}time.sleep(600)\n"
# Needs another process of its own to save its work.
SAVES = """
import signal, subprocess, sys, time
worker = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
def save(*_):
    time.sleep(1)
    print(worker.communicate("saved")[0], flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(600)
"""
# Tells of the processes of the run that it is named.
LOOKS = """
import os, sys
found, mark = [], f"LAUNCHER_RUN_ID={sys.argv[-1]}".encode()
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        if mark in open(f"/proc/{pid}/environ", "rb").read().split(b"\\0"):
            found.append(open(f"/proc/{pid}/cmdline").read())
    except OSError:
        pass
print(found)
"""


def started(box: SshProject, options: tuple[str, ...], script: str = STAYS) -> Path:
    """Return a run whose ranks have left something, and go on."""
    box.write("train.py", script)
    run = box.submit(*options)
    hosts = box.hosts.all[: 2 if "nodes=2" in options else 1]
    for rank, host in enumerate(hosts):
        until(lambda rank=rank, host=host: "ready" in box.said(run, rank, host))
    until(lambda: len(list((box.there(run) / "ranks").glob("?.json"))) == len(hosts))
    return run


def kill(host: SshHost, what: str) -> None:
    """Kill those processes on a host whose command lines have that, a pattern."""
    for pid in [pid for pid, words in host.processes().items() if re.search(what, words)]:
        os.kill(pid, signal.SIGKILL)


def supervisor(run: Path) -> str:
    """Return the pattern of a run's supervisor."""
    return rf"/supervise\.py \S+/{run.name}$"


def quiet(box: SshProject) -> None:
    until(lambda: not box.running(), 30)


def test_a_good_end(box: SshProject) -> None:
    box.write("train.py", LEAVES)
    for _ in range(2):  # the second needs what the first had
        run = box.submit(*TWO)
        assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"
        quiet(box)


def test_a_cancelled_run(box: SshProject) -> None:
    run = started(box, TWO)
    assert box.launch("cancel", run.name).stdout == f"{run.name} CANCELLED\n"
    quiet(box)


def test_the_ranks_starter_is_killed(box: SshProject) -> None:
    run = started(box, TWO)
    kill(box.hosts.hostb, "prted")
    box.becomes(run, "FAILED")
    quiet(box)


def test_a_rank_that_has_lost_the_first_host_saves_its_work(box: SshProject) -> None:
    run = started(box, (*TWO, "compute.host_timeout_s=6"), SAVES)
    box.hosts.hosta.unplug()
    until(lambda: "\n" in box.said(run, 1, box.hosts.hostb).removeprefix("ready\n"))
    assert box.said(run, 1, box.hosts.hostb) == "ready\nsaved\n"
    box.hosts.hosta.plug()
    quiet(box)


def test_a_run_that_was_given_up_saves_its_work(box: SshProject) -> None:
    run = started(box, (*TWO, "compute.grace_s=60"), SAVES)
    box.begins(run)
    hosts = box.hosts.all[:2]
    for host in hosts:
        host.cut_off(box.hosts.here)
    done = box.launch("cancel", "--give-up", run.name)
    for host in hosts:
        host.let_through(box.hosts.here)
    assert done.stdout == f"{run.name} CANCELLED\n", done.stderr
    fresh = {"XDG_RUNTIME_DIR": str(box.path)}  # the connections that were cut may be slow
    done = box.launch("cancel", run.name, **fresh)
    assert done.stdout == f"{run.name} CANCELLED\n", done.stderr
    for rank, host in enumerate(hosts):
        assert box.said(run, rank, host) == "ready\nsaved\n"
    quiet(box)


@BOTH
def test_the_supervisor_is_killed(box: SshProject, options: tuple[str, ...]) -> None:
    first = started(box, options)
    box.write("train.py", LOOKS)
    second = box.submit(*options, f"script_params.first={first.name}")
    kill(box.hosts.hosta, supervisor(first))
    assert box.launch("wait", second.name).stdout == f"{second.name} SUCCEEDED\n"
    hosts = box.hosts.all[: 2 if options == TWO else 1]
    assert {box.said(second, rank, host) for rank, host in enumerate(hosts)} == {"[]\n"}
    assert box.becomes(first, "LOST")["exit_status"] is None
    quiet(box)


@BOTH
def test_all_that_watched_it_is_killed(box: SshProject, options: tuple[str, ...]) -> None:
    run = started(box, options)
    for what in (r"/pool/keep\.py", f"{run.name}/pool", supervisor(run)):
        for host in box.hosts.all:
            kill(host, what)
    box.becomes(run, "LOST")
    assert box.running().count("sleep 1202") == (2 if options == TWO else 1)
    assert box.launch("cancel", run.name).stdout == f"{run.name} LOST\n"
    assert not [words for words in box.running() if "sleep 120" in words]
    quiet(box)
