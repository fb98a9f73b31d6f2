"""The door to other programs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from launcher import process

if TYPE_CHECKING:
    from pathlib import Path

SAYS = "import sys; print('begun', flush=True); print(open(sys.argv[1]).read(), end='')"


def test_who_waits_for_a_program_hears_that_it_still_runs(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    heard: list[int] = []

    def still() -> None:
        heard.append(1)
        if len(heard) == 2:
            gate.write_text("end\n")

    with (tmp_path / "log").open("ab") as log:
        argv = (sys.executable, "-c", SAYS, str(gate))
        assert process.run_logged(argv, log=log, env={}, still=still, every_s=0.05) == 0
    assert len(heard) >= 2
    assert (tmp_path / "log").read_text() == "begun\nend\n"


def test_a_program_does_not_outlive_who_gives_up(tmp_path: Path) -> None:
    def still() -> None:
        raise KeyboardInterrupt

    gate = tmp_path / "gate"
    os.mkfifo(gate)
    argv = (sys.executable, "-c", SAYS, str(gate))
    with (tmp_path / "log").open("ab") as log, pytest.raises(KeyboardInterrupt):
        process.run_logged(argv, log=log, env={}, still=still, every_s=0.05)
    with pytest.raises(OSError, match="No such device"):  # nobody reads
        os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
