"""Rules that are words to look for, what they mean, and what may help: rows of a table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.explain import advice

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.explain.evidence import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign:
    """``said``: the words. ``means``: a sentence's middle. ``helps``: computes the override."""

    said: re.Pattern[str]
    means: str
    helps: Callable[[Evidence], str]


def nothing(_: Evidence) -> str:
    """Return "": no override helps, or none that we know."""
    return ""


def unset(key: str) -> Callable[[Evidence], str]:
    """Return what takes back the option ``key``, where the run set it."""
    return lambda evidence: advice.unset(evidence, key)


def sign(said: str, means: str, helps: Callable[[Evidence], str] = nothing) -> Sign:
    """Return the row whose words match ``said``."""
    return Sign(said=re.compile(said, re.MULTILINE), means=means, helps=helps)
