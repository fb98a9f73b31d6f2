"""Runs as rows and columns: sorted, as text for a person, as CSV for a program."""

from __future__ import annotations

import csv
import io
import math
import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher.errors import ConfigError, nearest
from launcher.show import duration, table, where
from launcher.sweep.status import short_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from launcher.store import RunStatus
    from launcher.sweep.status import Point

_FIXED = ("id", "point", "state", "duration_s", "why")
_OF_RUNS = ("id", "name", "state", "where", "ranks", "started", "duration_s")
_ALIASES = {"duration": "duration_s"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Rows of cells below the names of their columns; None: there is no value.

    ``aliases``: other names of a column, as a person may type them.
    """

    names: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    aliases: Mapping[str, str]

    def column(self, name: str) -> int:
        """Return the number of the column of that name; raise ConfigError with the list."""
        wanted = self.aliases.get(name, name)
        if wanted in self.names:
            return self.names.index(wanted)
        raise ConfigError(
            f"--sort {name}: there is no such column",
            hint=nearest(name, self.names) + f"Allowed: {', '.join(self.names)}.",
        )

    def order(self, by: str) -> list[int]:
        """Return the numbers of the rows, sorted by ``name``, or by ``-name`` downwards.

        Numbers come as numbers, also those that were typed, before texts; what is missing, or is
        no number at all (nan), comes last either way.
        """
        at, down = self.column(by.removeprefix("-")), by.startswith("-")
        numbers: list[tuple[float, int]] = []
        texts: list[tuple[str, int]] = []
        rest: list[int] = []
        for row, cells in enumerate(self.rows):
            cell, number = cells[at], number_of(cells[at])
            if cell in (None, "") or (number is not None and math.isnan(number)):
                rest.append(row)
            elif number is None:
                texts.append((str(cell), row))
            else:
                numbers.append((number, row))
        ordered = [
            row
            for found in (numbers, texts)
            for _, row in sorted(found, key=operator.itemgetter(0), reverse=down)
        ]
        return ordered + rest

    def of(self, rows: Iterable[int]) -> Grid:
        """Return these rows, in this order."""
        return replace(self, rows=[self.rows[row] for row in rows])

    def csv_text(self) -> str:
        """Return the rows as CSV, with their head; numbers in full."""
        to = io.StringIO()
        writer = csv.writer(to, lineterminator="\n")
        writer.writerow(self.names)
        writer.writerows(self.rows)
        return to.getvalue()


def number_of(cell: Any) -> float | None:
    """Return a cell as a number, also one that was typed; None where it is none."""
    try:
        return None if cell is None else float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def metric_names(statuses: Iterable[RunStatus | None]) -> list[str]:
    """Return the names of all metrics, in the order in which they are met."""
    return list(dict.fromkeys(name for each in statuses if each for name in each.metrics))


def sweep_grid(points: Sequence[Point]) -> Grid:
    """Return a sweep's points: what varies, then what was measured."""
    keys = list(dict.fromkeys(key for point in points for key in point.entry.values))
    metrics = metric_names(point.status for point in points)
    short = short_names(keys, taken=(*_FIXED, *metrics))
    shown = _renamed(metrics, (*_FIXED, *short.values()))
    rows = [
        (
            point.entry.run or None,
            point.entry.point,
            point.state,
            *(point.entry.values.get(key) for key in keys),
            *_measured(point.status, metrics),
            _duration(point.status),
            (point.status.reason if point.status else "") or None,
        )
        for point in points
    ]
    names = (*_FIXED[:3], *short.values(), *shown, *_FIXED[3:])
    return Grid(names=names, rows=rows, aliases={**_ALIASES, **short})


def runs_grid(statuses: Sequence[RunStatus]) -> Grid:
    """Return runs of any kind: where they ran, and what was measured."""
    metrics = metric_names(statuses)
    rows = [
        (
            each.id,
            each.name,
            each.state.value,
            where(each),
            each.world_size,
            each.started,
            _duration(each),
            *_measured(each, metrics),
            each.reason or None,
        )
        for each in statuses
    ]
    names = (*_OF_RUNS, *_renamed(metrics, (*_OF_RUNS, "why")), "why")
    return Grid(names=names, rows=rows, aliases=_ALIASES)


def _renamed(metrics: Iterable[str], taken: Sequence[str]) -> list[str]:
    return [f"metrics.{name}" if name in taken else name for name in metrics]


def _measured(status: RunStatus | None, metrics: Iterable[str]) -> tuple[Any, ...]:
    return tuple(status.metrics.get(name) if status else None for name in metrics)


def _duration(status: RunStatus | None) -> float | None:
    """Return the duration; None also for a run that was lost, nobody knows when."""
    if status is None or (status.state.final and not status.ended):
        return None
    return status.duration_s


def sweep_text(grid: Grid, *, numbered: bool = False) -> str:
    """Return the table of a sweep's points, by their runs, or by their numbers if ``numbered``.

    ``grid``: what ``sweep_grid`` gave.
    """
    left = {"point", "id"} | ({"why"} if all(row[-1] is None for row in grid.rows) else set())
    kept = [at for at, name in enumerate(grid.names) if name not in left]
    heads = ["#" if numbered else "ID", *(_head(grid.names[at]) for at in kept)]
    rows = [
        [
            str(row[1]) if numbered else row[0] or f"(point {row[1]})",
            *(_cell(grid.names[at], row[at]) for at in kept),
        ]
        for row in grid.rows
    ]
    return table(heads, rows)


def _head(name: str) -> str:
    return {"state": "STATE", "duration_s": "DURATION", "why": "WHY"}.get(name, name)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "duration_s":
        return duration(value)
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("\n", "\\n")  # a row is a line
