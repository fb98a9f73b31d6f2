"""Lists of hosts as Slurm writes them: ``node[1-3,07],login`` -> their names."""

from __future__ import annotations

import re

_PART = re.compile(r"(?:[^,\[\]]|\[[^\]]*\])+")
_RANGES = re.compile(r"\[([^\]]*)\]")


def expand(text: str) -> tuple[str, ...]:
    """Return the names that ``text`` stands for, in its order; () for none."""
    if text.strip() in ("", "(null)", "None", "n/a"):
        return ()
    return tuple(name for part in _PART.findall(text.strip()) for name in _names(part))


def _names(part: str) -> list[str]:
    # "rack[1-2]n[01-03]" -> "rack", "1-2", "n", "01-03", "": every second piece is of numbers
    names = [""]
    for index, piece in enumerate(_RANGES.split(part)):
        ends = _numbers(piece) if index % 2 else [piece]
        names = [name + end for name in names for end in ends]
    return names


def _numbers(ranges: str) -> list[str]:
    found = []
    for each in ranges.split(","):
        first, dash, last = each.partition("-")
        if dash and first.isdigit() and last.isdigit():
            width = len(first)
            found += [f"{number:0{width}}" for number in range(int(first), int(last) + 1)]
        else:
            found.append(each)
    return found
