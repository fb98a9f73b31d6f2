"""Where the runs of a sweep are: read from its points, and from what is known of their runs."""

from __future__ import annotations

import contextlib
import math
import os
import re
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.errors import LaunchError, StoreError
from launcher.job import RunState
from launcher.observe import Looks
from launcher.store import INDEX, RunFolder, Store
from launcher.sweep.store import Entry, SweepFolder, SweepRecord, Sweeps

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from launcher.store import RunStatus

NOT_RUN = "NOT RUN"  # a point that was left out, or is not launched yet
MISSING = "MISSING"  # a run whose folder is gone
STATES = (*(state.value for state in RunState), MISSING, NOT_RUN)
# An index line as RunStatus.to_json writes it, and a point's: fifty thousand are read by pattern.
_ENDED = re.compile(
    rb'^\{"id": "([^"\\]*)", "name": "(?:[^"\\]|\\.)*", "state": "(\w+)"', re.MULTILINE
)
_POINT = re.compile(rb'^\{"point": (\d+), "run": "([^"\\]*)"', re.MULTILINE)
# Words of metrics' names that tell which way is better.
_HIGHER = {"accuracy", "acc", "auc", "f1", "score", "reward"}
_LOWER = {"loss", "error", "perplexity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A point of a sweep, with what is known of its run; None: it has none."""

    entry: Entry
    status: RunStatus | None

    @property
    def state(self) -> str:
        """Return the state of its run, or why there is none."""
        if self.status is None:
            return MISSING if self.entry.run else NOT_RUN
        return self.status.state.value

    @property
    def label(self) -> str:
        """Return the point as a person names it: its number and what varies."""
        words = short_values(self.entry.values)
        return f"{self.entry.point} {words}" if words else str(self.entry.point)

    def to_json(self) -> dict[str, Any]:
        """Return the point as JSON values: those of its run, with its number and what varies."""
        run = self.status.to_json() if self.status else {"id": self.entry.run}
        own = {"point": self.entry.point, "values": self.entry.values, "state": self.state}
        return {**run, **own}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A sweep in one line. ``states``: how many of its points are in each, as far as any are."""

    record: SweepRecord
    points: int
    states: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        values = {name: getattr(self.record, name) for name in self.record.__dataclass_fields__}
        return {**values, "points": self.points, "states": self.states}


class SweepLooks:
    """Looks at a sweep, again and again; points that it gets meanwhile are seen."""

    def __init__(self, sweep: SweepFolder) -> None:
        """Name the sweep; nothing is read."""
        self.sweep = sweep
        self.looks = Looks(store_of(sweep), ())
        self._size = -1
        self._entries: list[Entry] = []

    def now(self) -> list[Point]:
        """Return the points, after one question to each scheduler of runs that have not ended."""
        size = 0
        with contextlib.suppress(FileNotFoundError):
            size = os.stat(self.sweep.file("points.jsonl")).st_size
        if size != self._size:
            self._size, self._entries = size, self.sweep.entries()
            self.looks.add(entry.run for entry in self._entries if entry.run)
        known = self.looks.now()
        return [Point(entry=entry, status=known.get(entry.run)) for entry in self._entries]


def points_of(sweep: SweepFolder) -> list[Point]:
    """Return the points of a sweep with what is known of their runs."""
    return SweepLooks(sweep).now()


def store_of(sweep: SweepFolder) -> Store:
    """Return the store that holds a sweep and its runs."""
    return Store(os.path.dirname(os.path.dirname(sweep.path)))


def counts(states: Iterable[str]) -> dict[str, int]:
    """Return how many there are of each state, in the order of a run's life."""
    found = Counter(states)
    return {state: found[state] for state in STATES if found[state]}


def summaries(sweeps: Sweeps, latest: int | None = None) -> list[Summary]:
    """Return all sweeps, or the latest ones, oldest first; folders that are none are left out."""
    records, runs = {}, {}
    for folder in map(sweeps.folder, sweeps.ids()[-(latest or 0) :]):
        try:
            records[folder.id] = folder.record()
            runs[folder.id] = _runs(folder)
        except (LaunchError, OSError):
            records.pop(folder.id, None)
    states = _ended(sweeps.store)
    going = [run for each in runs.values() for run in each if run and run not in states]
    looked = Looks(sweeps.store, going).now()
    states |= {status.id: status.state.value for status in looked.values()}
    states[""] = NOT_RUN
    return [
        Summary(
            record=record,
            points=len(runs[name]),
            states=counts(states.get(run, MISSING) for run in runs[name]),
        )
        for name, record in records.items()
    ]


def _runs(folder: SweepFolder) -> list[str]:
    """Return the run of each point."""
    with open(folder.file("points.jsonl"), "rb") as file:
        text = file.read()
    found = _POINT.findall(text)
    if len(found) == text.count(b"\n") - text.count(b"\n\n"):
        return [run.decode() for run in dict(found).values()]
    return [entry.run for entry in folder.entries()]


def _ended(store: Store) -> dict[str, str]:
    """Return the states of the runs that are indexed."""
    try:
        with open(os.path.join(store.path, INDEX), "rb") as file:
            found = _ENDED.findall(file.read())
    except OSError:
        return {}
    return {run.decode(): state.decode() for run, state in found}


def named(store: Store, text: str) -> RunFolder | SweepFolder:
    """Return the run or the sweep that an id or a prefix names; @last: what was launched last."""
    if text == "@last":
        last = store.last()
        return Sweeps(store).folder(last.record().sweep) if last.record().sweep else last
    sweep = _the_sweep(store, text, [each for each in store.ids() if each.startswith(text)])
    return Sweeps(store).folder(sweep) if sweep else store.find(text)


def refuse_sweep(store: Store, text: str, found: Sequence[str]) -> None:
    """Raise StoreError when ``text`` names a sweep; ``found``: the runs that begin so."""
    sweep = _the_sweep(store, text, found)
    if sweep:
        hint = f"launcher runs --sweep {sweep} lists its runs."
        raise StoreError(f"{text} is a sweep, not a run", hint=hint)


def _the_sweep(store: Store, text: str, runs: Sequence[str]) -> str:
    """Return the one sweep that ``text`` begins, if the ``runs`` that it begins are all of it."""
    ids = [each for each in Sweeps(store).ids() if text and each.startswith(text)]
    return ids[0] if len(ids) == 1 and all(run.startswith(ids[0]) for run in runs) else ""


def short_values(values: dict[str, str]) -> str:
    """Return what varies as ``lr=0.1 nodes=2``."""
    return " ".join(f"{short}={values[key]}" for key, short in short_names(values).items())


def short_names(keys: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return for each key the shortest end of it that names no other one and is not ``taken``."""
    ends: Counter[str] = Counter(taken)
    each_ends = {key: _ends(key) for key in keys}
    for of_key in each_ends.values():
        ends.update(of_key)
    return {
        key: next((end for end in of_key if ends[end] == 1), key)
        for key, of_key in each_ends.items()
    }


def _ends(key: str) -> list[str]:
    """Return ``lr``, ``optim.lr``, ``script_params.optim.lr`` of the last one."""
    parts = key.split(".")
    return [".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1)]


def time_left(points: Sequence[Point], now: float) -> float | None:
    """Return in how many seconds the last run will have ended; None: nothing tells.

    Taken for granted: a run takes as long as those that ended did on average, and as many run at
    once as do now.
    """
    known = [point.status for point in points if point.status]
    took = [
        each.ended - each.started
        for each in known
        if each.ended and each.started and each.state is not RunState.CANCELLED
    ]
    running = [now - (each.started or now) for each in known if each.state is RunState.RUNNING]
    waiting = sum(each.state in (RunState.SUBMITTING, RunState.PENDING) for each in known)
    if not took or not running:
        return None
    usual = statistics.fmean(took)
    rests = [max(usual - elapsed, 0.0) for elapsed in running]
    return max(*rests, (sum(rests) + waiting * usual) / len(running))


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The point whose run reported the highest, or the lowest, value of a metric last."""

    metric: str
    higher: bool
    value: float
    point: Point


def best(points: Sequence[Point], wanted: str = "") -> Best | None:
    """Return the best point; None: no run has reported that metric.

    ``wanted``: a metric, ``-metric`` when the lower is the better; by default one whose name tells.
    """
    names = dict.fromkeys(name for each in points if each.status for name in each.status.metrics)
    higher, name = not wanted.startswith("-"), wanted.removeprefix("-")
    if not wanted:
        told = {each: set(re.split(r"[^a-z0-9]+", each.lower())) for each in names}
        ups = [each for each, words in told.items() if words & _HIGHER]
        downs = [each for each, words in told.items() if words & _LOWER]
        higher, name = bool(ups), next(iter(ups + downs), "")
    found = [
        (value, -point.entry.point, point)
        for point in points
        if point.status and (value := _finite(point.status.metrics.get(name))) is not None
    ]
    if not found:
        return None
    value, _, point = max(found, key=lambda each: (each[0] if higher else -each[0], each[1]))
    return Best(metric=name, higher=higher, value=value, point=point)


def _finite(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if number and math.isfinite(value) else None
