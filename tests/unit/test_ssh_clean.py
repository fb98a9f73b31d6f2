"""What `launcher clean` shows, and the ages that it takes."""

from __future__ import annotations

import pytest

from launcher.errors import ConfigError, SubmitError
from launcher.ssh.clean import Cleared, Item, Left
from launcher.ssh.clean_text import cleared_text, seconds, size, survey_text, unfetched_lines


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
    code = item(kind="code", path="objects", state="1 trees, 9 files", age_s=4000.0, size=500)
    lefts = (
        Left(name="hosta", items=(item(), item("in use", state="RUNNING", age_s=-3.0), code)),
        Left(name="hostb"),
        Left(name="hostc", error=SubmitError("hostc cannot be reached: why", hint="Help.")),
    )
    assert survey_text(lefts).splitlines() == [
        "HOST   WHAT  NAME                STATE             SIZE   LAST USED  WITH --yes",
        "hosta  run   261101-010101-abcd  FAILED            2 MB   3d00h ago  removed",
        "hosta  run   261101-010101-abcd  RUNNING           2 MB   0.0s ago   stays: in use",
        "hosta  code                      1 trees, 9 files  500 B  1h06m ago  removed",
        "hosta: 2 MB would be freed, 2 MB stay",
        "hostb: nothing is left there",
        "hostc cannot be reached: why",
        "  Help.",
    ]


def test_what_was_removed_and_what_was_not_is_told() -> None:
    lefts = (Left(name="hosta", items=(item(),)), Left(name="hostb", items=(item("younger"),)))
    done = (Cleared(name="hosta", gone=("runs/x",), freed=2000, failed={"lib/y": "busy"}),)
    assert cleared_text(lefts, done).splitlines() == [
        "hosta: removed runs/x",
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
