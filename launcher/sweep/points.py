"""What a person types after -m -> the points of a sweep, each a list of plain overrides."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher import overrides, params
from launcher.errors import ConfigError
from launcher.sweep.grammar import MANY, Axis, Cell, Interval, axes, is_sweep, refuse_sweep

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from launcher import app

# A text that Hydra's grammar reads as itself.
_SIMPLE = re.compile(r"(?!(?:null|true|false|nan|inf)$)[A-Za-z_/][\w./-]*", re.IGNORECASE)


class _Typed(str):
    """A number of a file of points, as it was typed there."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point: its overrides, no sweep among them, and of these what varies (key, text)."""

    number: int
    overrides: tuple[str, ...]
    varying: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """Axes that advance together: most of them one alone."""

    places: tuple[int, ...]  # theirs, among all axes
    key: str  # of the first
    axis: Axis
    interval: Interval | None
    rows: Sequence[tuple[Cell, ...]]

    def drawn(self, chance: random.Random, sample: str) -> tuple[Cell, ...]:
        """Return what a sample, named ``sample``, has: the same whatever else varies."""
        if self.interval is None and len(self.rows) == 1:
            return self.rows[0]
        chance.seed(f"{sample}:{self.key}")  # as a new one, in half the time
        if self.interval is None:
            return chance.choice(self.rows)
        return (self.axis.cell(self.interval.drawn(chance)),)


def expand(request: app.Request, settings: Mapping[str, Any]) -> tuple[Point, ...]:
    """Return the points of ``request``; ``settings``: the configuration's section ``sweep``.

    ConfigError, with the key and what is allowed, on what makes no points. Nothing is composed.
    """
    typed = axes(request, request.overrides)
    names = {axis.name for axis in typed}
    own = settings["params"].items()  # a text there is what a person would type
    listed = [f"{key}={each if isinstance(each, str) else _literal(each)}" for key, each in own]
    every = [axis for axis in axes(request, listed) if axis.name not in names] + typed
    seed, samples = int(settings["seed"]), settings["samples"]
    steps = _steps(every, settings["zip"], seed, sampled=samples is not None)
    rows = _grid(steps) if samples is None else _sampled(steps, int(samples), seed)
    if settings["points"] is not None:
        lines = _lines(str(settings["points"]))
        given = {value[0] for line in lines for _, value in line if value is not None}
        twice = next((axis.name for axis in every if axis.varies and axis.name in given), "")
        if twice:
            raise ConfigError(
                f"{twice}: varies at the prompt, and is in {settings['points']} too",
                hint="The file's values would win: take it out of one of them.",
            )
        rows = ((*row, *line) for row in rows for line in lines)
    points: dict[tuple[str, ...], Point] = {}
    for row in rows:
        words = tuple(word for word, _ in row)
        if words not in points:
            varying = tuple(value for _, value in row if value is not None)
            points[words] = Point(number=len(points), overrides=words, varying=varying)
    return tuple(points.values())


def first(request: app.Request) -> tuple[str, ...]:
    """Return the overrides of the first point that decide how the sweep is made."""
    chosen = axes(request, request.overrides)
    groups = (*overrides.GROUPS, "experiment")  # an experiment's keys may be those of an option
    own = [axis for axis in chosen if axis.name.startswith("sweep.") or axis.name in groups]
    return tuple(axis.cells()[0][0] for axis in own)


def _steps(
    every: Sequence[Axis], zipped: Sequence[Any], seed: int, *, sampled: bool
) -> list[_Step]:
    """Return the axes by what advances together; in the order of the first ones."""
    of = _partners(every, zipped)
    members: dict[Any, list[int]] = {}
    for place, axis in enumerate(every):
        number = of.get(axis.name) if axis.varies else None
        members.setdefault(("alone", place) if number is None else number, []).append(place)
    steps = []
    for places in members.values():
        axis = every[places[0]]
        drawn = sampled and axis.interval is not None and len(places) == 1
        rows = [] if drawn else list(zip(*(_cells(every[at], seed) for at in places), strict=True))
        interval = axis.interval if drawn else None
        step = _Step(places=tuple(places), key=axis.name, axis=axis, interval=interval, rows=rows)
        steps.append(step)
    return steps


def _cells(axis: Axis, seed: int) -> list[Cell]:
    cells = axis.cells()
    if axis.shuffled:
        random.Random(f"{seed}:{axis.name}").shuffle(cells)  # noqa: S311 - no secret
    return cells


