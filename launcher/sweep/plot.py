"""A sweep as a picture: the last value of a metric against what varies, or learning curves."""

from __future__ import annotations

import math
import os
import re
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher.errors import ConfigError, nearest
from launcher.sweep.status import points_of, short_names, short_values, store_of
from launcher.sweep.table import metric_names, number_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from matplotlib.axes import Axes

    from launcher.store import Store
    from launcher.sweep.status import Point
    from launcher.sweep.store import SweepFolder

_LEGEND = 20  # entries at most
_TOLD = 10  # numbers of points in one line
_NO_PLACE = "no place on a logarithmic axis"
_NOT_FINITE = "no finite number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What to plot. ``x`` and ``group_by`` as in the head of the sweep's table; '': no groups."""

    x: str
    y: str
    group_by: str = ""
    log_x: bool = False
    log_y: bool = False
    out: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one colour, joined in their order. ``label``: '' for a series that needs none."""

    label: str
    xs: list[Any]
    ys: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """All that is drawn. ``lost``: why points are not on it -> their numbers."""

    series: list[Series]
    categories: bool = False
    curves: bool = False
    lost: dict[str, list[int]] = field(default_factory=dict)


def draw(sweep: SweepFolder, asked: Request, say: Callable[[str], object]) -> str:
    """Return the path of the picture, which is written; ConfigError when there is nothing to draw.

    ``say`` gets which points are not on it, and why.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - heavy
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(
            f"launcher plot needs matplotlib ({error})",
            hint="pip install 'training-launcher[plot]'",
        ) from error
    points = points_of(sweep)
    made = picture(points, asked, store_of(sweep))
    for why, numbers in made.lost.items():
        more = f" and {len(numbers) - _TOLD} more" if len(numbers) > _TOLD else ""
        some = ", ".join(map(str, numbers[:_TOLD]))
        say(f"launcher: {len(numbers)} of {len(points)} points left out, {why}: {some}{more}")
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _fill(axes, made, asked)
    axes.set_title(f"{sweep.record().name} ({sweep.id})")
    name = re.sub(r"[^\w.-]", "_", f"{sweep.id}-{asked.y}-by-{asked.x}.png")
    # Not in the current folder, where it would make another source tree, and new points, of it.
    path = os.path.abspath(asked.out or sweep.file(name))
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise ConfigError(
            f"--out {asked.out}: {error}", hint="FILE.png is what it is for."
        ) from error
    return path


def picture(points: Sequence[Point], asked: Request, store: Store) -> Picture:
    """Return what is to be drawn; ConfigError names what there is where a name is unknown."""
    varying = short_names(dict.fromkeys(key for each in points for key in each.entry.values))
    names = {short: key for key, short in varying.items()} | {key: key for key in varying}
    if asked.group_by and asked.group_by not in names:
        raise _unknown("--group-by", asked.group_by, varying.values())
    group = names.get(asked.group_by, "")
    metrics = metric_names(point.status for point in points)
    if asked.y not in metrics:
        raise _unknown("--y", asked.y, metrics)
    if asked.x in names:
        made = _by_value(points, asked, names[asked.x], group)
    else:
        made = _curves(points, asked, group, store)
        if not made.series and set(made.lost) <= {f"no {asked.y}"}:
            beside = {name for name in metrics if name != asked.y} | {"time"}
            raise _unknown("--x", asked.x, [*varying.values(), *sorted(beside)])
    if not made.series:
        raise ConfigError(f"--y {asked.y}: no run has a number of it that can be drawn")
    return made


def _unknown(option: str, name: str, allowed: Iterable[str]) -> ConfigError:
    known = list(dict.fromkeys(allowed))
    hint = f"{nearest(name, known)}Allowed: {', '.join(known) or 'nothing yet'}."
    return ConfigError(f"{option} {name}: no run of the sweep has it", hint=hint)


def _by_value(points: Sequence[Point], asked: Request, key: str, group: str) -> Picture:
    """Return a series a group: the last value of the metric against what was typed."""
    typed = [point.entry.values.get(key) for point in points]
    categories = any(number_of(each) is None for each in typed if each is not None)
    if categories and asked.log_x:
        words = ", ".join(dict.fromkeys(each for each in typed if number_of(each) is None and each))
        raise ConfigError(f"--log-x: {asked.x} has values that are no numbers: {words}")
    lost: dict[str, list[int]] = {}
    series: dict[str, Series] = {}
    for point, text in zip(points, typed, strict=True):
        y = number_of(point.status.metrics.get(asked.y)) if point.status else None
        x = text if categories else number_of(text)
        why = _why_lost(asked, [(x, y)]) or (f"no {asked.x}" if x is None else "")
        if why or x is None or y is None:
            lost.setdefault(why, []).append(point.entry.point)
            continue
        label = _group_label(point, group, asked)
        here = series.setdefault(label, Series(label=label, xs=[], ys=[]))
        here.xs.append(x)
        here.ys.append(y)
    return Picture(series=_ordered(series.values()), categories=categories, lost=lost)


