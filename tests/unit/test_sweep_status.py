"""Sweeps as they are shown: values in, tables, estimates and pictures out."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from launcher.cli.words import worst
from launcher.errors import ConfigError, StoreError
from launcher.job import RunState
from launcher.observe import observe_some
from launcher.store import RunFolder, RunStatus, Store, append_line
from launcher.sweep.live import bounded, headlines, view
from launcher.sweep.plot import Request, picture
from launcher.sweep.status import (
    MISSING,
    NOT_RUN,
    Point,
    best,
    named,
    points_of,
    short_names,
    summaries,
    time_left,
)
from launcher.sweep.store import Entry, SweepFolder, SweepRecord, Sweeps
from launcher.sweep.table import runs_grid, sweep_grid, sweep_text

if TYPE_CHECKING:
    from pathlib import Path

SWEEP = "261124-101112-swee"


def status(number: int, state: str = "SUCCEEDED", **values: Any) -> RunStatus:
    known: dict[str, Any] = {
        "id": f"{SWEEP}-{number:04}",
        "name": "train",
        "state": RunState(state),
        "compute": "local",
        "host": "box",
        "world_size": 1,
        "created": 1000.0 + number,
    }
    if state != "PENDING":
        known["started"] = 2000.0
    if RunState(state).final:
        known["ended"] = 2010.0
    return RunStatus(**{**known, **values})


def point(number: int, state: str = "SUCCEEDED", lr: str = "0.1", **metrics: Any) -> Point:
    entry = Entry(
        point=number,
        run="" if state == NOT_RUN else f"{SWEEP}-{number:04}",
        signature="s",
        values={"script_params.lr": lr},
    )
    there = state not in (NOT_RUN, MISSING)
    return Point(entry=entry, status=status(number, state, metrics=metrics) if there else None)


def write(store: Store, points: list[Point], sweep_id: str = SWEEP) -> SweepFolder:
    """Write a sweep down, with its ended runs as the store's index knows them."""
    folder = Sweeps(store).folder(sweep_id)
    record = SweepRecord(
        id=sweep_id,
        name="train",
        created=1000.0,
        user="me",
        host="box",
        overrides=(),
        keys=("script_params.lr",),
        digest="d",
    )
    folder.create(record, [each.entry for each in points], lambda _: None)
    for each in points:
        if each.status:
            store.add_to_index(each.status)
    return folder


# ------------------------------------------------------------------ names and tables


def test_names_are_as_short_as_they_can_be() -> None:
    keys = ("nodes", "script_params.optim.lr", "script_params.head.lr", "compute.time")
    assert short_names(keys) == {
        "nodes": "nodes",
        "script_params.optim.lr": "optim.lr",
        "script_params.head.lr": "head.lr",
        "compute.time": "time",
    }
    assert short_names(["script_params.step"], taken=["step"]) == {
        "script_params.step": "script_params.step"
    }


def test_a_table_has_what_varies_and_what_was_measured() -> None:
    points = [point(0, lr="0.1", accuracy=0.97123456), point(1, NOT_RUN, lr="1e-2")]
    assert sweep_text(sweep_grid(points)).splitlines() == [
        "ID                       STATE      lr    accuracy  DURATION",
        f"{SWEEP}-0000  SUCCEEDED  0.1   0.9712    10.0s",
        "(point 1)                NOT RUN    1e-2",
    ]


def test_a_metric_that_is_called_as_a_column_is() -> None:
    told = Point(entry=point(0).entry, status=status(0, metrics={"lr": 2, "why": "x", "id": 3}))
    assert sweep_grid([told]).names == (
        *("id", "point", "state", "script_params.lr", "lr", "metrics.why", "metrics.id"),
        *("duration_s", "why"),
    )
    assert "metrics.name" in runs_grid([status(0, metrics={"name": 1})]).names


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("lr", [2, 0, 1, 3, 4]),  # numbers as numbers, texts after them
        ("-lr", [1, 0, 2, 3, 4]),
        ("script_params.lr", [2, 0, 1, 3, 4]),
        ("loss", [1, 0, 2, 3, 4]),  # nan and what is missing come last
        ("-loss", [0, 1, 2, 3, 4]),
        ("-point", [4, 3, 2, 1, 0]),
        ("duration", [0, 1, 2, 3, 4]),
    ],
)
def test_rows_are_sorted(by: str, order: list[int]) -> None:
    points = [
        point(0, lr="5e-1", loss=10.0),
        point(1, lr="10", loss=9),
        point(2, lr="0.01", loss=float("nan")),
        point(3, lr="auto", loss=None),
        point(4, NOT_RUN, lr="auto"),
    ]
    assert sweep_grid(points).order(by) == order


def test_an_unknown_column_is_answered_with_the_list() -> None:
    with pytest.raises(ConfigError) as error:
        sweep_grid([point(0, accuracy=1)]).order("-acuracy")
    assert error.value.message == "--sort acuracy: there is no such column"
    assert error.value.hint == (
        "Did you mean 'accuracy'? Allowed: id, point, state, lr, accuracy, duration_s, why."
    )


