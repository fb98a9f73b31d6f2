"""The verbs that take sweeps, and those that take runs and sweeps alike."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from launcher import api
from launcher.cli.words import (
    RUN_OR_SWEEP_HELP,
    RUNS_DIR_HELP,
    SWEEP_HELP,
    exit_status,
    joined,
    parser,
    runs_dir_option,
    say,
    say_elsewhere,
    worst,
    write,
)
from launcher.errors import ConfigError
from launcher.run import Run
from launcher.store import RunFolder

_GIVE_UP_HELP = "a run that cannot be reached ends here only; its host may be gone for good"

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from launcher.sweep.store import SweepFolder

_BEST_HELP = "the metric to tell a sweep's best run by; -METRIC: the lower the better"


def list_sweeps(argv: Sequence[str]) -> int:
    """List the sweeps: id, name, when, and how many of their runs are in which state."""
    from launcher import show  # noqa: PLC0415
    from launcher.sweep.status import counts, summaries  # noqa: PLC0415
    from launcher.sweep.store import Sweeps  # noqa: PLC0415

    options_of = parser("sweeps", list_sweeps)
    options_of.add_argument("--json", action="store_true", help="as JSON")
    options_of.add_argument("-n", type=int, metavar="N", help="the latest N only")
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options = options_of.parse_args(argv)
    store = api.store(options.runs_dir)
    found = summaries(Sweeps(store), options.n)
    if options.json:
        sys.stdout.write(show.json_text([each.to_json() for each in found]))
    elif not found:
        say(f"launcher: no sweeps in {store.path}")
    else:
        states = list(counts(state for each in found for state in each.states))
        rows = [
            (
                each.record.id,
                each.record.name,
                show.clock(each.record.created),
                str(each.points),
                *(str(each.states.get(state, "")) for state in states),
            )
            for each in found
        ]
        sys.stdout.write(show.table(("ID", "NAME", "CREATED", "POINTS", *states), rows))
    return 0


def wait(argv: Sequence[str]) -> int:
    """Wait until runs, or all runs of sweeps, have ended; the exit status is that of the worst."""
    options_of = parser("wait", wait)
    options_of.add_argument("--best", default="", metavar="METRIC", help=_BEST_HELP)
    named, options = _some(options_of, joined(argv, "--best"))
    statuses = []
    for folder in named:
        if isinstance(folder, RunFolder):
            state = Run(folder).wait(say=say)
            print(f"{folder.id} {state.value}", flush=True)
            say_elsewhere(folder, runs_dir_option(os.path.dirname(folder.path)))
            statuses.append(exit_status(state))
        else:
            from launcher.sweep.live import watched  # noqa: PLC0415

            status = watched(folder, say, options.best)
            if status is None:
                return 130
            statuses.append(status)
    return worst(statuses)


def cancel(argv: Sequence[str]) -> int:
    """End runs, or all runs of sweeps, ranks included."""
    options_of = parser("cancel", cancel)
    options_of.add_argument("--give-up", action="store_true", help=_GIVE_UP_HELP)
    named, options = _some(options_of, argv)
    for folder in named:
        if isinstance(folder, RunFolder):
            state = Run(folder).cancel(give_up=options.give_up)
            print(f"{folder.id} {state.value}", flush=True)
        else:
            from launcher.sweep.status import counts  # noqa: PLC0415
            from launcher.sweep.stop import stop  # noqa: PLC0415

            states = counts(point.state for point in stop(folder, give_up=options.give_up))
            told = ", ".join(f"{count} {state}" for state, count in states.items())
            print(f"{folder.id} {told}", flush=True)
    return 0


def logs(argv: Sequence[str]) -> int:
    """Print the output of a run, or of all runs of a sweep; -f follows it to the end."""
    from launcher.follow import Tail, follow  # noqa: PLC0415

    options_of = parser("logs", logs)
    options_of.add_argument("-f", "--follow", action="store_true", help="until all has ended")
    options_of.add_argument("--rank", type=int, help="of one rank only")
    default = RUN_OR_SWEEP_HELP + " (the default)"
    options_of.add_argument("run", nargs="?", default="@last", help=default)
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options = options_of.parse_args(argv)
    folder = api.find(api.store(options.runs_dir), options.run)
    if not isinstance(folder, RunFolder):
        from launcher.sweep.logs import follow_logs, write_logs  # noqa: PLC0415

        (follow_logs if options.follow else write_logs)(folder, write, options.rank)
        return 0
    world_size = folder.record().world_size
    if options.rank is not None and not 0 <= options.rank < world_size:
        raise ConfigError(f"--rank {options.rank}: the run has ranks 0 to {world_size - 1}")
    tail = Tail(folder, world_size=world_size, rank=options.rank)
    if options.follow:
        follow(tail, write, say)
    else:
        status = Run(folder).status
        tail.drain(write)
        if status.reason and not status.state.final:
            say(f"launcher: {status.reason}")
    return 0


def plot(argv: Sequence[str]) -> int:
    """Plot what the runs of a sweep measured against what varies, or against the step: a PNG."""
    from launcher.sweep.plot import Request, draw  # noqa: PLC0415
    from launcher.sweep.store import Sweeps  # noqa: PLC0415

    options_of = parser("plot", plot)
    options_of.add_argument("sweep", nargs="?", default="@last", help=f"{SWEEP_HELP} (the default)")
    options_of.add_argument(
        "--x", required=True, metavar="NAME", help="what varies; or step: learning curves"
    )
    options_of.add_argument("--y", required=True, metavar="METRIC", help="what was measured")
    options_of.add_argument("--group-by", metavar="NAME", help="what varies: a colour a value")
    options_of.add_argument("--log-x", action="store_true", help="a logarithmic axis")
    options_of.add_argument("--log-y", action="store_true", help="a logarithmic axis")
    options_of.add_argument("--out", metavar="FILE", help="default: in the sweep's folder")
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options = options_of.parse_args(argv)
    sweep = Sweeps(api.store(options.runs_dir)).find(options.sweep)
    asked = Request(
        x=options.x,
        y=options.y,
        group_by=options.group_by or "",
        log_x=options.log_x,
        log_y=options.log_y,
        out=options.out or "",
    )
    print(draw(sweep, asked, say))
    return 0


def _some(
    options_of: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[list[RunFolder | SweepFolder], argparse.Namespace]:
    """Return what is named; all of it is found before anything is done."""
    options_of.add_argument("run", nargs="+", help=RUN_OR_SWEEP_HELP)
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options = options_of.parse_args(argv)
    store = api.store(options.runs_dir)
    return [api.find(store, each) for each in options.run], options
