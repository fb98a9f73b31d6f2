"""Times and sizes as Slurm writes them: ``1-00:00:00``, ``16G``."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")
_UNITS = {"k": 1 / 1024, "m": 1, "": 1, "g": 1024, "t": 1024 * 1024}
_DAY = 86400


def seconds(limit: str) -> int | None:
    """Return a limit as Slurm writes it, ``1-00:00:00`` or ``10:00``; None: there is none."""
    found = _DURATION.fullmatch(limit.strip())
    if not found:
        return None
    days, hours, minutes, rest = (int(each or 0) for each in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest


def clock(seconds: int) -> str:
    """Return ``4:00:00`` or ``2-12:00:00``, as ``compute.time`` takes it."""
    days, rest = divmod(seconds, _DAY) if seconds >= 2 * _DAY else (0, seconds)
    hours, rest = divmod(rest, 3600)
    shown = f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"{days}-{shown.zfill(8)}" if days else shown


def megabytes(text: str | None) -> int:
    """Return MiB of a size as sbatch reads it, ``16G``; 0 for none, "0" (all) or no size."""
    found = re.fullmatch(r"(\d+)\s*([kmgt]?)b?", str(text or "").strip(), re.IGNORECASE)
    return int(-(-int(found[1]) * _UNITS[found[2].lower()] // 1)) if found else 0
