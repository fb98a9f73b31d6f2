"""Networks that fail and sshd that starts again, at each step of a run on ssh hosts."""

from __future__ import annotations

import io
import json
import random
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.user import USER, give
from tests.real.conftest import log, state, until
from tests.real.held import held
from tests.real.slurm import WAITS
from tests.real.slurm_install import small_wheel
from tests.real.ssh import SINGLE, TWO_HOSTS, write_much

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cluster.ssh_host import SshHost
    from tests.real.ssh import SshProject

MB = 1 << 20
SOON = "compute.connect_timeout_s=4"  # which is enough where it is slow, too
QUICK = "compute.host_timeout_s=6"
PACKAGE = "launcher_tests_slow"
USES_IT = f"import {PACKAGE} as slow\nprint(slow.WORD)\n"
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = """\
import os, shutil, time
def build_wheel(to, *_):
    while not os.path.exists("{folder}/go"):
        time.sleep(0.05)
    shutil.copy("{folder}/whole/{wheel}", to)
    return "{wheel}"
"""
SAYS_MORE = """\
import os, time
print("ready", flush=True)
while not os.path.exists(os.environ["LAUNCHER_RUN_DIR"] + "/more"):
    time.sleep(0.05)
print("more", flush=True)
time.sleep(3600)
"""
GIVES_UP_S = 60  # ssh asks three times whether the other end lives, every five seconds


def ended(
    running: subprocess.Popen[str], within_s: float = 180
) -> subprocess.CompletedProcess[str]:
    """Return how a command ended, and what it said."""
    out, err = running.communicate(timeout=within_s)
    return subprocess.CompletedProcess(running.args, running.returncode, out, err)


def slow(host: SshHost, name: str) -> tuple[Path, tuple[str, ...]]:
    """Have a package there that is built once a file `go` is there; return it, and who wants it."""
    folder = host.user_home / name
    small_wheel(folder / "whole", PACKAGE)
    backend = BACKEND.format(folder=f"/home/{USER}/{name}", wheel=f"{PACKAGE}-1.0-py3-none-any.whl")
    files = {"pyproject.toml": PYPROJECT, "backend.py": backend}
    with tarfile.open(folder / f"{PACKAGE}-1.0.tar.gz", "w:gz") as sdist:
        for path, text in files.items():
            about = tarfile.TarInfo(f"{PACKAGE}-1.0/{path}")
            about.size = len(text)
            sdist.addfile(about, io.BytesIO(text.encode()))
    give(folder)
    args = f"environment.pip_args=[--no-index,--find-links=/home/{USER}/{name}]"
    return folder / "go", (*SINGLE, SOON, f"environment.pip_packages=[{PACKAGE}]", args)


def building(host: SshHost) -> bool:
    """Return whether it is at it."""
    return any("build_wheel" in words for words in host.processes().values())


def ready(box: SshProject, *words: str, script: str = WAITS) -> Path:
    """Return a run whose ranks have begun."""
    box.write("train.py", script)
    run = box.submit(*words)
    hosts = box.hosts.all[: 2 if "nodes=2" in words else 1]
    until(lambda: all("ready" in box.said(run, 2 * n, host) for n, host in enumerate(hosts)))
    ranks = 4 if len(hosts) > 1 else 1  # of all of which the supervisor has heard
    until(lambda: len(list((box.there(run) / "ranks").glob("?.json"))) == ranks)
    box.begins(run)
    return run


def listed(box: SshProject) -> list[dict[str, Any]]:
    """Return what `launcher runs` tells."""
    done = box.launch("runs", "--json")
    assert done.returncode == 0, done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def let_go(box: SshProject, run: Path) -> None:
    for host in box.hosts.all:
        if box.there(run, host).exists():
            (box.there(run, host) / "go").touch()


# ------------------------------------------------------------------ a build


def unplugged(host: SshHost) -> None:
    host.unplug()


