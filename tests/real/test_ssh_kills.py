"""A submit to ssh hosts that is killed at any moment: what it leaves, and what its runs are."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.conftest import log, until
from tests.real.slurm import FINAL
from tests.real.ssh import SINGLE, TWO_HOSTS

if TYPE_CHECKING:
    from tests.real.ssh import SshProject

# Of the acts here; each request to a host is a moment of its own. 0: everything there is.
KILLS = int(os.environ.get("LAUNCHER_TEST_KILLS", "8"))
RUNS = (
    "import os, sys\n"
    "if os.environ.get('RANK', '0') == '0':\n"
    "    with open(os.path.expanduser('~/ran'), 'a') as file:\n"
    "        print(os.environ['LAUNCHER_RUN_ID'], sys.argv[-1], file=file)\n"
    "    print('ran')\n"
)


def all_ended(box: SshProject) -> dict[str, dict[str, Any]]:
    """Return what `launcher runs` tells of each run, by id, once none goes on."""

    def told() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(box.launch("runs", "--json").stdout)
        return found if all(each["state"] in FINAL for each in found) else []

    return {each["id"]: each for each in until(told)}


@pytest.mark.parametrize("words", [SINGLE, TWO_HOSTS], ids=["one", "two"])
def test_a_submit_that_is_killed_at_each_request(box: SshProject, words: tuple[str, ...]) -> None:
    box.write("train.py", RUNS)
    ran = box.hosts.hosta.user_home / "ran"
    ran.unlink(missing_ok=True)
    for name in ("kills.py", "kills_submit.py"):
        box.write(name, Path(__file__).with_name(name).read_text())
    argv = ("python", "kills_submit.py", str(KILLS), *box.known(words))
    done = box.hosts.run(argv, cwd=box.path, env=box.env, timeout_s=900)
    assert done.returncode == 0, done.stderr
    trials = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(each["killed"] == -signal.SIGKILL for each in trials) > 0.8 * len(trials)
    assert [each for each in trials if each["status"]] == []
    until(lambda: box.left() == [])

    told = all_ended(box)
    states = {run: each["state"] for run, each in told.items()}
    assert set(states.values()) <= {"SUCCEEDED", "LOST"}, told
    assert all(each["reason"] for each in told.values() if each["state"] == "LOST")
    lines = [line.split() for line in ran.read_text().splitlines()]
    # What is told of each is so: what succeeded has run, once, and nothing else has.
    assert sorted(run for run, _ in lines) == sorted(
        run for run, each in states.items() if each == "SUCCEEDED"
    )
    assert all(log(box.path / "runs" / run) == "ran\n" for run, _ in lines)
    assert {int(trial) for _, trial in lines} == {*range(-1, len(trials))}
