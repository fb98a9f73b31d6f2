"""Jobs as squeue and sacct list them, recorded from a real cluster; how often they are asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from launcher.errors import StateError
from launcher.slurm import queue
from tests.unit.test_slurm_cluster import on_path, recorded

if TYPE_CHECKING:
    from launcher.slurm.queue import JobView

ROOT = Path(__file__).parents[2]
OFF = "echo 'Slurm accounting storage is disabled' >&2; exit 1"


def states(jobs: dict[str, JobView]) -> list[tuple[str, str]]:
    return sorted((each.state, each.reason) for each in jobs.values())


def only(jobs: dict[str, JobView], state: str, reason: str = "") -> JobView:
    (found,) = [e for e in jobs.values() if (e.state, e.reason) == (state, reason)]
    return found


def test_what_squeue_lists() -> None:
    jobs = queue.queued(recorded("squeue-cancelled"))
    exited, killed = (
        only(jobs, "FAILED", "NonZeroExitCode"),
        only(jobs, "FAILED", "JobLaunchFailure"),
    )
    assert (exited.exit_status, exited.signal) == (3, 0)
    assert (killed.exit_status, killed.signal) == (None, 9)
    done = only(jobs, "COMPLETED")
    assert (done.exit_status, done.nodes, done.source) == (0, "node1", "squeue")
    assert done.start is not None
    held = only(jobs, "PENDING", "JobHeldUser")
    assert (held.name, held.exit_status, held.start, held.nodes) == ("held", None, None, "")
    ending = only(jobs, "COMPLETING")
    assert ending.exit_status is None


def test_an_arrays_jobs_have_ids_of_their_own() -> None:
    jobs = queue.queued(recorded("squeue-cancelled"))
    array = {each: job for each, job in jobs.items() if "_" in each}
    assert sorted(each.partition("_")[2] for each in array) == ["1", "2", "3"]
    assert {job.name for job in array.values()} == {"a|b é"}
    assert sorted(job.state for job in array.values()) == ["PENDING", "PENDING", "RUNNING"]


@pytest.mark.parametrize("name", ["requeued", "preempted", "node-failure"])
def test_a_job_that_will_start_again(name: str) -> None:
    job = only(queue.queued(recorded(f"squeue-{name}")), "PENDING", "BeginTime")
    assert (job.restarts, job.exit_status, job.nodes) == (1, None, "")


def test_ends() -> None:
    failed = only(queue.queued(recorded("squeue-node-failure-for-good")), "NODE_FAIL", "NodeDown")
    assert failed.nodes == "node[1-2]"
    assert only(queue.queued(recorded("squeue-time-limit")), "TIMEOUT", "TimeLimit").restarts == 0


def test_what_sacct_lists() -> None:
    jobs = queue.accounted(recorded("sacct"))
    by_state = {each.state: each for each in jobs.values()}
    assert {"COMPLETED", "CANCELLED", "FAILED", "NODE_FAIL", "TIMEOUT"} <= by_state.keys()
    assert by_state["COMPLETED"].exit_status == 0
    assert by_state["COMPLETED"].source == "sacct"
    failed = [each for each in jobs.values() if each.state == "FAILED"]
    assert (3, 0) in {(each.exit_status, each.signal) for each in failed}
    assert (None, 9) in {(each.exit_status, each.signal) for each in failed}


# -- how often ----------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAUNCHER_POLL_S", "600")  # longer than a test may take
    return tmp_path / "asked"


def programs(asked: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> None:
    log = f"echo \"${{0##*/}} $*\" >> '{asked}'\n"
    on_path(asked.parent / "bin", monkeypatch, **{k: log + each for k, each in bodies.items()})


def calls(asked: Path) -> list[str]:
    return [line.partition(" ")[0] for line in asked.read_text().splitlines()]


def says(name: str) -> str:
    return f"cat '{Path(__file__).parent}/recorded/slurm-22.05/{name}.txt'"


def test_one_squeue_answers_for_all_jobs_and_for_some_seconds(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(asked, monkeypatch, squeue=says("squeue-cancelled"), sacct=OFF)
    every = dict.fromkeys(queue.queued(recorded("squeue-cancelled")), 0.0)
    for _ in range(3):
        assert queue.look(every).keys() == every.keys()
    assert calls(asked) == ["squeue"]
    queue.forget()
    queue.look(every)
    assert calls(asked) == ["squeue", "squeue"]


def test_nothing_is_asked_about_nothing(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(asked, monkeypatch, squeue="true")
    assert queue.look({}) == {}
    assert not asked.exists()


def test_the_floor_can_be_set(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(asked, monkeypatch, squeue=says("squeue-cancelled"), sacct=OFF)
    monkeypatch.setenv("LAUNCHER_POLL_S", "900")
    queue.look({"12": 0.0})
    queue.look({"12": 0.0})
    assert calls(asked).count("squeue") == 1
    (kept,) = (asked.parent / "cache" / "slurm").glob("*-queue.json")
    answer = json.loads(kept.read_text())
    kept.write_text(json.dumps({**answer, "at": answer["at"] - 900}))
    queue.look({"12": 0.0})
    assert calls(asked).count("squeue") == 2


def test_an_id_that_slurm_does_not_know(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(asked, monkeypatch, squeue="true", sacct="true")
    assert queue.look({"999": 0.0}) == {}


def test_a_job_younger_than_the_answer_is_not_lost(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(asked, monkeypatch, squeue="true", sacct="true")
    queue.look({"1": 0.0})
    found = queue.look({"999": time.time()})
    assert (found["999"].state, found["999"].source) == ("PENDING", "")
    assert calls(asked).count("sacct") == 1


def test_sacct_is_asked_once_for_what_squeue_forgot(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(asked, monkeypatch, squeue="true", sacct=says("sacct"))
    every = dict.fromkeys(queue.accounted(recorded("sacct")), 0.0)
    assert queue.look(every).keys() == every.keys()
    assert calls(asked) == ["squeue", "sacct"]


def test_that_there_is_no_accounting_is_remembered(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = recorded("sacct-disabled").partition("\n")[2]
    refuses = f"cat >&2 <<'X'\n{said}X\nexit 1"
    programs(asked, monkeypatch, squeue="true", sacct=refuses)
    monkeypatch.setenv("LAUNCHER_POLL_S", "0")
    for _ in range(3):
        assert queue.look({"999": 0.0}) == {}
    assert calls(asked).count("sacct") == 1


def test_accounting_that_does_not_answer_proves_nothing(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails = "echo 'sacct: error: slurm_persist_conn_open_without_init: failed to open' >&2; exit 1"
    programs(asked, monkeypatch, squeue="true", sacct=fails)
    assert queue.look({"999": 0.0})["999"].state == "UNKNOWN"


def test_a_controller_that_does_not_answer_is_not_asked_again_at_once(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = recorded("silent-squeue").partition("\n")[2]
    programs(asked, monkeypatch, squeue=f"cat >&2 <<'X'\n{said}X\nexit 1")
    for _ in range(3):
        with pytest.raises(StateError, match="does not answer: Unable to contact"):
            queue.look({"1": 0.0})
    assert calls(asked) == ["squeue"]


def test_no_squeue(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(asked, monkeypatch)
    with pytest.raises(StateError, match="does not answer") as error:
        queue.look({"1": 0.0})
    assert "PATH" in error.value.hint


def test_of_many_commands_one_asks(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(asked, monkeypatch, squeue=f"sleep 0.5; {says('squeue-cancelled')}", sacct=OFF)
    program = "from launcher.slurm import queue; print(len(queue.look({'8': 0.0})))"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    assert len({each.communicate(timeout=60)[0] for each in started}) == 1
    assert calls(asked).count("squeue") == 1


def test_a_folder_that_cannot_be_written_makes_it_slower_only(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(asked, monkeypatch, squeue=says("squeue-cancelled"), sacct=OFF)
    monkeypatch.setenv("LAUNCHER_CACHE", "/proc/nowhere")
    (some,) = [each for each in queue.queued(recorded("squeue-cancelled")) if each.endswith("_1")]
    assert queue.look({some: 0.0})[some].state == "RUNNING"
    assert queue.look({some: 0.0})[some].state == "RUNNING"
    assert calls(asked) == ["squeue", "squeue"]


def test_a_broken_or_a_future_answer_is_asked_anew(
    asked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(asked, monkeypatch, squeue=says("squeue-cancelled"), sacct=OFF)
    queue.look({"8": 0.0})
    (kept,) = (asked.parent / "cache" / "slurm").glob("*-queue.json")
    assert kept.stat().st_mode & 0o777 == 0o600
    for broken in ("{", "[]", '{"at": 9e12, "error": "", "hint": "", "text": ""}'):
        kept.write_text(broken)
        queue.look({"8": 0.0})
    assert calls(asked).count("squeue") == 4


def test_two_clusters_have_an_answer_each(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs(asked, monkeypatch, squeue=says("squeue-cancelled"), sacct=OFF)
    for name in ("/etc/a.conf", "/etc/b.conf"):
        monkeypatch.setenv("SLURM_CONF", name)
        queue.look({"8": 0.0})
    assert calls(asked).count("squeue") == 2


def test_five_thousand_jobs_are_one_question(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "{}|RUNNING|0|0|1795421849|None|node1|train-261123-051048-abcd|\n"
    (asked.parent / "many").write_text("".join(line.format(each) for each in range(5000)))
    programs(asked, monkeypatch, squeue=f"cat '{asked.parent}/many'")
    assert len(queue.look({str(each): 0.0 for each in range(200)})) == 200
    assert calls(asked).count("squeue") == 1
    assert os.path.getsize(asked) < 1000
