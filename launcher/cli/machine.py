"""The verbs about machines: env, doctor."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from launcher.cli import hosts
from launcher.cli.words import parser, say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


def env(argv: Sequence[str]) -> int:
    """List, build ahead and remove the environments that jobs run in."""
    options_of = parser("env", env)
    verbs = options_of.add_subparsers(dest="what", metavar="list|build|remove", required=True)
    listing = verbs.add_parser("list", help="what is in the cache")
    listing.add_argument("--json", action="store_true", help="as JSON")
    building = verbs.add_parser(
        "build", help="build what a job with these overrides would use, on hosts of ssh there"
    )
    building.add_argument("--config-dir", help="your own config groups (default: ./conf)")
    building.add_argument("overrides", nargs="*", help="key=value")
    removing = verbs.add_parser("remove", help="remove environments from the cache")
    removing.add_argument(
        "key", nargs="+", help="a key that `launcher env list` shows, or its start"
    )
    options = options_of.parse_args(argv)
    return {"list": _list, "build": _build, "remove": _remove}[options.what](options)


def _list(options: argparse.Namespace) -> int:
    from launcher import show  # noqa: PLC0415
    from launcher.environment.catalog import list_environments  # noqa: PLC0415

    found = list_environments()
    if options.json:
        sys.stdout.write(show.json_text([asdict(each) for each in found]))
    elif not found:
        say("launcher: no environments have been built")
    else:
        heads = ("KEY", "STATE", "KIND", "BUILT", "SIZE", "REQUIREMENTS")
        rows = [
            (
                each.key,
                each.state,
                " ".join(filter(None, (each.provision, each.kind))),
                show.clock(each.created or None),
                f"{each.size_mb} MB" if each.size_mb else "",
                " ".join(each.requirements),
            )
            for each in found
        ]
        sys.stdout.write(show.table(heads, rows))
    return 0


def _build(options: argparse.Namespace) -> int:
    from launcher.environment.build import ensure  # noqa: PLC0415
    from launcher.environment.locate import locate  # noqa: PLC0415

    job = hosts.job_of(options)
    if job.compute.kind == "ssh":
        from launcher.ssh.build import ahead  # noqa: PLC0415

        ready = ahead(job, say)
    else:
        prefix = locate(job.environment, horovod=job.dist.horovod, mpi=job.dist.kind == "mpi")
        ready = ensure(prefix, say)
    print(f"{ready.kind} {ready.key} {ready.python}")
    return 0


def _remove(options: argparse.Namespace) -> int:
    from launcher.environment.catalog import remove  # noqa: PLC0415

    for key in options.key:
        print(f"removed {remove(key).path}")
    return 0


def doctor(argv: Sequence[str]) -> int:
    """Say what this machine, or each host of compute=ssh ..., has and lacks, with the fix."""
    from launcher import doctor as examination  # noqa: PLC0415
    from launcher import show  # noqa: PLC0415

    options_of = parser("doctor", doctor)
    hosts.overrides_of(options_of)
    options = options_of.parse_intermixed_args(argv)
    if options.overrides:
        return hosts.examine(options)
    checks = examination.examine()
    if options.json:
        values = {"verdicts": examination.verdicts(checks), "checks": list(map(asdict, checks))}
        sys.stdout.write(show.json_text(values))
    else:
        sys.stdout.write(examination.report_text(checks))
    return 0 if examination.healthy(checks) else 1
