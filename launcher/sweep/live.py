"""A sweep while it runs: a table that stays in place on a terminal, elsewhere a line a run.

Why looks become rarer the longer one takes: a sweep of ten thousand must not keep a file system
busy with being watched.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING

from launcher import show
from launcher.cli.words import exit_status, runs_dir_option, worst
from launcher.follow import Waiting
from launcher.job import RunState
from launcher.sweep.heal import under_way
from launcher.sweep.status import MISSING, NOT_RUN, SweepLooks, best, counts, store_of, time_left
from launcher.sweep.table import sweep_grid, sweep_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.text import Text

    from launcher.sweep.status import Point
    from launcher.sweep.store import SweepFolder

_LOOK_S = (0.1, 1.0)  # between two looks, at first and later
_SHARE = 5  # times as long as a look took, at least
_WAITING = (RunState.SUBMITTING.value, RunState.PENDING.value)
_STYLES = {"SUCCEEDED": "green", "RUNNING": "cyan"} | dict.fromkeys(
    ("FAILED", "TIMED_OUT", "LOST", "CANCELLED", MISSING), "red"
)
_MARKS = {"ended": ("━", "="), "RUNNING": ("─", "-"), "rest": ("·", ".")}  # ASCII where need be


def watch(sweep: SweepFolder, say: Callable[[str], object], best: str = "") -> int:
    """Return the exit status of the worst run, after following a sweep to its end.

    ``best``: the metric to tell the best run by; ``-loss``: the lower the better. Ctrl-C ends the
    following, not the sweep: 130.
    """
    status = watched(sweep, say, best)
    return 130 if status is None else status


def watched(
    sweep: SweepFolder, say: Callable[[str], object], best: str, known: set[str] | None = None
) -> int | None:
    """Return what ``watch`` does; None when Ctrl-C ended it.

    ``known``: runs whose end was told before, by an earlier call; it gets those of this one.
    """
    gc.enable()  # days may pass
    looks = polled(SweepLooks(sweep))
    try:
        if _is_terminal():
            points = _on_terminal(looks, sweep, best)
        else:
            points = _in_lines(looks, say, set() if known is None else known)
    except KeyboardInterrupt:
        told = sweep.id + runs_dir_option(store_of(sweep).path)
        say(f"\nlauncher: sweep {sweep.id} goes on without us")
        say(f"  launcher wait {told}   launcher cancel {told}")
        return None
    return worst(_status(point) for point in points)


def polled(looks: SweepLooks) -> Iterator[list[Point]]:
    """Yield the points, again and again, until all their runs have ended and no more will come."""
    begun = time.monotonic()
    while True:
        before = time.monotonic()
        more = under_way(looks.sweep)  # first: what it queues until then, we see
        points = looks.now()
        took = time.monotonic() - before
        yield points
        if not more and not any(each.status and not each.status.state.final for each in points):
            return
        pause = min(_LOOK_S[0] + (before - begun) / 50, _LOOK_S[1])
        time.sleep(max(pause, took * _SHARE))


def _status(point: Point) -> int:
    if point.status is None:
        return 1 if point.state == MISSING else 0
    return exit_status(point.status.state)


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _in_lines(
    looks: Iterator[list[Point]], say: Callable[[str], object], told: set[str]
) -> list[Point]:
    """Return the points at last, after a line for each run as it ends."""
    waiting = Waiting(say)
    for points in looks:
        for point in points:
            run, status = point.entry.run, point.status
            if run and run not in told and (status is None or status.state.final):
                told.add(run)
                print(f"{run} {point.state}", flush=True)
                if status and status.reason:
                    say(f"launcher: {run}: {status.reason}")
        first = next((each.status for each in points if each.state == "PENDING"), None)
        if first:
            waiting.look(first)
    without = sum(point.state == NOT_RUN for point in points)
    if without:
        say(f"launcher: {without} of {len(points)} points have no run")
    return points


def _on_terminal(looks: Iterator[list[Point]], sweep: SweepFolder, wanted: str) -> list[Point]:
    """Return the points at last; the terminal keeps the last view."""
    from rich.console import Console  # noqa: PLC0415 - for terminals only
    from rich.live import Live  # noqa: PLC0415

    record = sweep.record()
    title = f"sweep {record.id} ({record.name})"
    with Live(console=Console(highlight=False), auto_refresh=False, transient=False) as live:
        for points in looks:
            now = time.time()
            since = show.duration(now - record.created)
            live.update(view(f"{title}  {since}", points, wanted, now), refresh=True)
    return points


def view(title: str, points: Sequence[Point], wanted: str, now: float) -> RenderableType:
    """Return the points as rich draws them: never higher than the terminal, never wider."""
    return _View(title, points, headlines(points, wanted, now))


class _View:
    def __init__(self, title: str, points: Sequence[Point], head: Sequence[str]) -> None:
        self._title, self._points, self._head = title, points, head

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = console.size.height - 2  # the title, the cursor
        lines = [_line(self._title, "bold"), self._bar(options), *map(_line, self._head)]
        shown = bounded(self._points, room - len(lines))
        if shown:
            first, *rest = sweep_text(sweep_grid(shown), numbered=True).splitlines()
            lines.append(_line(first, "dim"))
            for point, line in zip(shown, rest, strict=True):
                lines.append(_line(line, _STYLES.get(point.state, "")))
        yield from lines[: room + 1]

    def _bar(self, options: ConsoleOptions) -> Text:
        """Return a line as wide as the terminal, shared among the states."""
        from rich.text import Text  # noqa: PLC0415

        width = max(options.max_width - 1, 1)
        text, done, total = Text(no_wrap=True), 0, len(self._points)
        states = counts(point.state for point in self._points)
        order = sorted(states, key=lambda state: (_part(state) != "ended", state != "RUNNING"))
        for state in order:
            done += states[state]
            mark = _MARKS[_part(state)][options.ascii_only]
            text.append(mark * (width * done // total - len(text)), _STYLES.get(state, "dim"))
        return text


def _line(text: str, style: str = "") -> Text:
    from rich.text import Text  # noqa: PLC0415

    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _part(state: str) -> str:
    if state == RunState.RUNNING.value:
        return state
    return "rest" if state in (*_WAITING, NOT_RUN) else "ended"


def headlines(points: Sequence[Point], wanted: str, now: float) -> list[str]:
    """Return how many points are where, how long it may take, which is best, why some wait."""
    states = counts(point.state for point in points)
    waiting = sum(states.pop(state, 0) for state in _WAITING)
    words = [f"{count} {state.lower().replace('_', ' ')}" for state, count in states.items()]
    words += [f"{waiting} waiting"] if waiting else []
    left = time_left(points, now)
    lines = [f"{len(points)} points: {', '.join(words)}"]
    if left is not None:
        lines.append(f"about {show.duration(left)} left, if runs go on as they did")
    top = best(points, wanted)
    if top:
        way = "highest" if top.higher else "lowest"
        lines.append(f"{way} last {top.metric} {top.value:.4g}: {top.point.label}")
    elif wanted:
        lines.append(f"no run has reported a finite {wanted.removeprefix('-')}")
    why = next((each.status.reason for each in points if each.status and _waits(each)), "")
    return [*lines, f"waiting: {why}"] if why else lines


def _waits(point: Point) -> bool:
    return point.state == "PENDING" and point.status is not None and bool(point.status.reason)


def bounded(points: Sequence[Point], room: int) -> list[Point]:
    """Return the points to show in ``room`` lines: those that run, then those that ended last."""
    if room <= 0:
        return []
    runs = [each for each in points if each.state == "RUNNING"]
    known = [each for each in points if each.status and each.status.state.final]
    known.sort(key=lambda each: (each.status and each.status.ended) or 0, reverse=True)
    kept = max(room // 3, room - len(runs))  # for what ended
    ended = known[:kept]
    return runs[: room - len(ended)] + ended
