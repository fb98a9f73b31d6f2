"""Data that are sent to real ssh hosts for the points of a sweep: theirs, once, and none stale."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.user import give
from tests.real.conftest import log, state
from tests.real.ssh import SINGLE
from tests.real.test_ssh_data import MB, data, forget, noise, received

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.ssh import SshProject

SLOTS = "compute.hosts=[{host: hosta, slots: 2}, {host: hostb, slots: 2}]"
READS = "import sys\nprint(open(sys.argv[2], 'rb').read()[:10].decode(), sys.argv[3:])\n"


@pytest.fixture(autouse=True)
def blank(box: SshProject) -> Iterator[None]:
    """A script that shows its data; what a test sent is gone from the hosts for the next one."""
    box.write("train.py", READS)
    box.write(".gitignore", "sets\n")
    (box.path / "sets").mkdir()
    give(box.path / "sets")
    forget(box)
    yield
    forget(box)


def queued(box: SshProject, *words: str) -> list[Path]:
    """Return the folders of the runs that a sweep of these words queued, once they have ended."""
    before = set(box.runs)
    done = box.launch("-m", *SINGLE, SLOTS, "script_params.d=${data:d}", *words)
    assert done.returncode == 0, done.stderr
    assert box.launch("wait", done.stdout.strip()).returncode == 0
    assert {state(run) for run in box.runs} == {"SUCCEEDED"}
    return sorted(set(box.runs) - before)


def test_points_have_each_their_data_and_are_known_by_what_these_hold(box: SshProject) -> None:
    for name in ("a", "b"):
        box.write(f"sets/{name}", f"of {name}")
    sets = ("data.d.upload=true", "data.d.path=sets/a,sets/b", "script_params.n=1,2")
    first = queued(box, *sets)
    assert sorted(log(run).strip() for run in first) == [
        *("of a ['--n', '1']", "of a ['--n', '2']"),
        *("of b ['--n', '1']", "of b ['--n', '2']"),
    ]
    assert queued(box, *sets) == []
    (box.path / "sets" / "a").touch()  # another time, the same content
    assert queued(box, *sets) == []
    box.write("sets/b", "new b")
    assert sorted(log(run).strip() for run in queued(box, *sets)) == [
        "new b ['--n', '1']",
        "new b ['--n', '2']",
    ]
    box.write("sets/b", "of b")  # as it was: those points have run
    assert queued(box, *sets) == []


def test_data_of_many_points_travel_once_to_each_host(box: SshProject) -> None:
    noise(box, "sets/large.bin", 20 * MB)
    box.write("train.py", "import sys\nprint(len(open(sys.argv[2], 'rb').read()))\n")
    before = [received(host) for host in box.hosts.all[:2]]
    runs = queued(box, *data("d", "sets/large.bin"), "script_params.n=1,2,3,4,5,6")
    assert [log(run) for run in runs] == [f"{20 * MB}\n"] * 6
    for host, had in zip(box.hosts.all, before, strict=False):
        assert 20 * MB < received(host) - had < 25 * MB


def test_a_point_runs_again_when_its_data_are_gone_from_the_hosts(box: SshProject) -> None:
    box.write("sets/a", "of a")
    (run,) = queued(box, *data("d", "sets/a"), "script_params.n=1")
    forget(box)
    again = box.launch("rerun", run.name, "wait=true")
    assert again.stdout == "of a ['--n', '1']\n", again.stderr
    box.write("sets/a", "other")
    kept = box.launch("rerun", run.name, "script_params.n=2", "wait=true")
    assert kept.stdout == "of a ['--n', '2']\n", kept.stderr
    forget(box)
    before = len(box.runs)
    gone = box.launch("rerun", run.name, "wait=true")
    assert gone.returncode == 2
    for word in ("data.d.digest=", "does not have it any more", "sets/a holds other data now"):
        assert word in gone.stderr
    assert "data.d.digest=null takes what is there now" in gone.stderr
    (box.path / "sets" / "a").unlink()
    none = box.launch("rerun", run.name, "wait=true")
    assert none.returncode == 2
    assert "sets/a: there is no such file or folder here" in none.stderr
    assert len(box.runs) == before
    box.write("sets/a", "of a")
    back = box.launch("rerun", run.name, "wait=true")
    assert back.stdout == "of a ['--n', '1']\n", back.stderr
