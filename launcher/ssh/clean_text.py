"""What is left on hosts, as text for a person; ages as a person writes them."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from launcher import show
from launcher.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.ssh.clean import Cleared, Item, Left

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_OF_MANY = ("trees", "objects", "data/parts", "data/files")  # one item, of many
_HEADS = ("HOST", "WHAT", "NAME", "STATE", "SIZE", "LAST USED", "WITH --yes")


def seconds(text: str) -> float:
    """Return the seconds of an age such as ``7d``; raise ConfigError when it is none."""
    found = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)([smhdw])", text)
    if not found:
        raise ConfigError(
            f"--older-than {text}: not an age",
            hint="A number and its unit, s, m, h, d or w: --older-than 7d.",
        )
    return float(found[1]) * _UNITS[found[2]]


def size(count: float) -> str:
    """Return ``12 MB``, ``1.5 GB``: bytes as a person reads them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.1f} {unit}" if count < 10 and unit == "GB" else f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def survey_text(lefts: Sequence[Left], older: str) -> str:
    """Return the table of what is left on each host, and what removing would free.

    ``older``: for how long what is to go was not used.
    """
    rows = [_row(left.name, item, older) for left in lefts for item in left.items]
    text = show.table(_HEADS, rows) if rows else ""
    for left in lefts:
        if left.error is not None:
            text += f"{left.error.message}\n  {left.error.hint}\n"
        elif not left.items:
            text += f"{left.name}: nothing is left there\n"
        else:
            stay = sum(item.size for item in left.items if item.stays)
            free = sum(item.size for item in left.going)
            text += f"{left.name}: {size(free)} would be freed, {size(stay)} stay\n"
    return text


def _row(host: str, item: Item, older: str) -> tuple[str, ...]:
    why = f"used in the last {older}" if item.stays == "younger" else item.stays
    then = f"stays: {why}" if why else "removed"
    ago = show.duration(max(0.0, item.age_s))
    return (host, item.kind, _name(item), item.state, size(item.size), f"{ago} ago", then)


def _name(item: Item) -> str:
    """Return what tells an item from others of its kind; "" where there is one of a kind."""
    name = "" if item.path in _OF_MANY else os.path.basename(item.path)
    return name if item.kind in ("run", "sweep") else name[:20]  # others are digests


def unfetched_lines(lefts: Sequence[Left]) -> list[str]:
    """Return how many runs stay for their results, and what helps; [] when none does."""
    runs = {item.path for left in lefts for item in left.items if item.unfetched}
    if not runs:
        return []
    what = "1 run stays" if len(runs) == 1 else f"{len(runs)} runs stay"
    return [
        f"launcher: {what}, whose results are not all here",
        "  launcher fetch RUN brings its outputs, checkpoints and logs.",
        "  --force-unfetched removes such runs too.",
    ]


def cleared_text(lefts: Sequence[Left], done: Sequence[Cleared]) -> str:
    """Return what was removed from each host, a line each, and what was not."""
    items = {(left.name, item.path): item for left in lefts for item in left.items}
    lines = [_removed(each.name, items[each.name, path]) for each in done for path in each.gone]
    lines += [f"{each.name}: {size(each.freed)} freed" for each in done]
    for each in done:
        lines += [f"{each.name}: not removed: {path} {why}" for path, why in each.failed.items()]
    for left in lefts:
        if left.error is not None:
            lines += [left.error.message, f"  {left.error.hint}"]
        elif not left.going:
            lines.append(f"{left.name}: nothing to be removed")
    return "".join(f"{line}\n" for line in lines)


def _removed(host: str, item: Item) -> str:
    words = " ".join(filter(None, (item.kind, _name(item))))
    return f"{host}: removed {words}, {size(item.size)}"


def json_of(lefts: Sequence[Left], done: Sequence[Cleared]) -> str:
    """Return what is left, and what was removed of it, as JSON text."""
    values = {
        "hosts": [left.to_json() for left in lefts],
        "removed": [asdict(each) for each in done],
    }
    return show.json_text(values)
