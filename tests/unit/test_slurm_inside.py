"""What a SIGTERM means: the log's line, or what scontrol shows; both as a real cluster said it."""

from __future__ import annotations

import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from launcher.attempt import Attempt
from launcher.slurm import inside
from launcher.slurm.inside import Allocation, Why
from launcher.store import RunFolder
from tests.unit.test_slurm_cluster import RECORDED, on_path, recorded

if TYPE_CHECKING:
    from pathlib import Path

KINDS = {
    "cancelled": "cancelled",
    "time-limit": "time limit",
    "preempted": "preempted",
    "requeued": "requeued",
    "node-failure": "node failure",
    "node-failure-for-good": "node failure",
}


def job_id(name: str) -> str:
    return recorded(f"log-{name}").partition("JOB ")[2].partition(" ")[0]


def allocation(**values: Any) -> Allocation:
    env = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "node[1-2]", **values}
    found = Allocation.from_environment(env)
    assert found
    return found


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_line_that_slurmstepd_writes(name: str) -> None:
    assert inside.reason(recorded(f"log-{name}"), job_id(name)) == KINDS[name]


def test_the_last_line_about_this_job_counts() -> None:
    log = recorded("log-preempted") + recorded("log-time-limit")
    assert inside.reason(log, job_id("preempted")) == "preempted"
    assert inside.reason(log, job_id("time-limit")) == "time limit"
    assert inside.reason(log, "999999") == ""
    assert inside.reason("step 1\nloss 0.3\n", "1") == ""


def test_an_allocation_from_the_environment() -> None:
    assert Allocation.from_environment({}) is None
    assert Allocation.from_environment({"SLURM_JOB_ID": ""}) is None
    found = allocation(SLURM_RESTART_COUNT="2")
    assert (found.job_id, found.restarts, found.nodes) == ("12", 2, ("node1", "node2"))
    assert allocation().restarts == 0


def test_the_deadline_that_the_environment_tells() -> None:
    end = int(time.time()) + 3600
    assert allocation(SLURM_JOB_END_TIME=str(end)).deadline() == end
    year = int(time.time()) + 365 * 86400  # of a job without a limit
    assert allocation(SLURM_JOB_END_TIME=str(year)).deadline() is None


def shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, nodes: str = "") -> None:
    body = f"case \"$*\" in *' job '*) cat '{job}' ;; *) cat '{nodes or os.devnull}' ;; esac"
    on_path(tmp_path / "bin", monkeypatch, scontrol=body)


def test_the_deadline_that_scontrol_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end = int(time.time()) + 600
    text = tmp_path / "job"
    for shown, known in ((str(end), end), ("Unknown", None), (str(end + 365 * 86400), None)):
        text.write_text(f"JobId=12 JobState=RUNNING StartTime=1 EndTime={shown} Deadline=N/A\n")
        shows(tmp_path, monkeypatch, str(text))
        assert allocation().deadline() == known
    on_path(tmp_path / "bin", monkeypatch, scontrol="exit 1")
    assert allocation().deadline() is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cancelled", Why(kind="cancelled")),
        ("requeued", Why(kind="requeued")),
        ("time-limit", Why(kind="time limit")),
        ("node-failure", Why(kind="node failure", node="node2")),
        ("node-failure-for-good", Why(kind="node failure", node="node2")),
    ],
)
def test_what_scontrol_shows_where_there_is_no_line(
    name: str, why: Why, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "_log", lambda _: "")
    job, nodes = RECORDED / f"job-{name}.txt", RECORDED / f"nodes-{name}.txt"
    shows(tmp_path, monkeypatch, str(job), str(nodes))
    mine = inside.fields(recorded(f"job-{name}"))
    both = "node[1-2]" if "node" in name else mine["NodeList"]
    assert allocation(SLURM_JOB_ID=mine["JobId"], SLURM_JOB_NODELIST=both).why() == why


def test_a_job_that_still_runs_is_not_known_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "_log", lambda _: "")
    text = tmp_path / "job"
    text.write_text("JobState=RUNNING Reason=None Restarts=0 PreemptTime=None NodeList=node[1-2]\n")
    shows(tmp_path, monkeypatch, str(text))
    assert allocation().why() == Why(kind="unknown")


def test_a_step_is_told_of_a_preemption_before_the_batch_script_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a partition with a GraceTime only steps get a SIGTERM at first; the job runs on."""
    monkeypatch.setattr(inside, "_log", lambda _: "")
    shows(tmp_path, monkeypatch, str(RECORDED / "job-preemption-announced.txt"))
    assert "JobState=RUNNING" in recorded("job-preemption-announced")
    assert allocation().why() == Why(kind="preempted")


def test_a_controller_that_does_not_answer_leaves_it_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inside, "_log", lambda _: "")
    said = recorded("silent-scontrol").partition("\n")[2]
    on_path(tmp_path / "bin", monkeypatch, scontrol=f"cat >&2 <<'X'\n{said}X\nexit 1")
    assert allocation().why() == Why(kind="unknown")
    assert allocation().requeue() == "Unable to contact slurm controller (connect failure)"


def test_lines_of_an_earlier_attempt_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log is appended to; this attempt's part begins where it was when this attempt did."""
    log = tmp_path / "slurm.log"
    log.write_text(recorded("log-preempted"))
    with log.open("ab") as stream:
        monkeypatch.setattr(inside, "_LOG", stream.fileno())
        here = allocation(SLURM_JOB_ID=job_id("preempted"))
        shows(tmp_path, monkeypatch, os.devnull)
        assert here.why() == Why(kind="unknown")
        stream.write(recorded("log-preempted").encode())
        stream.flush()
        assert here.why() == Why(kind="preempted")


def test_of_several_jobs_of_a_run_one_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However their first acts mix."""
    on_path(tmp_path / "bin", monkeypatch, scancel="exit 0")
    record: Any = SimpleNamespace(time_s=None)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(30):
            folder = RunFolder(str(tmp_path / f"run-{number}"))
            os.mkdir(folder.path)
            jobs = [
                Attempt(folder, record, Allocation(job_id=str(job), restarts=0, nodes=()))
                for job in range(4)
            ]
            together = threading.Barrier(4)

            def claims(job: Attempt, together: threading.Barrier = together) -> bool:
                together.wait()
                return job.claims()

            with ThreadPoolExecutor(4) as pool:
                assert sum(pool.map(claims, jobs)) == 1
            assert os.listdir(folder.path) == ["job"]
    finally:
        sys.setswitchinterval(before)
