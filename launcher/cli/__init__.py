"""The command line: parse, call, print; nothing else.

Why a verb is the first word: everything else is an override of the job's configuration, and bare
overrides submit.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from launcher.cli import hosts, jobs, machine, runs, sweeps
from launcher.cli.words import say, stop_writing
from launcher.errors import ConfigError, LaunchError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ABOUT = """launcher: config groups -> one job -> exact commands -> recorded runs

  launcher OVERRIDES...   submit: entry_script=train.py dist=mpi procs_per_node=2 ...
  launcher VERB ...       one of these; launcher VERB --help tells more:
"""
_VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "plan": jobs.plan,
    "rerun": jobs.rerun,
    "runs": runs.list_runs,
    "show": runs.show_run,
    "explain": runs.explain_run,
    "fetch": runs.fetch,
    "logs": sweeps.logs,
    "wait": sweeps.wait,
    "cancel": sweeps.cancel,
    "sweeps": sweeps.list_sweeps,
    "plot": sweeps.plot,
    "env": machine.env,
    "doctor": machine.doctor,
    "clean": hosts.clean,
}


def run(argv: Sequence[str]) -> int:
    """Carry out one command line and return the exit status."""
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    return report(lambda: _dispatch(list(argv)))


def report(command: Callable[[], int]) -> int:
    """Return what ``command`` does, or the exit status of its error, which is told."""
    try:
        return command()
    except LaunchError as error:
        say(f"launcher: {error.message}")
        if error.hint:
            say(f"  {error.hint}")
        return error.status
    except KeyboardInterrupt:
        say("launcher: interrupted")
        return 130
    except BrokenPipeError:
        stop_writing()  # else Python complains at its exit
        return 0
    except OSError as error:
        say(f"launcher: {error}")
        return 1


def _dispatch(argv: list[str]) -> int:
    first = argv[0] if argv else "--help"
    if first in ("--version", "-V"):
        from importlib.metadata import version  # noqa: PLC0415

        print(version("training-launcher"))
        return 0
    if first == "help" and argv[1:] and argv[1] in _VERBS:
        return _VERBS[argv[1]](["--help"])
    if first in ("--help", "-h", "help"):
        _help()
        return 0
    if first in _VERBS:
        return _VERBS[first](argv[1:])
    if "=" not in first and not first.startswith(("+", "~", "-")):
        known = ", ".join(_VERBS)
        if os.path.isfile(first):
            raise ConfigError(
                f"{first}: neither a verb nor an override (key=value)",
                hint=f"Did you mean entry_script={first}? Its arguments: script_params.name=value.",
            )
        raise ConfigError(
            f"{first}: neither a verb nor an override (key=value)",
            hint=nearest(first, _VERBS) + f"Verbs: {known}.",
        )
    return jobs.submit(argv)


def _help() -> None:
    from launcher.reference import reference_text  # noqa: PLC0415

    print(_ABOUT)
    for name, verb in _VERBS.items():
        print(f"  {name:<8} {str(verb.__doc__).partition(chr(10))[0]}")
    print("\nKeys of the job (key=value), with their defaults:\n")
    print(reference_text())
