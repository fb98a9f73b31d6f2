"""The verbs about hosts that are reached by ssh: clean; and doctor, where hosts are named."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from launcher.cli.words import parser, say
from launcher.errors import ConfigError
from launcher.shell import shell_line

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from launcher.job import JobSpec


def overrides_of(options_of: argparse.ArgumentParser) -> None:
    """Add what names the hosts."""
    options_of.add_argument("--json", action="store_true", help="as JSON")
    options_of.add_argument("--config-dir", help="your own config groups (default: ./conf)")
    options_of.add_argument("overrides", nargs="*", help="key=value")


def job_of(options: argparse.Namespace) -> JobSpec:
    """Return the job that the overrides describe; its entry script may be any: none is started."""
    from launcher import app, config  # noqa: PLC0415 - imports Hydra

    overrides = ("entry_script=-m none", *options.overrides)
    request = app.Request(overrides=overrides, config_dir=options.config_dir)
    job, _ = config.resolve(app.compose(request))
    return job


def _named(options: argparse.Namespace, verb: str, here: str) -> JobSpec:
    """Return the job whose hosts a verb is for; ConfigError where it has none."""
    job = job_of(options)
    if job.compute.kind != "ssh":
        raise ConfigError(
            f"compute={job.compute.kind}: launcher {verb} takes hosts that are reached by ssh",
            hint=f"compute=ssh compute.hosts=[hosta,hostb] names them. {here}",
        )
    return job


def examine(options: argparse.Namespace) -> int:
    """Say what each host of the configuration has and lacks, with the fix."""
    here = "launcher doctor alone examines this machine, for every compute."
    job = _named(options, "doctor", here)
    from launcher import show  # noqa: PLC0415
    from launcher.ssh.doctor import examine as examined  # noqa: PLC0415
    from launcher.ssh.doctor_text import report_text  # noqa: PLC0415

    report = examined(job)
    text = show.json_text(report.to_json()) if options.json else report_text(report)
    sys.stdout.write(text)
    return 0 if report.healthy else 1


def clean(argv: Sequence[str]) -> int:
    """Show what is left on ssh hosts, and remove what is old: runs, environments, code, data."""
    options_of = parser("clean", clean)
    overrides_of(options_of)
    options_of.add_argument("--yes", action="store_true", help="remove; else it is shown only")
    options_of.add_argument(
        "--older-than",
        default="30d",
        metavar="AGE",
        help="since its last use (default: 30d); at least 1h for what several runs may use",
    )
    options_of.add_argument(
        "--force-unfetched", action="store_true", help="runs too whose results are not all here"
    )
    options = options_of.parse_intermixed_args(argv)
    here = "On this machine: launcher env list, launcher env remove KEY."
    return _clean(_named(options, "clean", here), options)


def _clean(job: JobSpec, options: argparse.Namespace) -> int:
    from launcher.ssh import clean as cleaning  # noqa: PLC0415
    from launcher.ssh import clean_text as text  # noqa: PLC0415
    from launcher.ssh.taught import ways_of  # noqa: PLC0415
    from launcher.store import Store  # noqa: PLC0415

    rules = cleaning.Rules(
        older_s=text.seconds(options.older_than),
        store=Store(job.runs_dir),
        unfetched=options.force_unfetched,
    )
    ways = ways_of(job)
    lefts = cleaning.survey(ways, rules)
    done = cleaning.clear(ways, lefts) if options.yes else ()
    if options.json:
        sys.stdout.write(text.json_of(lefts, done))
    else:
        told = text.survey_text(lefts, options.older_than)
        sys.stdout.write(text.cleared_text(lefts, done) if options.yes else told)
        for line in text.unfetched_lines(lefts):
            say(line)
        if not options.yes and any(left.going for left in lefts):
            say(f"  {_again(options)} removes what may go")
    failed = any(left.error for left in lefts) or any(each.failed for each in done)
    return 1 if failed else 0


def _again(options: argparse.Namespace) -> str:
    """Return the command that removes what was shown."""
    words = ["launcher", "clean", *options.overrides, "--older-than", options.older_than]
    words += ["--config-dir", options.config_dir] if options.config_dir else []
    words += ["--force-unfetched"] if options.force_unfetched else []
    return shell_line((*words, "--yes"))
