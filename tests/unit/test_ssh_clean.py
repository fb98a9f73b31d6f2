"""What `launcher clean` shows, and the ages that it takes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from launcher.errors import ConfigError, SubmitError
from launcher.job import RunState
from launcher.ssh.clean import Cleared, Item, Left, _judged, _not_here
from launcher.ssh.clean_text import cleared_text, seconds, size, survey_text, unfetched_lines
from launcher.store import RunFolder

if TYPE_CHECKING:
    from pathlib import Path


def item(stays: str = "", **values: object) -> Item:
    usual = {"kind": "run", "path": "runs/261101-010101-abcd", "state": "FAILED", "size": 2_000_000}
    return Item(**{**usual, "age_s": 3 * 86400.0, "stays": stays, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90s", 90), ("5m", 300), ("1.5h", 5400), ("7d", 604800), ("2w", 1209600), ("0d", 0)],
)
def test_ages(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "7 d", "1y", "1d2h", "nand", "9999999d"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        seconds(text)
    assert caught.value.message == f"--older-than {text}: not an age"
    assert "s, m, h, d or w" in caught.value.hint


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        *((0, "0 B"), (999, "999 B"), (1000, "1 kB"), (25_000_000, "25 MB")),
        *((1_540_000_000, "1.5 GB"), (25e9, "25 GB"), (1.2e13, "12.0 TB")),
    ],
)
def test_sizes(count: float, expected: str) -> None:
    assert size(count) == expected


def test_what_goes_and_what_stays_is_shown() -> None:
    code = item(kind="code", path="objects", state="1 tree, 9 files", age_s=4000.0, size=500)
    runs = item("in use", state="RUNNING", age_s=-3.0)
    lefts = (
        Left(name="hosta", items=(item(), runs, item("younger"), code)),
        Left(name="hostb"),
        Left(name="hostc", error=SubmitError("hostc cannot be reached: why", hint="Help.")),
    )
    young = "stays: used in the last 30d"
    assert survey_text(lefts, "30d").splitlines() == [
        "HOST   WHAT  NAME                STATE            SIZE   LAST USED  WITH --yes",
        "hosta  run   261101-010101-abcd  FAILED           2 MB   3d00h ago  removed",
        "hosta  run   261101-010101-abcd  RUNNING          2 MB   0.0s ago   stays: in use",
        f"hosta  run   261101-010101-abcd  FAILED           2 MB   3d00h ago  {young}",
        "hosta  code                      1 tree, 9 files  500 B  1h06m ago  removed",
        "hosta: 2 MB would be freed, 4 MB stay",
        "hostb: nothing is left there",
        "hostc cannot be reached: why",
        "  Help.",
    ]


def test_what_was_removed_and_what_was_not_is_told() -> None:
    code = item(kind="code", path="objects", size=500)
    lefts = (Left(name="hosta", items=(item(), code)), Left(name="hostb", items=(item("younger"),)))
    gone = ("runs/261101-010101-abcd", "objects")
    done = (Cleared(name="hosta", gone=gone, freed=2000, failed={"lib/y": "busy"}),)
    assert cleared_text(lefts, done).splitlines() == [
        "hosta: removed run 261101-010101-abcd, 2 MB",
        "hosta: removed code, 500 B",
        "hosta: 2 kB freed",
        "hosta: not removed: lib/y busy",
        "hostb: nothing to be removed",
    ]


def test_a_run_that_stays_on_two_hosts_counts_once() -> None:
    run = item("outputs/x not here", unfetched=True)
    other = item("outputs/x not here", unfetched=True, path="runs/261101-010101-efgh")
    lefts = (Left(name="hosta", items=(run,)), Left(name="hostb", items=(run,)))
    assert unfetched_lines(lefts)[0].startswith("launcher: 1 run stays")
    more = (*lefts, Left(name="hostc", items=(other,)))
    assert unfetched_lines(more)[0].startswith("launcher: 2 runs stay")
    assert unfetched_lines((Left(name="hostc", items=(item("younger"),)),)) == []


# ------------------------------------------------------------------ what is known here


def view(state: str = "", stays: str = "", *, young: bool = False) -> dict[str, Any]:
    return {"state": state, "stays": stays, "young": young}


def test_what_the_hosts_tell_together_decides(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "261101-010101-abcd"))
    going = {"hosta": view("RUNNING", "in use"), "hostb": view()}
    assert _judged(going, folder) == ("RUNNING", "in use on hosta")
    ended = {"hosta": view("FAILED", "younger"), "hostb": view(young=True)}
    assert _judged(ended, folder) == ("FAILED", "")
    starts = {"hosta": view("SUBMITTING", young=True), "hostb": view()}
    assert _judged(starts, folder) == ("SUBMITTING", "may be about to start")
    gone = {"hosta": view("RUNNING"), "hostb": view()}
    assert _judged(gone, folder) == ("LOST", "")


def test_where_no_host_tells_the_folder_here_does(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path / "261101-010101-abcd"))
    assert _judged({"hostb": view()}, folder) == ("unknown", "")  # nor is it known here: see below
    os.mkdir(folder.path)
    folder.event(RunState.SUBMITTING)
    starts = ("SUBMITTING", "may be about to start")
    assert _judged({"hostb": view(young=True)}, folder) == starts
    folder.event(RunState.SUCCEEDED)
    assert _judged({"hostb": view(young=True)}, folder) == ("SUCCEEDED", "")


def test_results_are_here_when_all_are_as_they_were(tmp_path: Path) -> None:
    run = tmp_path / "261101-010101-abcd"
    folder = RunFolder(str(run))
    assert _not_here(folder, "hostb", []) == f"{tmp_path} does not know it"
    for path, text in (
        *(("outputs/a", "12"), ("outputs.hostb/a", "123"), ("logs/rank-0.log", "1234")),
        ("checkpoints/c", "12"),
    ):
        (run / path).parent.mkdir(parents=True, exist_ok=True)
        (run / path).write_text(text)
        os.utime(run / path, ns=(5, 5))
    here = [
        *(("outputs/a", 3, 5), ("outputs/a", 2, 5), ("checkpoints/c", 2, 5)),
        *(("logs/rank-0.log", 4, 9), ("logs/launch.log", 0, 9)),
    ]
    assert _not_here(folder, "hostb", here) == ""
    assert _not_here(folder, "hosta", here[:1]) == "outputs/a not here"
    later = [("checkpoints/c", 2, 6), ("logs/rank-0.log", 5, 9)]
    assert _not_here(folder, "hostb", later) == "checkpoints/c and 1 more not here"
