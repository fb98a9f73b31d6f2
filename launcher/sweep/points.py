"""What a person types after -m -> the points of a sweep, each a list of plain overrides.

Why the text between commas is kept: a point is what a person would type for that run alone, and
``1e-3`` must reach the script as ``1e-3`` there too.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Glob, IntervalSweep
from hydra.errors import HydraException

from launcher import app, overrides, params
from launcher.errors import ConfigError
from launcher.sweep.parse import Grammar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from hydra.core.override_parser.types import Override

_SIMPLE = re.compile(r"[A-Za-z_./][\w./-]*")  # a text that the grammar reads as itself
_OPEN, _CLOSE = "[{(", "]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point: its overrides, no sweep among them, and of these what varies (key, text)."""

    number: int
    overrides: tuple[str, ...]
    varying: tuple[tuple[str, str], ...]


# An override of a point, and of one that varies its key and its value's text.
_Cell = tuple[str, "tuple[str, str] | None"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An override as it was typed, and what it stands for: ``key`` is with its mark."""

    word: str
    key: str
    choices: tuple[str, ...] = ()  # texts; (): it does not vary
    interval: IntervalSweep | None = None

    @property
    def name(self) -> str:
        """Return the key without its mark."""
        return self.key.lstrip("+~")

    @property
    def varies(self) -> bool:
        """Return whether points differ in it."""
        return self.interval is not None or bool(self.choices)

    def cells(self) -> list[_Cell]:
        """Return the override with each of its choices; ConfigError where they are not finite."""
        if self.interval is not None:
            raise ConfigError(
                f"{self.word}: an interval has no list of values",
                hint="Say how many points are drawn from it: sweep.samples=50",
            )
        return [self.cell(text) for text in self.choices] or [(self.word, None)]

    def cell(self, text: str) -> _Cell:
        """Return the override with one choice."""
        return f"{self.key}={text}", (self.name, text)


def expand(request: app.Request, settings: Mapping[str, Any]) -> tuple[Point, ...]:
    """Return the points of ``request``; ``settings``: the configuration's section ``sweep``.

    ConfigError, with the key and what is allowed, on what makes no points. Nothing is composed.
    """
    typed = axes(request, request.overrides)
    names = {axis.name for axis in typed}
    own = settings["params"].items()  # a text there is what a person would type
    listed = [f"{key}={each if isinstance(each, str) else _literal(each)}" for key, each in own]
    every = [axis for axis in axes(request, listed) if axis.name not in names] + typed
    if settings["samples"] is None:
        rows = _grid(every, _paired(every, settings["zip"]))
    else:
        rows = _sampled(every, int(settings["samples"]), int(settings["seed"]))
    if settings["points"] is not None:
        lines = list(_lines(str(settings["points"])))
        rows = ((*row, *line) for row in rows for line in lines)
    points: dict[tuple[str, ...], Point] = {}
    for row in rows:
        words = tuple(word for word, _ in row)
        varying = tuple(value for _, value in row if value is not None)
        points.setdefault(words, Point(number=len(points), overrides=words, varying=varying))
    return tuple(points.values())


def first(request: app.Request) -> tuple[str, ...]:
    """Return the overrides of the first point that decide how the sweep is made."""
    chosen = axes(request, request.overrides)
    own = [axis for axis in chosen if axis.name.startswith("sweep.") or axis.name == "experiment"]
    return tuple(axis.cells()[0][0] for axis in own)


def axes(request: app.Request, words: Sequence[str]) -> list[Axis]:
    """Return what each override stands for; of two with the same key the later one counts."""
    found: dict[str, Axis] = {}
    for word in words:
        axis = _axis(request, word)
        if re.match(r"sweep\.(?!params)", axis.name) and axis.varies:
            raise ConfigError(
                f"{word}: how a sweep is made cannot be swept",
                hint=f"For a list: {axis.name}=[...].",
            )
        found[axis.key] = axis
    return list(found.values())


@functools.cache
def _grammar() -> Grammar:
    return Grammar()


def _axis(request: app.Request, word: str) -> Axis:
    mark, key, value = overrides.parts(word)
    fixed = Axis(word=word, key=mark + key)
    if value is None or mark == "~":
        return fixed
    inner = re.fullmatch(r"choice\((.*)\)", value, re.DOTALL)
    texts = split(inner[1] if inner else value)
    if inner or len(texts) > 1:
        return Axis(word=word, key=mark + key, choices=tuple(texts))
    try:
        parsed = _grammar().parse(overrides.readable(word))
        if not parsed.is_sweep_override():
            return fixed
        if parsed.is_interval_sweep():
            interval = parsed.value()
            assert isinstance(interval, IntervalSweep)  # noqa: S101 - for the type checker
            return Axis(word=word, key=mark + key, interval=interval)
        choices = tuple(_choices(request, parsed))
    except HydraException:
        return fixed  # no sweep, and no override either perhaps: composing it tells
    if not choices:
        raise ConfigError(f"{word}: it has no values", hint="A point needs one of each.")
    return Axis(word=word, key=mark + key, choices=choices)


def _choices(request: app.Request, parsed: Override) -> Iterator[str]:
    if isinstance(parsed.value(), Glob):
        options = app.group_options(request, parsed.key_or_group)
        found: Glob = parsed.value()  # type: ignore[assignment]
        return iter(found.filter(options))
    return parsed.sweep_string_iterator()


def split(text: str) -> list[str]:
    """Return what stands between the commas of ``text``, less those in quotes and brackets."""
    parts, depth, quote, begin = [], 0, "", 0
    place = 0
    while place < len(text):
        letter = text[place]
        if letter == "\\":
            place += 1  # the next one means itself
        elif quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not text[begin:place].strip():
            quote = letter
        elif letter in _OPEN:
            depth += 1
        elif letter in _CLOSE:
            depth -= 1
        elif letter == "," and depth <= 0:
            parts.append(text[begin:place].strip())
            begin = place + 1
        place += 1
    return [*parts, text[begin:].strip()]


def _paired(every: Sequence[Axis], given: Sequence[Any]) -> list[list[Axis]]:
    """Return the axes in lists whose values are paired; most are alone."""
    lists = [given] if given and not isinstance(given[0], (list, tuple)) else list(given)
    by_name = {axis.name: axis for axis in every if axis.varies}
    of: dict[str, int] = {}
    for number, names in enumerate(lists):
        for name in names:
            if name not in by_name:
                known = ", ".join(by_name) or "none"
                raise ConfigError(
                    f"sweep.zip: {name} has no values to be paired", hint=f"These vary: {known}."
                )
            of[name] = number
        counts = {name: len(by_name[name].cells()) for name in names}
        if len({*counts.values()}) > 1:
            told = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise ConfigError(
                f"sweep.zip: paired keys need as many values each: {told}",
                hint="Give as many of each, or leave one out of sweep.zip: it is crossed then.",
            )
    found: dict[Any, list[Axis]] = {}
    for axis in every:
        found.setdefault(of.get(axis.name, axis.key), []).append(axis)
    return list(found.values())


def _grid(every: Sequence[Axis], paired: list[list[Axis]]) -> Iterator[tuple[_Cell, ...]]:
    """Yield the rows of the grid, the last key varying fastest, each in the order of the axes."""
    order = {axis.key: place for place, axis in enumerate(every)}
    flat = [axis for members in paired for axis in members]
    places = sorted(range(len(flat)), key=lambda place: order[flat[place].key])
    steps = [list(zip(*(axis.cells() for axis in members), strict=True)) for members in paired]
    for row in itertools.product(*steps):
        cells = [cell for step in row for cell in step]
        yield tuple(cells[place] for place in places)


def _sampled(every: Sequence[Axis], count: int, seed: int) -> Iterator[tuple[_Cell, ...]]:
    """Yield ``count`` rows drawn at random; more of them begin with the same ones."""
    if count < 1:
        raise ConfigError(f"sweep.samples={count}: must be 1 or more")
    for number in range(count):
        row = []
        for axis in every:
            chance = random.Random(f"{seed}:{number}:{axis.key}")  # noqa: S311 - no secret
            if axis.interval is not None:
                row.append(axis.cell(_drawn(axis, axis.interval, chance)))
            else:
                row.append(chance.choice(axis.cells()))
        yield tuple(row)


def _drawn(axis: Axis, interval: IntervalSweep, chance: random.Random) -> str:
    low, high = interval.start, interval.end
    if low is None or high is None or low > high:
        raise ConfigError(f"{axis.word}: not an interval", hint="interval(0.1,1): from, to.")
    whole = (isinstance(low, int) and isinstance(high, int)) or "int" in interval.tags
    if "log" in interval.tags:
        if low <= 0:
            raise ConfigError(f"{axis.word}: a logarithm needs an interval above 0")
        value = math.exp(chance.uniform(math.log(low), math.log(high)))
    elif whole:
        return str(chance.randint(math.ceil(low), math.floor(high)))
    else:
        value = chance.uniform(low, high)
    return str(round(value)) if whole else f"{value:.6g}"


def _lines(path: str) -> Iterator[tuple[_Cell, ...]]:
    """Yield what each line of a file of points adds to a row."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = list(enumerate(file, 1))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"sweep.points={path}: cannot be read: {error}") from error
    for number, line in lines:
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            parts: list[tuple[str, str, str | None]]
            if isinstance(values, dict):
                pairs = values.items()
                parts = [(f"{key}={_literal(each)}", key, _text(each)) for key, each in pairs]
            else:
                parts = [(str(word), *overrides.parts(word)[1:]) for word in values]
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{path}:{number}: not a point: {error}",
                hint='A line is {"nodes": 2, "script_params.lr": 0.1} or ["nodes=2", "name=a"].',
            ) from error
        yield tuple((word, (key, text or "")) for word, key, text in parts)


def _literal(value: Any) -> str:
    """Return ``value`` as Hydra's grammar writes it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_literal(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_literal, value)) + "]"
    plain = not isinstance(value, str) or _SIMPLE.fullmatch(value)
    return _text(value) if plain else params.quoted(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
