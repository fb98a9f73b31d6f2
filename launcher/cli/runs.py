"""The verbs that read runs: runs, show, explain, fetch."""

from __future__ import annotations

import functools
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from launcher import api
from launcher.cli.words import RUN_HELP, RUNS_DIR_HELP, SWEEP_HELP, joined, parser, say
from launcher.errors import ConfigError
from launcher.results import elsewhere, listed
from launcher.run import Run
from launcher.shell import shell_word

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from launcher.store import RunFolder, RunStatus, Store
    from launcher.sweep.table import Grid

_PATH_HELP = "file, folder or pattern: checkpoints/last.pt, 'outputs/*.csv'; none: all there is"
_SORT_HELP = "by a metric or what varies; -NAME: the highest first, in place of the lowest"


def list_runs(argv: Sequence[str]) -> int:
    """List the runs: id, name, state, where, when, metrics; of a sweep: what varies, metrics."""
    from launcher import show  # noqa: PLC0415

    options_of = parser("runs", list_runs)
    options_of.add_argument("--sweep", metavar="ID", help=f"the runs of one sweep: {SWEEP_HELP}")
    options_of.add_argument("--sort", metavar="NAME", help=_SORT_HELP)
    form = options_of.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="as CSV, numbers in full")
    form.add_argument("--json", action="store_true", help="as JSON")
    options_of.add_argument(
        "-n", type=int, metavar="N", help="the latest N only; sorted, the top N"
    )
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options = options_of.parse_args(joined(argv, "--sort"))
    store = api.store(options.runs_dir)
    items, grid = _points(store, options.sweep) if options.sweep else _runs(store)
    rows = grid().order(options.sort) if options.sort else list(range(len(items)))
    if options.n:
        rows = rows[: options.n] if options.sort else rows[-options.n :]
    if options.csv:
        sys.stdout.write(grid().of(rows).csv_text())
    elif options.json:
        sys.stdout.write(show.json_text([items[row].to_json() for row in rows]))
    elif not rows:
        say(f"launcher: no runs in {store.path}")
    elif options.sweep:
        from launcher.sweep.table import sweep_text  # noqa: PLC0415

        sys.stdout.write(sweep_text(grid().of(rows)))
    else:
        sys.stdout.write(show.runs_table([items[row] for row in rows]))
    return 0


def _runs(store: Store) -> tuple[list[Any], Callable[[], Grid]]:
    from launcher.observe import observe_all  # noqa: PLC0415

    def grid() -> Grid:
        from launcher.sweep.table import runs_grid  # noqa: PLC0415 - the plain list needs none

        return runs_grid(statuses)

    statuses = observe_all(store)
    return statuses, grid


def _points(store: Store, text: str) -> tuple[list[Any], Callable[[], Grid]]:
    from launcher.sweep.status import points_of  # noqa: PLC0415
    from launcher.sweep.store import Sweeps  # noqa: PLC0415
    from launcher.sweep.table import sweep_grid  # noqa: PLC0415

    points = points_of(Sweeps(store).find(text))
    return points, functools.partial(sweep_grid, points)


def show_run(argv: Sequence[str]) -> int:
    """Show one run: state, times, metrics, where its folder and its commit are."""
    from launcher import show  # noqa: PLC0415

    options_of = parser("show", show_run)
    options_of.add_argument("--json", action="store_true", help="as JSON")
    folder, options = _one_run(options_of, argv)
    status = Run(folder).status
    rest = elsewhere(folder)
    if options.json:
        told = [{"host": host, "files": files, "bytes": size} for host, files, size in rest]
        values = {**status.to_json(), "elsewhere": told, "record": asdict(folder.record())}
        sys.stdout.write(show.json_text(values))
    else:
        sys.stdout.write(show.status_text(status, folder, rest))
    return 0


def fetch(argv: Sequence[str]) -> int:
    """Have outputs and checkpoints of a run here, at any time; print where they are."""
    options_of = parser("fetch", fetch)
    options_of.add_argument("--list", action="store_true", help="show what there is, bring nothing")
    folder, options = _one_run(options_of, argv, paths=True)
    if options.list:
        from launcher import show  # noqa: PLC0415

        found = listed(folder)
        lines = show.results_table(found).splitlines() if found else []
    else:
        lines = Run(folder).fetch(*options.paths, say=say)
    for line in lines:
        print(line)
    if not lines:
        say(f"launcher: run {folder.id} has no outputs and no checkpoints")
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


def _one_run(
    options_of: argparse.ArgumentParser, argv: Sequence[str], *, paths: bool = False
) -> tuple[RunFolder, argparse.Namespace]:
    options_of.add_argument("run", nargs="?", default="@last", help=RUN_HELP + " (the default)")
    if paths:
        options_of.add_argument("paths", nargs="*", metavar="PATH", help=_PATH_HELP)
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options = options_of.parse_args(argv)
    if paths and "/" in options.run:
        hint = f"Of the latest run: launcher fetch @last {shell_word(options.run)}"
        raise ConfigError(f"{options.run}: not a run", hint=hint)
    return api.find_run(api.store(options.runs_dir), options.run), options