def sshd_restarted(host: SshHost) -> None:
    host.restart_sshd(cut=True)


@pytest.mark.parametrize("breaks", [unplugged, sshd_restarted])
def test_a_build_that_is_cut_off(box: SshProject, breaks: Callable[[SshHost], None]) -> None:
    box.write("train.py", USES_IT)
    host = box.hosts.hosta
    go, words = slow(host, breaks.__name__)
    with box.start(*words) as running:
        until(lambda: building(host))
        before = time.monotonic()
        breaks(host)
        done = ended(running)
    assert time.monotonic() - before < GIVES_UP_S
    assert done.returncode == 3, done.stderr
    assert "hosta: the connection ended" in done.stderr
    assert box.runs == []
    host.plug()
    until(lambda: box.left() == [])
    go.touch()
    done = box.launch(*words, "wait=true")
    assert done.stdout == "here\n", done.stderr


def test_a_build_that_is_killed(box: SshProject) -> None:
    box.write("train.py", USES_IT)
    go, words = slow(box.hosts.hosta, "killed")
    with box.start(*words) as running:
        until(lambda: building(box.hosts.hosta))
        running.kill()
    until(lambda: box.left() == [])
    go.touch()
    done = box.launch(*words, "wait=true")
    assert done.stdout == "here\n", done.stderr
    until(lambda: "SUBMITTING" not in [each["state"] for each in listed(box)])
    killed, again = listed(box)
    assert (killed["state"], again["state"]) == ("LOST", "SUCCEEDED")
    assert killed["reason"]


def test_a_short_cut_costs_a_build_nothing(box: SshProject) -> None:
    box.write("train.py", USES_IT)
    host = box.hosts.hosta
    go, words = slow(host, "short")
    with box.start(*words, "wait=true") as running:
        until(lambda: building(host))
        host.unplug()
        go.touch()
        until(lambda: not building(host))
        host.plug()
        done = ended(running)
    assert done.stdout == "here\n", done.stderr


# ------------------------------------------------------------------ code, and the start


def test_sshd_starts_again_while_code_travels(box: SshProject) -> None:
    write_much(box)
    box.launch("plan", *SINGLE)
    host = box.hosts.hosta
    objects = host.user_home / ".launcher" / "objects"
    before = len(list(objects.glob("*/*")))
    with held(box, "hosta put 8", *SINGLE) as (running, go_on):
        until(lambda: len(list(objects.glob("*/*"))) > before + 3)
        host.restart_sshd(cut=True)
        go_on()
        done = ended(running)
    assert done.returncode == 3, done.stderr
    assert "hosta: the connection ended" in done.stderr
    assert box.runs == []
    until(lambda: box.left() == [])
    done = box.launch(*SINGLE, "wait=true")
    assert done.stdout == f"{40 * 4 * MB}\n", done.stderr


@pytest.mark.parametrize("moment", ["run.json", "job", "events.jsonl"])
def test_the_start_is_cut_off(box: SshProject, moment: str) -> None:
    """What was asked gets there, and no answer comes back."""
    box.write("train.py", WAITS)
    host = box.hosts.hosta
    runs = host.user_home / ".launcher" / "runs"
    box.launch("plan", *SINGLE)
    known = {*runs.glob("2*")}
    with box.start(*SINGLE, SOON) as running:
        until(lambda: [each for each in {*runs.glob("2*")} - known if (each / moment).exists()])
        host.cut_off(box.hosts.here)
        done = ended(running)
    host.let_through(box.hosts.here)
    assert done.returncode in (0, 3), done.stderr
    assert done.returncode == 0 or "hosta" in done.stderr
    told = listed(box)
    assert done.returncode == 3 or len(told) == 1
    for each in told:
        run = box.path / "runs" / each["id"]
        now = box.becomes(run, "RUNNING", "LOST")["state"]
        assert now == "RUNNING" or done.returncode == 3
        if now == "RUNNING":
            let_go(box, run)
            assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"
            assert log(run) == "ready\nend\n"
    until(lambda: box.left() == [])


