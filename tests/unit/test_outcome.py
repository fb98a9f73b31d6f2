"""How a run ended, judged from what its ranks, its step and its logs said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.outcome import judge
from launcher.store import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

# Open MPI's handler on a rank that read through a null pointer, as its log ended.
CRASH = """\
[node1:00170] *** Process received signal ***
[node1:00170] Signal: Segmentation fault (11)
[node1:00170] Signal code: Address not mapped (1)
[node1:00170] Failing at address: 0xe0
[node1:00170] *** End of error message ***
"""


def folder(tmp_path: Path, **logs: str) -> RunFolder:
    (tmp_path / "logs").mkdir()
    for name, text in logs.items():
        (tmp_path / "logs" / f"{name.replace('_', '-')}.log").write_text(text)
    return RunFolder(str(tmp_path))


def rank(number: int, **more: Any) -> dict[str, Any]:
    return {"rank": number, "host": f"node{number + 1}", "pid": 7, "started": 1.0, **more}


def ended(number: int, at: float, **more: Any) -> dict[str, Any]:
    return rank(number, ended=at, **{"signals": [], "status": 0, **more})


def test_all_well(tmp_path: Path) -> None:
    found = judge(folder(tmp_path), [ended(0, 2.0), ended(1, 3.0)], 0)
    assert (found["state"], found["exit_status"], found["reason"]) == ("SUCCEEDED", 0, "")


def test_the_first_that_was_not_told_to_end_is_named(tmp_path: Path) -> None:
    told = ended(0, 2.0, status=143, signals=[15])
    found = judge(folder(tmp_path), [told, ended(1, 3.0, status=7)], 1)
    assert (found["failed"]["rank"], found["exit_status"]) == (1, 7)
    assert found["reason"] == "rank 1 on node2 failed first: exit status 7"


def test_a_crash_whose_guard_was_killed_with_it(tmp_path: Path) -> None:
    there = folder(tmp_path, rank_0="ready\n", rank_1=CRASH)
    found = judge(there, [rank(0), rank(1)], 14)
    assert (found["state"], found["exit_status"]) == ("FAILED", 139)
    assert found["reason"] == "rank 1 on node2 failed first: SIGSEGV"


def test_a_rank_that_talks_of_signals_and_ends_well(tmp_path: Path) -> None:
    there = folder(tmp_path, rank_0=CRASH)
    assert judge(there, [ended(0, 2.0)], 0)["state"] == "SUCCEEDED"


def test_nobody_left_a_word(tmp_path: Path) -> None:
    found = judge(folder(tmp_path, launch="srun: error: no nodes\n"), [], 1)
    assert found["state"] == "FAILED"
    assert "exit status 1 of launch.sh" in found["reason"]
    assert found["failed"]["last_lines"] == ["srun: error: no nodes"]
