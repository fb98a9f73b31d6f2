"""Values -> text for a person: plans, runs, tables."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

from launcher.shell import shell_line, shell_word

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.data import Dataset
    from launcher.job import LaunchPlan, Resources, RunRecord
    from launcher.results import Result
    from launcher.store import RunFolder, RunStatus


def plan_text(plan: LaunchPlan) -> str:
    """Return the whole plan: folder, environment, files, variables, commands."""
    parts = [f"# run folder\n{plan.run_dir}\n"]
    if plan.build:
        parts.append("# environment, to be built first\n" + commands(plan.build))
    if plan.data:
        parts.append("# data, sent to hosts that lack it\n" + "".join(map(_dataset, plan.data)))
    for file in plan.files:
        if file.copied_from:
            parts.append(f"# file {file.path}\n(a copy of {file.copied_from})\n")
        else:
            parts.append(f"# file {file.path} (mode {file.mode:o})\n{file.text}")
    secret = [f"{name}=*** (from the submitting environment)\n" for name in plan.secrets]
    shown = [f"{name}={value}\n" for name, value in plan.env.items()]
    parts.append("# environment of the ranks\n" + "".join(shown + secret))
    parts.append("# commands\n" + commands(plan.commands))
    return "\n".join(parts)


def _dataset(data: Dataset) -> str:
    hosts = f"not on {', '.join(data.lacking)}" if data.lacking else "there already"
    return (
        f"data.{data.name} -> {shell_word(data.path)} ({amount(data.files, data.size)}, {hosts})\n"
    )


def amount(files: int, size: int) -> str:
    """Return ``1 file, 5 MB``."""
    return f"{files} file{'s' if files != 1 else ''}, {bytes_text(size)}"


def bytes_text(size: float) -> str:
    """Return a number of bytes as a person reads it: ``512 B``, ``1.5 GB``; a kB has 1,000."""
    unit = "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"


def commands(words: Sequence[Sequence[str]]) -> str:
    """Return commands, a line each."""
    return "".join(shell_line(argv) + "\n" for argv in words)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their heads, columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (heads, *rows)
    ]
    return "\n".join(lines) + "\n"


def runs_table(statuses: Sequence[RunStatus]) -> str:
    """Return the table of ``launcher runs``."""
    heads = ["ID", "NAME", "STATE", "WHERE", "RANKS", "STARTED", "DURATION", "METRICS", "WHY"]
    rows = [
        [
            each.id,
            each.name,
            each.state.value,
            where(each),
            str(each.world_size),
            clock(each.started),
            _known_duration(each),
            metrics(each.metrics),
            each.reason,
        ]
        for each in statuses
    ]
    if not any(row[-1] for row in rows):
        heads, rows = heads[:-1], [row[:-1] for row in rows]
    return table(heads, rows)


def where(status: RunStatus) -> str:
    """Return the compute of a run with its host, its hosts, or with the job's number there."""
    places = {"local": status.host, "ssh": ",".join(status.nodes)}
    return f"{status.compute}:{places.get(status.compute, status.job_id)}"


def status_text(
    status: RunStatus, folder: RunFolder, elsewhere: Sequence[tuple[str, int, int]] = ()
) -> str:
    """Return what ``launcher show`` prints of one run; ``elsewhere``: what only hosts have."""
    from launcher.record import log_command  # noqa: PLC0415 - the list of runs needs no git

    record = folder.record()
    code = shell_line(log_command(record.git_dir, record.id))
    there = record.compute == "ssh"
    place = ",".join(status.nodes) if there else record.host
    lines = [
        ("run", f"{status.id} ({status.name})"),
        ("state", status.state.value),
        ("why", status.reason),
        ("may help", shell_word(status.advice) if status.advice else ""),
        ("exit status", "" if status.exit_status is None else str(status.exit_status)),
        ("where", f"{record.compute} {place}, {ranks(record)}"),
        ("job", " ".join(filter(None, (status.job_id, "" if there else ",".join(status.nodes))))),
        ("restarts", str(status.restarts) if status.restarts else ""),
        ("submitted", f"{clock(status.created)} by {record.user}"),
        ("expected", clock(status.expected)),
        ("started", clock(status.started)),
        ("ended", clock(status.ended)),
        ("duration", _known_duration(status)),
        ("metrics", metrics(status.metrics)),
        ("rerun of", record.rerun_of),
        ("overrides", shell_line(record.overrides)),
        ("folder", folder.path),
        ("not here", elsewhere_text(folder.id, elsewhere)),
        ("commit", record.commit),
        ("see it", code if record.commit else ""),
    ]
    text = "".join(f"{name:<12}{value}\n" for name, value in lines if value)
    tail = status.failed.get("last_lines", [])
    return text + ("\nlast lines:\n" + "".join(f"    {line}\n" for line in tail) if tail else "")


def elsewhere_text(run_id: str, elsewhere: Sequence[tuple[str, int, int]]) -> str:
    """Return what of a run only its hosts have, and what brings it; "" when all is here."""
    there = "; ".join(f"{amount(files, size)} on {host}" for host, files, size in elsewhere)
    return f"{there}: launcher fetch {run_id}" if there else ""


def results_table(results: Sequence[Result]) -> str:
    """Return the table of ``launcher fetch --list``."""
    rows = [
        (each.path, bytes_text(each.size), each.host, "yes" if each.here else "no")
        for each in results
    ]
    return table(("PATH", "SIZE", "HOST", "HERE"), rows)


def _known_duration(status: RunStatus) -> str:
    """Return the duration; "" for a run that was lost, nobody knows when."""
    return duration(status.duration_s if status.ended or not status.state.final else None)


def ranks(record: RunRecord | Resources) -> str:
    """Return ``one process`` or ``2 nodes x 4 ranks``."""
    if record.world_size == 1:
        return "one process"
    if record.nodes == 1:
        return f"{record.procs_per_node} ranks"
    return f"{record.nodes} nodes x {record.procs_per_node} ranks"


def metrics(values: dict[str, Any]) -> str:
    """Return metrics as ``name=value`` words, numbers short."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )


def clock(seconds: float | None) -> str:
    """Return a time as a person reads it, in local time."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def duration(seconds: float | None) -> str:
    """Return ``4.2s``, ``3m05s``, ``2h07m`` or ``3d04h``."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"


def json_text(value: Any) -> str:
    """Return ``value`` as indented JSON."""
    return json.dumps(_finite(value), indent=1, default=str, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """Return ``value`` with the numbers that JSON does not have as texts: "nan", "inf"."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