def test_csv_has_numbers_in_full_and_survives_any_text() -> None:
    points = [point(0, lr='a,"b"\nc', accuracy=0.123456789012), point(1, MISSING)]
    rows = list(csv.DictReader(io.StringIO(sweep_grid(points).csv_text())))
    assert rows[0]["lr"] == 'a,"b"\nc'
    assert rows[0]["accuracy"] == "0.123456789012"
    assert (rows[1]["state"], rows[1]["accuracy"]) == (MISSING, "")


# ------------------------------------------------------------------ estimates


def test_time_left_is_told_by_those_that_ended() -> None:
    ended = [point(0), point(1)]  # 10 s each
    running = [point(2, "RUNNING"), point(3, "RUNNING")]  # since 2000
    assert time_left([*ended, *running], 2004.0) == 6
    assert time_left([*ended, *running, *[point(n, "PENDING") for n in (4, 5)]], 2004.0) == 16
    assert time_left([*ended, *running], 2030.0) == 0  # longer than usual
    assert time_left(running, 2004.0) is None
    assert time_left([*ended, point(2, "PENDING")], 2004.0) is None
    assert time_left([point(0, "CANCELLED"), *running], 2004.0) is None


def test_the_best_is_by_the_metric_whose_name_tells_or_that_is_named() -> None:
    points = [
        point(0, loss=0.5, val_accuracy=0.7, step=3),
        point(1, loss=0.2, val_accuracy=float("nan"), step=2),
        point(2, "RUNNING", loss=0.9, val_accuracy=0.8, step=1),
    ]

    def found(wanted: str) -> tuple[Any, ...]:
        top = best(points, wanted)
        assert top
        return top.metric, top.higher, top.value, top.point.entry.point

    assert found("") == ("val_accuracy", True, 0.8, 2)
    assert found("-loss") == ("loss", False, 0.2, 1)
    assert found("step") == ("step", True, 3, 0)
    assert best([point(0, step=3)]) is None
    assert best(points, "f1") is None


def test_what_is_shown_first_runs_or_has_just_ended() -> None:
    points = [point(n) for n in range(50)] + [point(n, "RUNNING") for n in range(50, 100)]
    shown = bounded(points, 9)
    assert [each.state for each in shown] == ["RUNNING"] * 6 + ["SUCCEEDED"] * 3
    assert len(bounded(points[:50] + points[50:52], 9)) == 9
    assert bounded(points, 0) == []


@pytest.mark.parametrize("size", [(80, 24), (30, 10), (20, 5), (200, 60)])
@pytest.mark.parametrize("color", [None, "truecolor"])
def test_a_view_fits_the_terminal(size: tuple[int, int], color: Any) -> None:
    points = [point(n, accuracy=n / 3) for n in range(4000)]
    points += [point(n, "RUNNING", loss=n / 3) for n in range(4000, 4100)]
    points += [point(n, "PENDING") for n in range(4100, 10_000)]
    to = io.StringIO()
    console = Console(
        file=to, width=size[0], height=size[1], color_system=color, force_terminal=True
    )
    console.print(view("sweep", points, "", 2004.0))
    lines = to.getvalue().splitlines()
    assert len(lines) < size[1]
    if color is None:
        assert "\x1b" not in to.getvalue()
        assert max(map(len, lines)) <= size[0]


def test_headlines_count_and_say_why_runs_wait() -> None:
    waits = Point(entry=point(3).entry, status=status(3, "PENDING", reason="all nodes are taken"))
    points = [point(0, accuracy=0.5), point(1, "FAILED"), point(2, "RUNNING"), waits]
    assert headlines(points, "", 2004.0) == [
        "4 points: 1 running, 1 succeeded, 1 failed, 1 waiting",
        "about 16.0s left, if runs go on as they did",
        "highest last accuracy 0.5: 0 lr=0.1",
        "waiting: all nodes are taken",
    ]
    assert "no run has reported a finite f1" in headlines(points, "f1", 2004.0)


# ------------------------------------------------------------------ stores