def _curves(points: Sequence[Point], asked: Request, group: str, store: Store) -> Picture:
    """Return a series a run: what it reported, line by line."""
    lost: dict[str, list[int]] = {}
    series: list[Series] = []
    for point in points:
        lines = store.folder(point.entry.run).metrics() if point.entry.run else []
        pairs = [(number_of(each.get(asked.x)), number_of(each.get(asked.y))) for each in lines]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        if asked.x == "time" and known:
            known = [(x - lines[0].get("time", x), y) for x, y in known]
        why = _why_lost(asked, known)
        if why:
            lost.setdefault(why, []).append(point.entry.point)
            continue
        # What is not finite stays: it is a gap in the line.
        drawn = [pair for pair in known if _why_lost(asked, [pair]) in ("", _NOT_FINITE)]
        label = _group_label(point, group, asked) or short_values(point.entry.values)
        xs, ys = zip(*drawn, strict=True)
        series.append(Series(label=label or str(point.entry.point), xs=[*xs], ys=[*ys]))
    return Picture(series=_ordered(series) if group else series, curves=True, lost=lost)


def _why_lost(asked: Request, pairs: Sequence[tuple[Any, float | None]]) -> str:
    """Return why none of these can be drawn; '' when one can."""
    numbers = [(x, y) for x, y in pairs if y is not None]
    if not numbers:
        return f"no {asked.y}"
    finite = [pair for pair in numbers if not any(map(_is_endless, pair))]
    if not finite:
        return _NOT_FINITE
    fits = [
        (x, y)
        for x, y in finite
        if not (asked.log_y and y <= 0) and not (asked.log_x and x is not None and x <= 0)
    ]
    return "" if fits else _NO_PLACE


def _is_endless(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _group_label(point: Point, group: str, asked: Request) -> str:
    return f"{asked.group_by}={point.entry.values.get(group, '')}" if group else ""


def _ordered(series: Iterable[Series]) -> list[Series]:
    """Return the series by the values that they are grouped by: numbers as numbers."""

    def rank(each: Series) -> tuple[bool, float, str]:
        number = number_of(each.label.partition("=")[2])
        return (number is None, number or 0.0, each.label)

    return sorted(series, key=rank)


def _fill(axes: Axes, made: Picture, asked: Request) -> None:
    """Draw the series, with axes and a legend."""
    from matplotlib import colormaps  # noqa: PLC0415

    labels = list(dict.fromkeys(each.label for each in made.series))
    palette = colormaps["tab10" if len(labels) <= 10 else "viridis"]
    if made.categories:  # all of them, in the order of the points, whatever a series has
        seen = dict.fromkeys(x for each in made.series for x in each.xs)
        axes.plot(list(seen), [statistics.fmean(made.series[0].ys)] * len(seen), alpha=0)
    told: set[str] = set()
    for each in made.series:
        at = labels.index(each.label)
        colour = palette(at if len(labels) <= 10 else at / (len(labels) - 1))
        label = None if each.label in told or not each.label else each.label
        told.add(each.label)
        if made.curves:
            single = sum(map(math.isfinite, each.ys)) == 1  # no line would show it
            axes.plot(each.xs, each.ys, color=colour, label=label, marker="." if single else "")
            continue
        axes.plot(each.xs, each.ys, "o", color=colour, label=label)
        if not made.categories:
            axes.plot(*_means(each), color=colour)
    axes.set_xlabel("time (s)" if made.curves and asked.x == "time" else asked.x)
    axes.set_ylabel(asked.y)
    if asked.log_x:
        axes.set_xscale("log")
    if asked.log_y:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    if 0 < len(told - {""}) <= _LEGEND:
        axes.legend(fontsize="small")


def _means(series: Series) -> tuple[list[float], list[float]]:
    """Return a line through the mean of each x."""
    at: dict[float, list[float]] = {}
    for x, y in zip(series.xs, series.ys, strict=True):
        at.setdefault(x, []).append(y)
    return sorted(at), [statistics.fmean(at[x]) for x in sorted(at)]