# ------------------------------------------------------------------ a run that goes on


def test_two_hosts_go_on_without_us(box: SshProject) -> None:
    run = ready(box, *TWO_HOSTS, QUICK, SOON)
    for host in box.hosts.all[:2]:
        host.cut_off(box.hosts.here)
    box.becomes(run, "RUNNING", why="hosta")
    time.sleep(8)  # longer than host_timeout_s: nothing is to come of it
    let_go(box, run)
    until(lambda: "end" in box.said(run))
    for host in box.hosts.all[:2]:
        host.let_through(box.hosts.here)
    assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"
    assert [log(run, rank) for rank in range(4)] == ["ready\nend\n"] * 4
    until(lambda: box.left() == [])


def test_a_host_that_is_not_the_first_is_away_from_here(box: SshProject) -> None:
    run = ready(box, *TWO_HOSTS, SOON)
    box.hosts.hostb.cut_off(box.hosts.here)
    box.becomes(run, "RUNNING", why="hostb cannot be reached")
    assert "hostb cannot be reached" in box.launch("explain", run.name).stdout
    box.hosts.hostb.let_through(box.hosts.here)
    until(lambda: "cannot be reached" not in box.launch("show", run.name).stdout)
    let_go(box, run)
    assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"


def test_two_hosts_that_lose_each_other(box: SshProject) -> None:
    run = ready(box, *TWO_HOSTS, QUICK)
    before = time.monotonic()
    box.hosts.hostb.cut_off(box.hosts.hosta.address)
    box.becomes(run, "FAILED", why="hostb")
    assert time.monotonic() - before < 6 + 60  # what ranks have to end, and mpirun
    until(lambda: box.left() == [])


def test_logs_of_a_host_that_was_lost_come_when_it_is_back(box: SshProject) -> None:
    run = ready(box, *TWO_HOSTS, QUICK, SOON, script=SAYS_MORE)
    host = box.hosts.hostb
    host.cut_off(box.hosts.here)
    for each in box.hosts.all[:2]:
        (box.there(run, each) / "more").touch()
    until(lambda: all("more" in box.said(run, rank, host) for rank in (2, 3)))
    host.let_through(box.hosts.here)
    host.unplug()
    box.becomes(run, "FAILED", why="hostb")
    missing = [rank for rank in (2, 3) if not (run / "logs" / f"rank-{rank}.log").exists()]
    assert missing or "more" not in log(run, 2) + log(run, 3)
    host.plug()
    done = box.launch("fetch", run.name)
    assert done.returncode == 0, done.stderr
    assert [log(run, rank) for rank in (2, 3)] == ["ready\nmore\n"] * 2
    until(lambda: box.left() == [])


def test_commands_wait_for_a_network_that_comes_back(box: SshProject) -> None:
    run = ready(box, *SINGLE, SOON)
    host = box.hosts.hosta
    with box.start("wait", run.name) as waiting:
        assert waiting.stderr
        host.unplug()
        assert "hosta" in waiting.stderr.readline()
        let_go(box, run)
        host.plug()
        done = ended(waiting)
    assert done.stdout == f"{run.name} SUCCEEDED\n", done.stderr


def test_a_cancel_that_gets_nowhere_says_so(box: SshProject) -> None:
    run = ready(box, *SINGLE, SOON)
    host = box.hosts.hosta
    host.unplug()
    before = time.monotonic()
    done = box.launch("cancel", run.name)
    assert time.monotonic() - before < GIVES_UP_S
    assert done.returncode == 1, done.stderr
    assert "hosta" in done.stderr
    assert "Traceback" not in done.stderr
    host.plug()
    assert box.status(run)["state"] == "RUNNING"
    assert box.launch("cancel", run.name).stdout == f"{run.name} CANCELLED\n"
    until(lambda: box.left() == [])


