"""What the verbs share: the launcher's own voice, and the words of their options."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from launcher.errors import ConfigError
from launcher.job import RunState
from launcher.shell import shell_word

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from launcher.store import RunFolder

RUN_HELP = "a run's id, a unique prefix of one, or @last"
RUN_OR_SWEEP_HELP = "the id of a run or of a sweep, a unique prefix of one, or @last"
SWEEP_HELP = "a sweep's id, a unique prefix of one, or @last"
RUNS_DIR_HELP = "where the runs are (default: LAUNCHER_RUNS or ./runs)"


def say(line: str) -> None:
    """Print a line of the launcher's own, apart from the output of ranks."""
    print(line, file=sys.stderr, flush=True)


def write(data: bytes) -> None:
    """Write output of ranks, as it is, at once."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are told like all others, with the next step."""

    def error(self, message: str) -> NoReturn:
        hint = f"{self.prog} --help shows its options. Arguments of your script are overrides: "
        verb = self.prog.removeprefix("launcher").strip()
        raise ConfigError(
            f"{verb}: {message}".removeprefix(": "), hint=f"{hint}script_params.lr=0.1"
        )


def joined(argv: Sequence[str], *options: str) -> list[str]:
    """Return the words with the value of each option in one word with it: it may begin with -."""
    words: list[str] = []
    for word in argv:
        if words and words[-1] in options:
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def stop_writing() -> None:
    """Let standard output go nowhere: its reader, such as head, has seen enough."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser(verb: str, function: Callable[..., Any]) -> argparse.ArgumentParser:
    """Return the parser of a verb, which its function's docstring describes."""
    return _Parser(
        prog=f"launcher {verb}".strip(), description=function.__doc__, allow_abbrev=False
    )


def runs_dir_option(runs_dir: str) -> str:
    """Return the option that a command needs to find ``runs_dir`` from here: often none."""
    from launcher import api  # noqa: PLC0415

    return "" if runs_dir == api.store().path else f" --runs-dir {shell_word(runs_dir)}"


def say_elsewhere(folder: RunFolder, where: str) -> None:
    """Say what of a run its hosts only have; ``where``: the option that finds its folder."""
    from launcher import results, show  # noqa: PLC0415

    if rest := show.elsewhere_text(folder.id, results.elsewhere(folder)):
        say(f"  not here: {rest}{where}")


def exit_status(state: RunState) -> int:
    """Return the command line's exit status for a run's final state."""
    return {RunState.SUCCEEDED: 0, RunState.CANCELLED: 130}.get(state, 1)


def worst(statuses: Iterable[int]) -> int:
    """Return the exit status that tells most of several runs': a failure, then a cancellation."""
    return max(statuses, key=(0, 130, 1).index, default=0)
