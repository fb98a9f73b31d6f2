"""The verbs that take runs: runs, show, logs, wait, cancel."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from launcher import api
from launcher.cli.words import RUN_HELP, RUNS_DIR_HELP, exit_status, parser, say, write
from launcher.errors import ConfigError
from launcher.run import Run
from launcher.shell import shell_word

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from launcher.store import RunFolder, RunStatus


def list_runs(argv: Sequence[str]) -> int:
    """List the runs: id, name, state, where, when, metrics."""
    from launcher import show  # noqa: PLC0415
    from launcher.observe import observe_all  # noqa: PLC0415

    options_of = parser("runs", list_runs)
    options_of.add_argument("--json", action="store_true", help="as JSON")
    options_of.add_argument("-n", type=int, metavar="N", help="the latest N only")
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options = options_of.parse_args(argv)
    store = api.store(options.runs_dir)
    statuses = observe_all(store)
    statuses = statuses[-options.n :] if options.n else statuses
    if options.json:
        sys.stdout.write(show.json_text([each.to_json() for each in statuses]))
    elif statuses:
        sys.stdout.write(show.runs_table(statuses))
    else:
        say(f"launcher: no runs in {store.path}")
    return 0


def show_run(argv: Sequence[str]) -> int:
    """Show one run: state, times, metrics, where its folder and its commit are."""
    from launcher import show  # noqa: PLC0415

    options_of = parser("show", show_run)
    options_of.add_argument("--json", action="store_true", help="as JSON")
    folder, options = _one_run(options_of, argv)
    status = Run(folder).status
    if options.json:
        sys.stdout.write(show.json_text({**status.to_json(), "record": asdict(folder.record())}))
    else:
        sys.stdout.write(show.status_text(status, folder))
    return 0


def explain_run(argv: Sequence[str]) -> int:
    """Say in a sentence why a run is where it is, and which override may help."""
    options_of = parser("explain", explain_run)
    options_of.add_argument("--json", action="store_true", help="as JSON")
    folder, options = _one_run(options_of, argv)
    status = Run(folder).status
    sentence = status.reason or _plain(folder, status)
    if options.json:
        from launcher import show  # noqa: PLC0415

        told = {"id": status.id, "state": status.state.value}
        told |= {"sentence": sentence, "override": status.advice}
        sys.stdout.write(show.json_text(told))
        return 0
    print(sentence)
    if status.advice:
        print(f"  may help: {shell_word(status.advice)}")
    return 0


def _plain(folder: RunFolder, status: RunStatus) -> str:
    """Return the sentence of a run of which there is nothing to be explained."""
    from launcher.outcome import explained  # noqa: PLC0415

    known = {"state": status.state.value, "nodes": status.nodes, "restart": status.restarts}
    return str(explained(folder, folder.record(), known)["reason"])


def logs(argv: Sequence[str]) -> int:
    """Print a run's output; -f follows it while it runs."""
    from launcher.follow import Tail, follow  # noqa: PLC0415

    options_of = parser("logs", logs)
    options_of.add_argument("-f", "--follow", action="store_true", help="until the run ends")
    options_of.add_argument("--rank", type=int, help="of one rank only")
    folder, options = _one_run(options_of, argv)
    world_size = folder.record().world_size
    if options.rank is not None and not 0 <= options.rank < world_size:
        raise ConfigError(f"--rank {options.rank}: the run has ranks 0 to {world_size - 1}")
    tail = Tail(folder, world_size=world_size, rank=options.rank)
    if options.follow:
        follow(tail, write, say)
    else:
        tail.drain(write)
    return 0


def wait(argv: Sequence[str]) -> int:
    """Wait until runs have ended; the exit status is that of the worst."""
    worst = 0
    for run in _some_runs(parser("wait", wait), argv):
        state = run.wait(say=say)
        print(f"{run.id} {state.value}", flush=True)
        worst = max(worst, exit_status(state))
    return worst


def cancel(argv: Sequence[str]) -> int:
    """End runs, ranks included."""
    for run in _some_runs(parser("cancel", cancel), argv):
        print(f"{run.id} {run.cancel().value}", flush=True)
    return 0


def _some_runs(options_of: argparse.ArgumentParser, argv: Sequence[str]) -> list[Run]:
    """Return the runs that are named; all of them are found before anything is done."""
    options_of.add_argument("run", nargs="+", help=RUN_HELP)
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options = options_of.parse_args(argv)
    store = api.store(options.runs_dir)
    return [Run(store.find(each)) for each in options.run]


def _one_run(
    options_of: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[RunFolder, argparse.Namespace]:
    options_of.add_argument("run", nargs="?", default="@last", help=RUN_HELP + " (the default)")
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options = options_of.parse_args(argv)
    return api.store(options.runs_dir).find(options.run), options
