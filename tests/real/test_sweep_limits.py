"""Sweeps that are larger than what a user may queue: what fits is queued, nothing is half done."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.cluster.cluster import ACCOUNT, QOS, Cluster
from tests.cluster.user import USER
from tests.real.conftest import until
from tests.real.slurm import SLURM, UserProject
from tests.real.test_sweep_slurm import HELD, KILLS, points, tasks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SWEEP = ("-m", *SLURM, "environment.torch=null", HELD)
FOURTEEN = (*SWEEP, "script_params.lr=range(14)")


@pytest.fixture(scope="module")
def kept(installed: Path) -> Iterator[Cluster]:
    """A cluster that keeps accounts, with arrays of eight tasks at most."""
    with Cluster(accounting="dbd", settings={"MaxArraySize": "8"}) as up:
        yield up


@pytest.fixture
def team(kept: Cluster, installed: Path, request: pytest.FixtureRequest) -> Iterator[UserProject]:
    """An empty project of the plain user's on that cluster; there are no limits afterwards."""
    path = kept.project(request.node.name.replace("[", "-").replace("]", ""))
    own = UserProject(path=path, cluster=kept, venv=installed)
    own.write("train.py", "print('ran')\n")
    yield own
    own.clean()
    for words in (
        ("user", USER, "set", "MaxSubmitJobs=-1", "defaultqos=-1"),
        ("account", ACCOUNT, "set", "GrpSubmitJobs=-1"),
        ("qos", QOS, "set", "MaxSubmitJobsPerUser=-1"),
    ):
        limit(own, *words)


def limit(team: UserProject, *words: str, shows: str = "") -> None:
    """Change a limit, and wait until slurmctld has it."""
    team.ask("sacctmgr", "--immediate", "modify", *words)
    until(lambda: shows in team.ask("scontrol", "--oneliner", "show", "assoc_mgr"))


def queued(team: UserProject) -> list[int]:
    """Return how many tasks each array has."""
    arrays = [task[0] for task in tasks(team)]
    return sorted(arrays.count(each) for each in set(arrays))


def test_what_fits_is_queued_and_the_same_line_queues_the_rest(team: UserProject) -> None:
    limit(team, "user", USER, "set", "MaxSubmitJobs=12", shows="MaxSubmitJobs=12(")
    told = f"MaxSubmitJobs=12 of your association with account {ACCOUNT}"
    plan = team.launch("plan", *FOURTEEN)
    assert f"# beyond a limit: a submit queues 12 now: {told} (0 jobs" in plan.stdout
    assert "# group 1: slurm, 4 runs" in plan.stdout
    (beyond,) = json.loads(team.launch("plan", "--json", *FOURTEEN).stdout)["beyond"]
    assert (beyond["points"], beyond["name"], beyond["value"]) == (2, "MaxSubmitJobs", 12)

    done = team.launch(*FOURTEEN)
    assert done.returncode == 3, done.stderr
    sweep = done.stdout.strip()
    assert f"12 of 14 runs of sweep {sweep} are queued: {told} (0 jobs" in done.stderr
    assert "The same command queues the rest" in done.stderr
    assert queued(team) == [4, 8]
    assert len(team.runs) == 12
    assert [point["run"] for point in points(team, sweep)].count("") == 2
    refs = team.shell("git for-each-ref refs/launcher/runs").stdout.count("\n")
    store = team.shell("git --git-dir ~/.local/share/launcher/store.git for-each-ref").stdout
    assert refs + store.count(sweep) == 12

    full = team.launch(*FOURTEEN)
    assert full.returncode == 3
    assert "0 of 2 runs" in full.stderr
    assert "(12 jobs were in the queue) keeps 2 out" in full.stderr
    assert queued(team) == [4, 8]

    (first, *_) = team.ask("squeue", "--noheader", f"--user={USER}", "--format=%F").split()
    team.ask("scancel", first)
    until(lambda: sum(queued(team)) < 12)
    again = team.launch(*FOURTEEN, "sweep.rerun_policy=missing")
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == sweep
    assert "2 runs queued as 1 job array" in again.stderr


def test_points_that_never_ran_come_before_those_that_did(team: UserProject) -> None:
    limit(team, "account", ACCOUNT, "set", "GrpSubmitJobs=10", shows="GrpSubmitJobs=10(")
    assert "GrpSubmitJobs=10 of account research" in team.launch(*FOURTEEN).stderr
    team.ask("scancel", f"--user={USER}")
    until(lambda: not tasks(team))
    done = team.launch(*FOURTEEN)
    assert "10 of 14 runs" in done.stderr
    runs = {point["point"]: point["run"] for point in points(team, done.stdout.strip())}
    assert all(runs.values())  # the last four too


def test_a_limit_that_does_not_show_is_found_by_asking(team: UserProject) -> None:
    """The default QOS of a user does not, nor what they may use of one before they did."""
    limit(team, "user", USER, "set", f"defaultqos={QOS}")
    limit(team, "qos", QOS, "set", "MaxSubmitJobsPerUser=11")
    # One that shows, and has no effect: what was changed before it has come, too.
    limit(team, "user", USER, "set", "MaxSubmitJobs=99", shows="MaxSubmitJobs=99(")
    done = team.launch(*FOURTEEN, "compute.max_parallel=2")
    assert done.returncode == 3
    assert "11 of 14 runs of sweep" in done.stderr
    assert "QOSMaxSubmitJobPerUserLimit" in done.stderr
    assert "trying again" not in done.stderr
    assert queued(team) == [3, 8]
    assert len(team.runs) == 11
    full = team.launch(*FOURTEEN)
    assert full.returncode == 3
    assert "QOSMaxSubmitJobPerUserLimit" in full.stderr
    assert queued(team) == [3, 8]
    assert len(team.runs) == 11


def test_no_more_than_the_cluster_holds(installed: Path) -> None:
    with Cluster(settings={"MaxJobCount": "10"}) as up:
        own = UserProject(path=up.project("full"), cluster=up, venv=installed)
        own.write("train.py", "print('ran')\n")
        done = own.launch(*FOURTEEN)
        assert done.returncode == 3
        assert "9 of 14 runs" in done.stderr
        assert "MaxJobCount=10 of this cluster keeps 5 out" in done.stderr
        assert queued(own) == [9]


def test_a_submit_that_is_killed_is_whole_again_at_the_limit(team: UserProject) -> None:
    limit(team, "user", USER, "set", "MaxSubmitJobs=6", shows="MaxSubmitJobs=6(")
    program = team.write("kills.py", KILLS.read_text())
    python = str(team.venv / "bin" / "python")
    line = (*SWEEP, "compute.time=5,6", "script_params.lr=1,2,3,4")
    count = os.environ.get("LAUNCHER_TEST_KILLS", "12")
    words = (python, str(program), "--status=3", count, *line)
    done = team.cluster.run(words, cwd=team.path, env=team.env, timeout_s=1100)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] >= int(count) // 4, told
    assert told["wrong"] == [], told
