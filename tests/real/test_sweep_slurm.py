"""Sweeps on a real Slurm cluster: arrays, nothing twice, nothing lost, whatever is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.cluster import Cluster
from tests.real.conftest import events, log, state, until
from tests.real.slurm import FINAL, SLURM, UserProject

if TYPE_CHECKING:
    from collections.abc import Iterator

SWEEP = ("-m", *SLURM, "environment.torch=null")
RANKS = ("dist=mpi", "dist.horovod=false")
HELD = "compute.extra={hold: true}"
REPORTS = (
    "import os, sys, launcher\n"
    "lr = float(sys.argv[sys.argv.index('--lr') + 1])\n"
    "launcher.report(score=lr * int(os.environ.get('WORLD_SIZE', 1)))\n"
    "print(lr, os.environ.get('WORLD_SIZE'), os.environ['LAUNCHER_RUN_ID'])\n"
)
WAITS_FOR_GO = (
    "#!/bin/bash\ntouch called\nwhile [ ! -e go ]; do sleep 0.05; done\n"
    'PATH=${PATH#*:} exec sbatch "$@"\n'
)
TASKS = ("squeue", "--noheader", "--array", "--user=launchertest", "--format=%F %K %j %D %t")


@pytest.fixture(scope="module")
def wide(installed: Path) -> Iterator[Cluster]:
    """Four nodes, and arrays of four tasks at most."""
    with Cluster(nodes=4, settings={"MaxArraySize": "4"}) as up:
        yield up


@pytest.fixture
def team(wide: Cluster, installed: Path, request: pytest.FixtureRequest) -> Iterator[UserProject]:
    """An empty project of the plain user's on that cluster."""
    path = wide.project(request.node.name.replace("[", "-").replace("]", ""))
    own = UserProject(path=path, cluster=wide, venv=installed)
    own.write("train.py", REPORTS)
    yield own
    own.clean()


def tasks(team: UserProject) -> list[list[str]]:
    """Return array, task, name, nodes and state of what is queued."""
    return [line.split() for line in team.ask(*TASKS).splitlines()]


