"""What is shown of a run's logs, and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.follow import Tail
from launcher.store import RunFolder

if TYPE_CHECKING:
    from pathlib import Path

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
