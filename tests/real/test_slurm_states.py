"""States that are true: as the launcher tells them, and as Slurm and the run's folder do."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

import pytest

from launcher.processes import HEARTBEAT_S
from tests.real.conftest import events, log, state, until
from tests.real.slurm import (
    FINAL,
    SINGLE,
    STUBBORN,
    TWO_NODES,
    WAITS,
    job_id,
    ready,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.slurm import UserProject

SAVES = (
    "import signal, sys, time\n"
    "def save(*_):\n    time.sleep(1); print('saved', flush=True); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\ntime.sleep(600)\n"
)


def slurm_says(user: UserProject, run: Path) -> str:
    """Return the job's state in Slurm's books: sacct's where there is one, else scontrol's."""
    if user.cluster.at.accounting == "none":
        return user.job(run)["JobState"]
    words = ("sacct", "-nXP", "-j", job_id(run), "--format=State")
    return user.ask(*words).strip().partition(" ")[0]


# ------------------------------------------------------------------ cancelled


def test_cancel_while_it_waits(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    run = user.submit(*SINGLE, "compute.extra={hold: true}")
    assert user.shown(run) == "PENDING"
    done = user.launch("cancel", run.name)
    assert (done.returncode, done.stdout) == (0, f"{run.name} CANCELLED\n"), done.stderr
    assert user.queued() == []
    assert user.shown(run) == "CANCELLED"
    assert not (run / "logs" / "rank-0.log").exists()


def test_cancel_while_it_starts(user: UserProject) -> None:
    """The scheduler starts what was cancelled a moment before: it says so, and runs nothing."""
    user.write("train.py", "print('ran')\n")
    run = user.submit(*SINGLE, "compute.extra={hold: true}")
    (run / "cancel").touch()
    user.ask("scontrol", "release", str(events(run)[-1]["job_id"]))
    until(lambda: state(run) in FINAL)
    assert state(run) == "CANCELLED"
    assert not (run / "logs" / "rank-0.log").exists()
    assert "failed" not in user.launch("show", run.name).stdout


def test_cancel_while_it_runs_gives_ranks_their_grace(user: UserProject) -> None:
    user.write("train.py", SAVES)
    run = user.submit(*TWO_NODES)
    ready(run, 2)
    done = user.launch("cancel", run.name)
    assert (done.returncode, done.stdout) == (0, f"{run.name} CANCELLED\n"), done.stderr
    assert state(run) == "CANCELLED"
    assert [log(run, rank) for rank in (0, 1)] == ["ready\nsaved\n"] * 2
    until(lambda: user.processes(run) == "")
    until(lambda: user.queued() == [])
    until(lambda: slurm_says(user, run) == "CANCELLED")
    assert user.launch("wait", run.name).returncode == 130


def test_cancel_ends_what_ignores_it(user: UserProject) -> None:
    user.write("train.py", STUBBORN)
    run = user.submit(*TWO_NODES)
    ready(run, 2)
    done = user.launch("cancel", run.name)
    assert done.stdout == f"{run.name} CANCELLED\n", done.stderr
    assert [log(run, rank) for rank in (0, 1)] == ["ready\ntold\n"] * 2
    until(lambda: user.processes(run) == "")


def test_scancel_by_hand_while_it_waits(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    run = user.submit(*SINGLE, "compute.extra={hold: true}")
    user.ask("scancel", job_id(run))
    user.becomes(run, "CANCELLED")
    assert user.launch("wait", run.name).returncode == 130


def test_scancel_by_hand_while_it_runs(user: UserProject) -> None:
    user.write("train.py", SAVES)
    run = user.submit(*TWO_NODES)
    ready(run, 2)
    user.ask("scancel", job_id(run))
    assert user.ends(run) == "CANCELLED", user.everything(run)
    assert [log(run, rank) for rank in (0, 1)] == ["ready\nsaved\n"] * 2
    assert user.shown(run) == "CANCELLED"
    until(lambda: user.processes(run) == "")


def test_a_supervisor_that_is_killed(user: UserProject) -> None:
    user.write("train.py", WAITS)
    run = user.submit(*TWO_NODES)
    ready(run, 2)
    (started,) = [each for each in events(run) if each["state"] == "RUNNING"]
    assert started["host"] == "node1"
    user.cluster.node_exec(1, ("kill", "-KILL", str(started["pid"])))
    user.becomes(run, "FAILED", "LOST")
    until(lambda: user.processes(run) == "")
    until(lambda: user.queued() == [])


def test_a_job_that_is_suspended_for_a_while_goes_on(user: UserProject) -> None:
    user.write("train.py", WAITS)
    run = user.submit(*TWO_NODES)
    ready(run, 2)
    user.ask("scontrol", "suspend", job_id(run))
    time.sleep(HEARTBEAT_S + 1)  # in which its supervisor would have had a look
    user.ask("scontrol", "resume", job_id(run))
    (run / "go").touch()
    assert user.ends(run) == "SUCCEEDED", user.everything(run)
    assert [log(run, rank) for rank in (0, 1)] == ["ready\nend\n"] * 2


# ------------------------------------------------------------------ why it waits, why it failed


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("compute.extra={hold: true}",), "JobHeld"),
        (("compute.extra={begin: now+1hour}",), "BeginTime"),
        (("compute.extra={dependency: 'afterok:BLOCKER'}",), "Dependency"),
        (("nodes=2", "dist=mpi", "dist.horovod=false", "compute.exclusive=true"), "Resources"),
    ],
    ids=["held", "begin", "dependency", "resources"],
)
def test_why_a_job_waits(user: UserProject, words: tuple[str, ...], reason: str) -> None:
    user.write("train.py", "print('ran')\n")
    blocker = user.block("--nodes=1") if reason in ("Dependency", "Resources") else ""
    run = user.submit(*SINGLE, *(word.replace("BLOCKER", blocker) for word in words))
    until(lambda: user.job(run)["Reason"].startswith(reason))
    # Slurm drops the reason for a moment whenever it tries to start the job.
    for words in (("runs",), ("explain", run.name), ("show", run.name, "--json")):
        until(lambda words=words: reason in user.launch(*words).stdout)


def test_a_limit_of_a_qos(user: UserProject) -> None:
    if user.cluster.at.accounting == "none":
        pytest.skip("limits need accounting")
    user.write("train.py", "print('ran')\n")
    user.block("--qos=one")
    run = user.submit(*SINGLE, "compute.qos=one")
    until(lambda: "QOSMaxJobsPerUserLimit" in user.launch("explain", run.name).stdout)


def test_a_missing_module_is_explained_with_an_override(user: UserProject) -> None:
    user.write("train.py", "import einops\n")
    done = user.launch(*SINGLE, "wait=true")
    assert done.returncode == 1
    explained = user.launch("explain", user.run.name)
    assert explained.returncode == 0, explained.stderr
    assert re.search(r"on node\d", explained.stdout)
    assert "no module einops (train.py, line 1)" in explained.stdout
    assert "environment.pip_packages=[einops]" in explained.stdout
    sentence = explained.stdout.splitlines()[0]
    for verb in ("runs", "show"):
        assert sentence[:40] in user.launch(verb).stdout


# ------------------------------------------------------------------ logs


def test_logs_are_followed_while_it_runs_and_after(user: UserProject) -> None:
    user.write("train.py", WAITS)
    run = user.submit(*TWO_NODES)
    following = user.start("logs", "-f", run.name)
    assert following.stdout is not None
    first = sorted(following.stdout.readline() for _ in range(2))
    assert first == ["[0] ready\n", "[1] ready\n"]
    (run / "go").touch()
    out, err = following.communicate(timeout=300)
    assert following.returncode == 0, err
    assert sorted(out.splitlines()) == ["[0] end", "[1] end"]
    after = user.launch("logs", run.name).stdout.splitlines()
    assert sorted(after) == ["[0] end", "[0] ready", "[1] end", "[1] ready"]
    assert user.launch("logs", "--rank", "1", run.name).stdout == "ready\nend\n"


# ------------------------------------------------------------------ one question for all

COUNTS = """#!/bin/sh
echo "$(date +%s.%N) $0 $*" >> "$CALLS"
exec /usr/bin/"$(basename "$0")" "$@"
"""


def counted(user: UserProject, name: str = "calls") -> tuple[Path, dict[str, str]]:
    """Return where calls of Slurm's programs are written, and the environment that does that."""
    for program in ("squeue", "sacct", "scontrol", "sinfo"):
        user.write(f"bin/{program}", COUNTS).chmod(0o755)
    env = {
        "PATH": f"{user.path}/bin:{user.env['PATH']}",
        "CALLS": str(user.path / name),
        "LAUNCHER_CACHE": str(user.path / "cache"),  # no answer of another test's
    }
    return user.path / name, env


