"""Results on their way here, where more than one command brings them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from launcher.hosts import Host
from launcher.results import Result
from launcher.ssh.connection import Target
from launcher.ssh.mirror import _comes_back
from launcher.ssh.results import _Way

if TYPE_CHECKING:
    from pathlib import Path

HOST = Host(name="node1", address="a", user="me", port=22, hostname="box-1", cpus=1)


@pytest.fixture
def way(tmp_path: Path) -> _Way:
    to = Target(name="node1", config="", python="python3", workdir="/w", timeout_s=1)
    (tmp_path / "parts").mkdir()
    return _Way(to=to, run="r", parts=str(tmp_path / "parts"), lacks=[], say=print)


def test_who_comes_late_leaves_what_another_has_brought(way: _Way, tmp_path: Path) -> None:
    place = str(tmp_path / "model")
    result = Result(path="outputs/model", place=place, size=8, changed=10**18, host="node1")
    assert not way._keep(result, 0, b"abcd")
    assert way._have(result) == 4
    late = way._have(result)  # what the other command has asked from
    assert way._keep(result, 4, b"efgh")
    assert not way._keep(result, late, b"efgh")
    assert (tmp_path / "model").read_bytes() == b"abcdefgh"
    assert os.stat(place).st_mtime_ns == result.changed
    assert result.here


def test_a_file_without_a_place_here_keeps_no_other_one_away(way: _Way, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "inside").touch()
    place = str(tmp_path / "model")
    result = Result(path="outputs/model", place=place, size=2, changed=10**18, host="node1")
    assert way._kept(result, 0, b"ab")
    assert way.unkept == {"outputs/model"}
    assert way.wrong is not None
    assert "outputs/model cannot be kept here" in str(way.wrong)


@pytest.mark.parametrize(
    ("reason", "waits"),
    [
        ("node12 no longer answers, where rank 3 ran", True),
        ("node1 no longer answers, where rank 3 ran", False),
        ("rank 3 on box-1: exit status 1", False),
        ("killed on node1.", False),
        ("", True),
    ],
)
def test_a_host_is_waited_for_unless_it_is_why(reason: str, waits: bool) -> None:
    assert _comes_back({"time": 1e12, "reason": reason}, HOST) is waits