def _partners(every: Sequence[Axis], zipped: Sequence[Any]) -> dict[str, int]:
    """Return the number of the list of sweep.zip that a key is in."""
    nested = any(isinstance(each, (list, tuple)) for each in zipped)
    lists = [each if isinstance(each, (list, tuple)) else [each] for each in zipped]
    by_name = {axis.name: axis for axis in every if axis.varies}
    of: dict[str, int] = {}
    for number, names in enumerate(lists if nested else [list(zipped)]):
        counts: dict[str, int] = {}
        for name in names:
            if name not in by_name:
                known = ", ".join(by_name) or "none"
                raise ConfigError(
                    f"sweep.zip: {name} has no values to be paired", hint=f"These vary: {known}."
                )
            if name in of:
                raise ConfigError(
                    f"sweep.zip: {name} is there twice", hint="One list has all that are paired."
                )
            of[name] = number
            counts[name] = len(by_name[name].cells())
        if len({*counts.values()}) > 1:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ConfigError(
                f"sweep.zip: paired keys need as many values each: {told}",
                hint="Give as many of each, or leave one out of sweep.zip: it is crossed then.",
            )
    return of


def _grid(steps: Sequence[_Step]) -> Iterator[tuple[Cell, ...]]:
    """Yield the rows of the grid, the last key varying fastest, each in the order of the axes."""
    count = math.prod(len(step.rows) for step in steps)
    if count > MANY:
        raise ConfigError(
            f"a grid of {count} points: more than {MANY}",
            hint="Vary less, or draw some of them at random: sweep.samples=1000",
        )
    for row in itertools.product(*(step.rows for step in steps)):
        yield _ordered(steps, row)


def _sampled(steps: Sequence[_Step], count: int, seed: int) -> Iterator[tuple[Cell, ...]]:
    """Yield ``count`` rows drawn at random; more of them begin with the same ones."""
    if not 1 <= count <= MANY:
        raise ConfigError(f"sweep.samples={count}: must be from 1 to {MANY}")
    chance = random.Random()  # noqa: S311 - no secret
    for number in range(count):
        yield _ordered(steps, [step.drawn(chance, f"{seed}:{number}") for step in steps])


def _ordered(steps: Sequence[_Step], parts: Sequence[tuple[Cell, ...]]) -> tuple[Cell, ...]:
    """Return the cells of all steps, in the order of the axes."""
    if all(len(step.places) == 1 for step in steps):
        return tuple(part[0] for part in parts)
    cells = {
        place: cell
        for step, part in zip(steps, parts, strict=True)
        for place, cell in zip(step.places, part, strict=True)
    }
    return tuple(cells[place] for place in sorted(cells))


def _lines(path: str) -> list[tuple[Cell, ...]]:
    """Return what each line of a file of points adds to a row."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = list(enumerate(file, 1))
    except (OSError, ValueError) as error:
        raise ConfigError(f"sweep.points={path}: cannot be read: {error}") from error
    found = []
    for number, line in lines:
        if not line.strip():
            continue
        try:
            found.append(tuple(_line(json.loads(line, parse_float=_Typed))))
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigError(
                f"{path}:{number}: not a point: {error}",
                hint='A line is {"nodes": 2, "script_params.lr": 0.1} or ["nodes=2", "name=a"].',
            ) from error
    if not found:
        raise ConfigError(f"sweep.points={path}: there are no points in it")
    return found


def _line(values: Any) -> Iterator[Cell]:
    """Yield the overrides of a line of a file of points."""
    if isinstance(values, dict):
        words = [(f"{key}={_literal(each)}", _text(each)) for key, each in values.items()]
    elif isinstance(values, list):
        words = [(str(word), overrides.parts(word)[2] or "") for word in values]
    else:
        raise TypeError("neither an object nor a list")
    for word, text in words:
        _, key, _ = overrides.parts(word)
        refuse_sweep(key, word, varies=True)
        if isinstance(values, list) and is_sweep(text):
            raise ValueError(f"{word} is a sweep")
        yield word, (key, text)


def _literal(value: Any) -> str:
    """Return ``value`` as Hydra's grammar writes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_literal, value)) + "]"
    text = isinstance(value, str) and not isinstance(value, _Typed)
    return params.quoted(value) if text and not _SIMPLE.fullmatch(value) else _text(value)


def _text(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)