def sweep(team: UserProject, *words: str, **env: str) -> tuple[str, str]:
    """Return the id of a sweep that was queued, and what its submit said."""
    done = team.launch(*SWEEP, *words, **env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def points(team: UserProject, sweep_id: str) -> list[dict[str, Any]]:
    text = (team.path / "runs" / ".sweeps" / sweep_id / "points.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines() if line]


def ended(team: UserProject) -> list[Path]:
    until(lambda: all(events(run) and state(run) in FINAL for run in team.runs), 300)
    return team.runs


def test_nine_points_are_three_arrays_and_never_queued_twice(team: UserProject) -> None:
    line = (*RANKS, "nodes=1,2,4", "script_params.lr=0.1,0.01,0.001")
    first, said = sweep(team, *line)
    assert "9 runs queued as 3 job arrays" in said
    runs = ended(team)
    assert len(runs) == 9
    assert [state(run) for run in runs] == ["SUCCEEDED"] * 9, said
    told = sorted(log(run).split()[:2] for run in runs)
    lrs = ("0.001", "0.01", "0.1")
    assert told == sorted([lr, size] for lr in lrs for size in ("1", "2", "4"))
    jobs = {events(run)[-1]["job_id"].partition("_")[0] for run in runs}
    assert len(jobs) == 3

    again, said = sweep(team, *line)
    assert again == first
    assert "9 points are there already (9 SUCCEEDED)" in said
    assert "nothing is left to launch" in said
    assert len(team.runs) == 9

    wider, said = sweep(team, *RANKS, "nodes=1,2,4", "script_params.lr=0.1,0.01,0.001,0.5")
    assert wider != first
    assert "9 points are there already" in said
    assert "3 runs queued" in said
    assert len(ended(team)) == 12
    assert len(points(team, wider)) == 12


def test_arrays_are_split_where_the_site_says(team: UserProject) -> None:
    _, said = sweep(team, HELD, "script_params.lr=range(10)")
    assert "10 runs queued as 3 job arrays" in said
    sizes = [task[0] for task in tasks(team)]
    assert sorted(sizes.count(each) for each in set(sizes)) == [2, 4, 4]


def test_as_many_at_once_as_allowed(team: UserProject) -> None:
    team.write("train.py", "import time; time.sleep(600)\n")
    sweep(team, "compute.max_parallel=1", "script_params.lr=1,2,3")
    until(lambda: [task[4] for task in tasks(team)].count("R") == 1)
    until(lambda: "JobArrayTaskLimit" in team.launch("runs").stdout)


def test_arrays_of_one_sweep_share_what_may_run_at_once(team: UserProject) -> None:
    line = (*SWEEP, "script_params.lr=range(3)")
    for arrays, most, share in (("5", 5, "0-2%5"), ("5,6", 5, "0-2%2"), ("5,6,7", 2, "0-2%1")):
        words = (f"compute.time={arrays}", f"compute.max_parallel={most}")
        plan = team.launch("plan", *line, *words).stdout
        assert plan.count(f"#SBATCH --array={share}\n") == arrays.count(",") + 1, plan


def test_points_may_differ_in_anything(team: UserProject) -> None:
    _, said = sweep(
        team,
        "compute.partition=debug,short",
        "environment=cpu,gpu",
        "compute.time=5,10",
        "script_params.lr=1",
        HELD,
    )
    assert "8 runs queued as 8 job arrays" in said


def test_what_failed_is_launched_again_and_only_that(team: UserProject) -> None:
    team.write("train.py", "import os, sys\nsys.exit(os.path.exists('/tmp/fails'))\n")
    team.write("train.py", "import sys\nsys.exit(sys.argv[-1] == '2' and 3)\n")
    line = ("script_params.x=1,2,3",)
    first, _ = sweep(team, *line)
    assert sorted(state(run) for run in ended(team)) == ["FAILED", "SUCCEEDED", "SUCCEEDED"]
    again, said = sweep(team, *line)
    assert again == first
    assert "2 SUCCEEDED" in said
    assert len(ended(team)) == 4
    _, said = sweep(team, *line, "sweep.rerun_policy=missing")
    assert "nothing is left to launch" in said
    _, said = sweep(team, *line, "sweep.rerun_policy=all")
    assert "3 runs queued" in said
    assert len(points(team, first)) == 3 + 1 + 3


def test_what_changes_the_outcome_makes_other_points(team: UserProject) -> None:
    line = ("script_params.lr=1,2", HELD)
    sweep(team, *line)
    _, said = sweep(team, *line, "name=other")
    assert "nothing is left to launch" in said
    team.write("train.py", REPORTS + "# changed\n")
    _, said = sweep(team, *line)
    assert "2 runs queued" in said
    assert len(tasks(team)) == 4


def test_a_point_that_cannot_be_stops_everything(team: UserProject) -> None:
    line = (*RANKS, "nodes=1,9", "script_params.lr=1,2", HELD)
    done = team.launch(*SWEEP, *line)
    assert done.returncode == 2
    assert "point 2 of 4 (nodes=9 script_params.lr=1)" in done.stderr
    assert "sweep.skip_invalid=true" in done.stderr
    assert tasks(team) == []
    assert not (team.path / "runs").exists()
    _, said = sweep(team, *line, "sweep.skip_invalid=true")
    assert said.count("left out: point") == 2
    assert len(tasks(team)) == 2


def test_a_refusal_half_way_keeps_what_is_queued_and_loses_nothing(team: UserProject) -> None:
    """The second array's option is one that only sbatch itself refuses."""
    line = ("compute.extra.switches=0,nonsense", "script_params.lr=1,2", HELD)
    done = team.launch(*SWEEP, *line)
    assert done.returncode == 3, done.stderr
    assert "2 of 4 runs of sweep" in done.stderr
    assert "The same command queues the rest" in done.stderr
    assert len(tasks(team)) == 2
    assert len(team.runs) == 2


def test_cancel_ends_all_of_a_sweep(team: UserProject) -> None:
    team.write("train.py", "import time; print('ready', flush=True); time.sleep(600)\n")
    sweep_id, _ = sweep(team, "compute.max_parallel=1", "script_params.lr=1,2,3")
    until(lambda: [task[4] for task in tasks(team)].count("R") == 1)
    until(lambda: any((run / "logs" / "rank-0.log").exists() for run in team.runs))
    done = team.launch("cancel", sweep_id)
    assert done.returncode == 0, done.stderr
    until(lambda: tasks(team) == [])
    assert {team.shown(run) for run in team.runs} == {"CANCELLED"}


def test_a_sweep_that_is_being_submitted_is_waited_for_and_cancelled(team: UserProject) -> None:
    """The first of two arrays is on its way, for as long as its sbatch waits for a file."""
    sbatch = team.write("bin/sbatch", WAITS_FOR_GO)
    sbatch.chmod(0o755)
    env = {"PATH": f"{sbatch.parent}:{team.env['PATH']}"}
    submit = team.start(*SWEEP, HELD, "compute.time=5,6", "script_params.lr=1,2", **env)
    until((team.path / "called").exists)
    (sweep_id,) = (each.name for each in (team.path / "runs/.sweeps").glob("2*"))
    waiting = team.start("wait", sweep_id)
    cancelling = team.start("cancel", sweep_id)
    until((team.path / f"runs/.sweeps/{sweep_id}/stop").exists)
    assert (waiting.poll(), cancelling.poll(), submit.poll()) == (None, None, None)
    team.write("go", "")
    _, said = submit.communicate(timeout=300)
    assert submit.returncode == 3
    assert f"2 of 4 runs of sweep {sweep_id} are queued" in said
    assert "cancelled meanwhile" in said
    out, said = cancelling.communicate(timeout=300)
    assert cancelling.returncode == 0, said
    assert "2 CANCELLED, 2 NOT RUN" in out
    out, said = waiting.communicate(timeout=300)
    assert waiting.returncode == 130, said
    assert tasks(team) == []
    _, said = sweep(team, HELD, "compute.time=5,6", "script_params.lr=1,2")
    assert "4 runs queued as 2 job arrays" in said


def test_a_task_that_is_preempted_goes_on(team: UserProject) -> None:
    team.write(
        "train.py",
        "import os, time\nn = os.environ['LAUNCHER_RESTART_COUNT']\nprint('ready', n, flush=True)\n"
        "time.sleep(0 if n == '1' else 600)\n",
    )
    sweep(team, "script_params.lr=1,2")
    until(lambda: sum((r / "logs/rank-0.log").exists() for r in team.runs) == 2)
    until(lambda: all("ready 0" in log(run) for run in team.runs))
    (first, second) = team.runs
    team.ask("scontrol", "requeue", events(first)[-1]["job_id"])
    team.requeue_now(first)
    assert team.ends(first) == "SUCCEEDED", team.everything(first)
    assert "ready 1" in log(first)
    assert state(second) == "RUNNING"
    assert "Slurm" not in team.launch("explain", second.name).stdout


KILLS = Path(__file__).with_name("kills.py")


def test_a_submit_that_is_killed_anywhere_loses_and_doubles_nothing(team: UserProject) -> None:
    """Here some of the points in time; the whole row: python tests/bench/bench_kills.py."""
    count = int(os.environ.get("LAUNCHER_TEST_KILLS", "24"))
    program = team.write("kills.py", KILLS.read_text())
    python = str(team.venv / "bin" / "python")
    line = (*SWEEP, HELD, "compute.time=5,6", "script_params.lr=1,2,3")
    done = team.cluster.run(
        (python, str(program), str(count), *line), cwd=team.path, env=team.env, timeout_s=1100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["killed"] >= count // 4, told  # an act, or a time, may be too late
    assert told["wrong"] == [], told
