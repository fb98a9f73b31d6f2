"""The errors of the launcher: one root, each also the builtin that a caller expects.

Why a ``hint`` on every error: a message says what is wrong, the hint says what to do next. The
command line prints both, without a traceback, and exits with the class's ``status``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class LaunchError(Exception):
    """The root. ``status`` is the exit status of the command line."""

    status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class ConfigError(LaunchError, ValueError):
    """A configuration value is wrong: the message names the key and the value."""

    status = 2


class PlanError(LaunchError, ValueError):
    """A valid configuration that cannot be expressed on this compute and dist."""

    status = 2


class ProvisionError(LaunchError, RuntimeError):
    """An environment could not be built: the message holds the log's path and last lines."""

    status = 3


class SubmitError(LaunchError, RuntimeError):
    """A command that submits, or prepares a submission, failed.

    ``argv``, ``exit_status`` and ``stderr`` are the command's; ``transient`` says that the same
    command may succeed later.
    """

    status = 3

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        argv: Sequence[str] = (),
        exit_status: int | None = None,
        stderr: str = "",
        transient: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.argv = tuple(argv)
        self.exit_status = exit_status
        self.stderr = stderr
        self.transient = transient


class StateError(LaunchError, RuntimeError):
    """What was read about a run cannot be understood: the message holds what was read."""


class StoreError(LaunchError, OSError):
    """A run folder or a record cannot be read or written."""


def nearest(given: str, allowed: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'? "`` for the allowed name nearest to ``given``, or ``""``."""
    import difflib  # noqa: PLC0415 - something is wrong already: now there is time

    found = difflib.get_close_matches(given, sorted(allowed), n=1, cutoff=0.6)
    return f"Did you mean '{found[0]}'? " if found else ""