def calls(path: Path) -> list[str]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[1].rpartition("/")[2] for line in lines]


def test_many_runs_are_one_question(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    runs = [user.submit(*SINGLE, "compute.extra={hold: true}") for _ in range(3)]
    user.ask("scancel", job_id(runs[0]))
    path, env = counted(user)
    listed = json.loads(user.launch("runs", "--json", **env).stdout)
    assert {each["id"]: each["state"] for each in listed} == {
        runs[0].name: "CANCELLED",
        runs[1].name: "PENDING",
        runs[2].name: "PENDING",
    }
    assert calls(path).count("squeue") == 1, calls(path)
    assert len(calls(path)) <= 2  # for the job that squeue may no longer list


def test_a_floor_that_all_commands_share(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    run = user.submit(*SINGLE, "compute.extra={hold: true}")
    path, env = counted(user)
    env["LAUNCHER_POLL_S"] = "5"
    before = time.monotonic()
    waiting = [user.start("wait", run.name, **env) for _ in range(4)]
    for _ in range(4):
        assert user.launch("show", run.name, **env).returncode == 0
    time.sleep(max(0.0, before + 8 - time.monotonic()))
    for each in waiting:
        each.kill()
        each.communicate()
    most = 1 + (time.monotonic() - before) // 5
    assert 1 <= calls(path).count("squeue") <= most, path.read_text()


def test_nothing_is_asked_about_runs_that_have_ended(user: UserProject) -> None:
    user.write("train.py", "print('ran')\n")
    run = user.submit(*SINGLE)
    assert user.ends(run) == "SUCCEEDED"
    path, env = counted(user)
    assert "SUCCEEDED" in user.launch("runs", **env).stdout
    assert calls(path) == []
    assert [each["state"] for each in events(run)][-1] == "SUCCEEDED"
