"""The verbs that take overrides: submit, plan, rerun."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from launcher import api
from launcher.cli.words import (
    RUN_HELP,
    RUNS_DIR_HELP,
    exit_status,
    parser,
    runs_dir_option,
    say,
    say_elsewhere,
    stop_writing,
    write,
)
from launcher.errors import ConfigError
from launcher.shell import shell_word

_SWEEP_HELP = "a sweep: every value with commas is several points, key=a,b"

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from launcher.app import Request
    from launcher.run import Run
    from launcher.store import RunStatus


def _request(
    argv: Sequence[str], options_of: argparse.ArgumentParser
) -> tuple[argparse.Namespace, Request]:
    from launcher.app import Request  # noqa: PLC0415 - imports Hydra

    options_of.add_argument("--config-dir", help="your own config groups (default: ./conf)")
    options_of.add_argument("overrides", nargs="*", help="key=value")
    options = options_of.parse_intermixed_args(argv)
    overrides = tuple(options.overrides)
    for word in overrides:
        if "=" not in word and os.path.isfile(word):
            raise ConfigError(
                f"{word}: not an override (key=value)",
                hint=f"Did you mean entry_script={word}? Its arguments: script_params.name=value.",
            )
    return options, Request(overrides=overrides, config_dir=options.config_dir)


def submit(argv: Sequence[str]) -> int:
    """Submit the job that the overrides describe, and follow it."""
    options_of = parser("", submit)
    options_of.add_argument("-m", "--multirun", action="store_true", help=_SWEEP_HELP)
    options, request = _request(argv, options_of)
    if options.multirun:
        return _sweep(request)
    prepared = api.prepare(request)
    return follow(prepared.submit(say), wait=prepared.job.wait)


def plan(argv: Sequence[str]) -> int:
    """Print everything that a submit would do, and do nothing.

    ssh hosts are asked what they have; for that the launcher's own code goes to compute.workdir.
    """
    from launcher import show  # noqa: PLC0415

    options_of = parser("plan", plan)
    options_of.add_argument("--json", action="store_true", help="as JSON")
    options_of.add_argument("-m", "--multirun", action="store_true", help=_SWEEP_HELP)
    options, request = _request(argv, options_of)
    if options.multirun:
        from launcher.sweep import show as shown  # noqa: PLC0415

        sweep = api.prepare_sweep(request)
        sys.stdout.write(shown.plan_json(sweep) if options.json else shown.plan_text(sweep))
        return 0
    planned = api.prepare(request).plan
    sys.stdout.write(show.json_text(planned.to_json()) if options.json else show.plan_text(planned))
    return 0


def _sweep(request: Request) -> int:
    """Queue a sweep, and follow it where that was asked for."""
    from launcher.sweep import show, submit  # noqa: PLC0415

    sweep = api.prepare_sweep(request)
    done = submit.submit(sweep, say)
    for line in show.queued_lines(sweep, done, runs_dir_option(sweep.runs_dir)):
        say(line)
    if done.room.beyond or not sweep.wait:
        print(done.folder.id)
    if done.room.beyond:
        raise done.room.error(done.folder.id)
    if not sweep.wait:
        return 0
    from launcher.sweep.live import watch  # noqa: PLC0415

    return watch(done.folder, say)


def rerun(argv: Sequence[str]) -> int:
    """Submit a recorded run again: its source and its configuration, with overrides on top."""
    options_of = parser("rerun", rerun)
    options_of.add_argument("run", help=RUN_HELP)
    options_of.add_argument("--runs-dir", help=RUNS_DIR_HELP)
    options, request = _request(argv, options_of)
    prepared = api.repeat(options.run, request, options.runs_dir)
    return follow(prepared.submit(say), wait=prepared.job.wait)


def follow(run: Run, *, wait: bool) -> int:
    """Follow a run to its end; Ctrl-C stops a run of this machine, a second one at once."""
    from launcher.follow import Tail  # noqa: PLC0415
    from launcher.follow import follow as followed  # noqa: PLC0415

    say(f"launcher: run {run.id}, {run.folder.path}")
    where = runs_dir_option(os.path.dirname(run.folder.path))
    commands = f"  launcher logs -f {run.id}{where}   launcher cancel {run.id}{where}"
    if not wait:
        say(commands)
        print(run.id)
        return 0
    record = run.folder.record()
    tail = Tail(run.folder, world_size=record.world_size)
    told = 0
    while True:
        try:
            return _ended(followed(tail, _write_if_read, say), run, where)
        except KeyboardInterrupt:
            if record.compute != "local":  # it has a place of its own, and may be days old
                say(f"\nlauncher: run {run.id} goes on without us\n{commands}")
                return 130
            told += 1
            say(
                f"\nlauncher: SIGTERM is sent, SIGKILL in {record.grace_s:g} s; "
                "Ctrl-C again kills now"
                if told == 1
                else "\nlauncher: killing"
            )
            run.interrupt()


def _write_if_read(data: bytes) -> None:
    """Write output of ranks; when nobody reads it any more, the run is followed all the same."""
    try:
        write(data)
    except BrokenPipeError:
        stop_writing()


def _ended(status: RunStatus, run: Run, where: str) -> int:
    from launcher import show  # noqa: PLC0415

    words = [
        f"launcher: run {run.id} {status.state.value}",
        f"after {show.duration(status.duration_s)}" if status.started else "before it started",
    ]
    if status.metrics:
        words.append(f"({show.metrics(status.metrics)})")
    say(" ".join(words))
    say_elsewhere(run.folder, where)
    if status.reason:
        say(f"  {status.reason}")
    if status.advice:
        say(f"  may help: {shell_word(status.advice)}")
    if status.failed:
        last = [line for line in status.failed.get("last_lines", []) if line.strip()]
        if not last or last[-1].strip() not in status.reason:
            say(f"  {last[-1][:200]}" if last else "  it printed nothing")
        say(f"  launcher show {run.id}{where}")
    return exit_status(status.state)
