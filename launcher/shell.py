"""The only quoting: words become a line of shell text here and nowhere else.

Why a type for unquoted text: a ``str`` is always quoted, so a value of the user's can never become
shell. The few places where the shell must expand something say so with ``ShellExpr``, which
refuses to be formatted into a string by accident.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True)
class ShellExpr:
    """Shell text that is kept as it is, such as ``"$SLURM_JOB_ID"``, its own quotes included."""

    text: str

    def __str__(self) -> NoReturn:
        raise TypeError(f"shell text {self.text!r} is rendered by shell_line only")


Word: TypeAlias = str | ShellExpr


def shell_word(word: Word) -> str:
    """Return ``word`` as shell text: a str quoted, a ShellExpr as it is."""
    return word.text if isinstance(word, ShellExpr) else shlex.quote(word)


def shell_line(words: Iterable[Word]) -> str:
    """Return ``words`` as one line of shell text."""
    return " ".join(map(shell_word, words))


def shell_export(name: str, value: Word) -> str:
    """Return the line that exports ``name`` with ``value``; raise ValueError on a bad name."""
    if not name.isidentifier() or not name.isascii():
        raise ValueError(f"{name!r} is no name of an environment variable")
    return f"export {name}={shell_word(value)}"