def test_a_sweep_is_counted_without_reading_its_runs(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    points = [point(0), point(1, "FAILED"), point(2, NOT_RUN), point(3, MISSING)]
    folder = write(store, points)
    (one,) = summaries(Sweeps(store))
    counted = {"SUCCEEDED": 1, "FAILED": 1, MISSING: 1, NOT_RUN: 1}
    assert (one.points, one.states) == (4, counted)
    folder.append([points[0].entry.without_run()])
    (one,) = summaries(Sweeps(store))
    assert (one.points, one.states) == (4, {"FAILED": 1, MISSING: 1, NOT_RUN: 2})


def test_points_know_their_runs(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    points = [point(0, accuracy=1.0), point(1, MISSING), point(2, NOT_RUN)]
    assert points_of(write(store, points)) == points
    assert observe_some(store, [f"{SWEEP}-0001"]) == {}


def test_an_id_names_a_run_or_a_sweep(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write(store, [point(0), point(1)])
    for number in (0, 1):
        store.create(f"{SWEEP}-{number:04}")
    assert isinstance(named(store, SWEEP), SweepFolder)
    assert isinstance(named(store, SWEEP[:9]), SweepFolder)
    assert isinstance(named(store, f"{SWEEP}-0001"), RunFolder)
    with pytest.raises(StoreError) as error:
        store.find(SWEEP)
    assert error.value.hint == f"launcher runs --sweep {SWEEP} lists its runs."
    store.create("261124-101112-othe")
    with pytest.raises(StoreError, match="begins 3 runs"):
        named(store, SWEEP[:9])


# ------------------------------------------------------------------ pictures


def test_a_picture_of_last_values(tmp_path: Path) -> None:
    points = [point(0, lr="0.1", accuracy=0.5), point(1, lr="1e-2", accuracy=0.7)]
    points += [point(2, lr="1"), point(3, NOT_RUN), point(4, lr="0", accuracy=1.0)]
    made = picture(points, Request(x="lr", y="accuracy", log_x=True), Store(str(tmp_path)))
    (series,) = made.series
    assert (series.xs, series.ys) == ([0.1, 0.01], [0.5, 0.7])
    assert made.lost == {"no accuracy": [2, 3], "no place on a logarithmic axis": [4]}


def test_a_picture_of_words_and_groups(tmp_path: Path) -> None:
    points = [point(n, lr=lr, accuracy=n) for n, lr in enumerate(("10", "adam", "9"))]
    store = Store(str(tmp_path))
    made = picture(points, Request(x="lr", y="accuracy"), store)
    assert made.categories
    assert made.series[0].xs == ["10", "adam", "9"]
    made = picture(points, Request(x="lr", y="accuracy", group_by="lr"), store)
    assert [each.label for each in made.series] == ["lr=9", "lr=10", "lr=adam"]
    with pytest.raises(ConfigError, match="no numbers: adam"):
        picture(points, Request(x="lr", y="accuracy", log_x=True), store)


def test_a_picture_of_learning_curves(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    points = [point(n, lr=str(n), loss=1.0, step=1) for n in range(2)]
    path = store.create(points[0].entry.run).file("metrics.jsonl")
    for step in range(3):
        append_line(path, {"time": 100.0 + step, "step": step, "loss": 2.0 / (step + 1)})
        append_line(path, {"time": 100.0, "step": step, "speed": 7})
    made = picture(points, Request(x="step", y="loss"), store)
    (series,) = made.series
    assert (series.label, series.xs, series.ys) == ("lr=0", [0, 1, 2], [2.0, 1.0, 2 / 3])
    assert made.lost == {"no loss": [1]}
    assert picture(points, Request(x="time", y="loss"), store).series[0].xs == [0, 1, 2]


def test_a_picture_tells_of_runs_that_diverged(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    nan = float("nan")
    points = [point(0, lr="1", loss=0.5, step=1), point(1, lr="2", loss=nan, step=1)]
    made = picture([*points, point(2, lr="inf", loss=1.0)], Request(x="lr", y="loss"), store)
    assert [each.xs for each in made.series] == [[1.0]]
    assert made.lost == {"no finite number": [1, 2]}
    for each, losses in zip(points, ([0.5, nan, 0.4], [nan, nan]), strict=True):
        path = store.create(each.entry.run).file("metrics.jsonl")
        for step, loss in enumerate(losses):
            append_line(path, {"time": 1.0, "step": step, "loss": loss})
    made = picture(points, Request(x="step", y="loss"), store)
    assert [each.xs for each in made.series] == [[0, 1, 2]]  # with a gap
    assert made.lost == {"no finite number": [1]}
    with pytest.raises(ConfigError, match="no run has a number of it"):
        picture(points[1:], Request(x="step", y="loss"), store)


@pytest.mark.parametrize(
    ("x", "y", "group", "message"),
    [
        ("lr", "acc", "", "--y acc"),
        ("epoch", "loss", "", "--x epoch"),
        ("lr", "loss", "nodes", "--group-by nodes"),
    ],
)
def test_a_picture_of_what_is_not_there(
    tmp_path: Path, x: str, y: str, group: str, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        picture([point(0, loss=1.0)], Request(x=x, y=y, group_by=group), Store(str(tmp_path)))
    assert error.value.message == f"{message}: no run of the sweep has it"
    assert "Allowed: l" in error.value.hint


@pytest.mark.parametrize(
    ("statuses", "worst_of_them"),
    [((), 0), ((0, 0), 0), ((0, 130), 130), ((130, 1, 0), 1), ((1, 130), 1)],
)
def test_a_failure_tells_more_than_a_cancellation(
    statuses: tuple[int, ...], worst_of_them: int
) -> None:
    assert worst(statuses) == worst_of_them
