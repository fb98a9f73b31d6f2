"""Whose a run is: one job has it, its user alone settles it, and who ends a job must say why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.real.conftest import events, log, until
from tests.real.slurm import SINGLE, WAITS, UserProject, job_id, ready

if TYPE_CHECKING:
    from pathlib import Path

TWICE = (
    "import os, time\n"
    "if os.environ['LAUNCHER_RESTART_COUNT'] != '0': print('again'); raise SystemExit\n"
    "print('ready', flush=True)\ntime.sleep(600)\n"
)


def states(run: Path) -> list[str]:
    return [each["state"] for each in events(run)]


def test_a_second_job_of_a_run_ends_itself(user: UserProject) -> None:
    user.write("train.py", WAITS)
    run = user.submit(*SINGLE)
    ready(run)
    other = user.cluster.run(("sbatch", "--parsable", run / "job.sh"), cwd=user.path)
    assert other.returncode == 0, other.stderr
    asks = ("squeue", "--noheader", "--states=all", f"--jobs={other.stdout.strip()}", "--format=%T")
    until(lambda: user.ask(*asks).strip() == "CANCELLED")
    (run / "go").touch()
    assert user.ends(run) == "SUCCEEDED"
    assert states(run).count("RUNNING") == 1
    assert log(run).count("ready") == 1


def test_who_cannot_see_a_job_settles_nothing(user: UserProject) -> None:
    user.write("train.py", WAITS)
    run = user.submit(*SINGLE, "compute.extra={hold: true}")
    before = (run / "events.jsonl").read_text()
    words = ("launcher", "show", run.name)
    done = user.cluster.run(words, user="root", cwd=user.path, env=user.env)
    assert done.returncode == 0, done.stderr
    assert "PENDING" in done.stdout
    assert f"only {run.owner()}" in done.stdout
    assert (run / "events.jsonl").read_text() == before
    assert user.shown(run) == "PENDING"


def test_a_supervisor_that_is_told_to_end_by_nobody_known(user: UserProject) -> None:
    user.write("train.py", WAITS)
    run = user.submit(*SINGLE)
    ready(run)
    (started,) = [each for each in events(run) if each["state"] == "RUNNING"]
    node = int(started["host"].removeprefix("node"))
    user.cluster.node_exec(node, ("kill", "-TERM", str(started["pid"])))
    until(lambda: user.shown(run) == "FAILED")
    assert "left no word" in user.status(run)["reason"]
    until(lambda: user.processes(run) == "")


def test_a_preemption_that_leaves_ranks_their_time(user: UserProject) -> None:
    user.write("train.py", TWICE)
    user.ask("scontrol", "update", "PartitionName=debug", "GraceTime=120")
    try:
        run = user.submit(*SINGLE)
        ready(run)
        blocker = user.block("--partition=urgent", "--nodes=2", "--exclusive")
        user.ask("scancel", blocker)
        user.requeue_now(run)
        assert user.ends(run) == "SUCCEEDED", user.everything(run)
    finally:
        user.ask("scontrol", "update", "PartitionName=debug", "GraceTime=0")
    assert "again" in log(run)
    told = [each for each in events(run) if each.get("reason")]
    assert [each["reason"] for each in told] == ["the job was preempted"]
    assert job_id(run) == told[0]["job_id"]