@pytest.mark.parametrize("verb", [("logs", "-f"), ("wait",)])
def test_sshd_starts_again_while_a_run_is_followed(box: SshProject, verb: tuple[str, ...]) -> None:
    run = ready(box, *SINGLE, SOON)
    host = box.hosts.hosta
    with box.start(*verb, run.name) as following:
        until(lambda: [words for words in box.running() if "agent" in words])
        host.restart_sshd(cut=True)
        until(lambda: [words for words in box.running() if "agent" in words])
        let_go(box, run)
        done = ended(following)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("ready\nend\n" if verb[0] == "logs" else f"{run.name} SUCCEEDED\n")
    until(lambda: box.left() == [])


# ------------------------------------------------------------------ results


@pytest.mark.parametrize("which", [0, 1])
def test_results_that_were_half_here(box: SshProject, which: int) -> None:
    size = 64 * MB
    box.write(
        "train.py",
        "import os, random\n"
        "where = os.environ['LAUNCHER_OUTPUT_DIR']\n"
        "name = os.uname().nodename\n"
        "with open(f'{where}/{name}', 'wb') as file:\n"
        f"    file.write(random.Random(name).randbytes({size}))\n",
    )
    host = box.hosts.all[which]
    run = box.submit(*TWO_HOSTS, "procs_per_node=1", SOON)
    until(lambda: '"SUCCEEDED"' in (box.there(run) / "events.jsonl").read_text())
    folder = run / "outputs"
    with held(box, f"{host.name} take 3", "wait", run.name) as (waiting, go_on):
        assert [*run.glob(f".parts/{host.name}.*")]
        host.stop_sshd(cut=True)
        go_on()
        assert waiting.stderr
        assert host.name in waiting.stderr.readline()
        host.start_sshd()
        done = ended(waiting)
    assert done.stdout == f"{run.name} SUCCEEDED\n", done.stderr
    for name in ("hosta", "hostb"):
        assert (folder / name).read_bytes() == random.Random(name).randbytes(size), name
    assert sorted(each.name for each in folder.iterdir()) == ["hosta", "hostb"]
    assert state(run) == "SUCCEEDED"


# ------------------------------------------------------------------ gone for long


def test_a_list_with_hosts_that_are_gone(box: SshProject) -> None:
    box.write("train.py", WAITS)
    hosts = box.hosts.all[:2]
    wait_s = 8
    for host in hosts:
        words = (f"compute.hosts=[{host.name}]", f"compute.connect_timeout_s={wait_s}")
        run = box.submit(*SINGLE, *words)
        box.begins(run)
    box.write("quick.py", "pass\n")
    done = box.launch("environment.torch=null", "entry_script=quick.py")
    assert done.returncode == 0, done.stderr
    for host in hosts:
        host.unplug()
    for _ in range(2):
        before = time.monotonic()
        told = listed(box)
        assert time.monotonic() - before < 2 * wait_s  # for both, side by side
        assert [each["state"] for each in told] == ["RUNNING", "RUNNING", "SUCCEEDED"]
        assert [each["reason"].partition(" ")[0] for each in told] == ["hosta", "hostb", ""]
    done = box.launch("runs")
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1 + 3


def test_a_laptop_that_slept(box: SshProject) -> None:
    """What is left of a connection that died without a word is in nobody's way."""
    run = ready(box, *SINGLE, SOON)
    host = box.hosts.hosta
    assert box.status(run)["reason"] == ""  # by a connection that stays for a minute
    host.unplug()
    assert "hosta" in box.status(run)["reason"]
    host.restart_sshd(cut=True)  # the other end knows no such connection any more, and cannot say
    host.plug()
    until(lambda: box.status(run)["reason"] == "")
    assert box.status(run)["state"] == "RUNNING"
    let_go(box, run)
    assert box.launch("wait", run.name).stdout == f"{run.name} SUCCEEDED\n"
