"""What is shown of a run's logs, and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.follow import Tail, Waiting
from launcher.job import RunState
from launcher.store import RunFolder, RunStatus

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# Recorded: Open MPI 5.0.11 under load.
WARNING = (
    b"[hostb:00314] plm:ssh: Warning: setpgid(318,318) failed in parent with errno="
    b"Permission denied(13)\n"
)
ERROR = b"[hostb:00314] plm:ssh: Error: setpgid(0,0) failed in child with errno=Bad(1)\n"


def test_a_warning_of_mpirun_about_nothing_is_left_out(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    tail = Tail(RunFolder(str(tmp_path)), world_size=2)
    with (logs / "launch.log").open("ab", buffering=0) as log:
        log.write(b"before\n" + WARNING[:40])
        assert tail.read() == b"before\n"
        log.write(WARNING[40:] + WARNING)
        assert tail.read() == b""
        log.write(WARNING + ERROR + b"after\n")
        assert tail.read() == ERROR + b"after\n"
    (logs / "rank-0.log").write_bytes(WARNING)
    assert tail.read() == b"[0] " + WARNING


def test_a_line_without_an_end_is_shown_to_its_end(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "rank-0.log").write_bytes(b"x" * 3_000_000)
    shown: list[bytes] = []
    Tail(RunFolder(str(tmp_path)), world_size=2).drain(shown.append)
    assert b"".join(shown).count(b"x") == 3_000_000


def test_why_a_run_waits_is_said_once_whatever_its_details(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.follow._SETTLES_S", -1.0)
    said: list[str] = []
    waiting = Waiting(said.append)
    about = {"id": "r", "name": "n", "compute": "ssh", "host": "h", "world_size": 1, "created": 0.0}
    reasons = ["", "none has begun; says: 1 %", "none has begun; says: 2 %", "hosta is away; so"]
    for reason in reasons:
        waiting.look(RunStatus(**about, state=RunState.RUNNING, reason=reason))  # type: ignore[arg-type]
    assert said == ["launcher: none has begun; says: 1 %", "launcher: hosta is away; so"]
