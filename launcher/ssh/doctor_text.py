"""What was found on hosts, as text for a person: tables, faults with their fixes, a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import show

if TYPE_CHECKING:
    from launcher.ssh.doctor import Pair, Report
    from launcher.ssh.verdict import Told

_HOSTS = (
    *("HOST", "VERDICT", "PYTHON", "CORES", "MEMORY", "GPUS", "FREE", "ROOM"),
    *("CLOCK", "ENVIRONMENT", "PACKAGES"),
)
_MANY = 12  # pairs, of which only those are shown that are barred


def report_text(report: Report) -> str:
    """Return tables of hosts and of the ways between them, the faults, and the whole's verdict."""
    text = show.table(_HOSTS, [_row(report, told) for told in report.hosts])
    pairs = [each for each in report.pairs if len(report.pairs) <= _MANY or each.ranks or each.ssh]
    if pairs:
        text += "\n" + show.table(("FROM", "TO", "SSH", "RANKS"), [_way(each) for each in pairs])
    for fault in report.faults:
        mark = "" if fault.blocks else "warning: "
        text += f"\n{mark}{fault.where}: {fault.what}\n  {fault.fix}\n"
    ready = sum(_verdict(report, told) == "ready" for told in report.hosts)
    count = "1 host is" if len(report.hosts) == 1 else f"{len(report.hosts)} hosts are"
    whole = f"all {count} ready" if report.healthy else f"{ready} of {count} ready"
    return f"{text}\n{whole.replace('all 1', '1')}\n"


def _verdict(report: Report, told: Told) -> str:
    if not told.known:
        return "not reached"
    faults = [each for each in report.of(told.name) if each.blocks]
    return f"{len(faults)} fault{'s' if faults[1:] else ''}" if faults else "ready"


def _row(report: Report, told: Told) -> tuple[str, ...]:
    known = told.known
    if not known:
        return (told.name, _verdict(report, told), *("" for _ in _HOSTS[2:]))
    return (
        told.name,
        _verdict(report, told),
        f"{known['version']} {known['python']}",
        str(known["cpus"]),
        _gigabytes(known["memory_mb"]),
        str(known["gpus"]),
        _free(known["leased"]),
        "none" if known["unwritable"] else _gigabytes(known["free_mb"]),
        f"{known['clock_s']:+.1f}s",
        _environment(known["environment"]),
        known["packages"]["index"] if not known["packages"]["error"] else "not reached",
    )


def _gigabytes(megabytes: int) -> str:
    return f"{megabytes / 1024:.1f} GB"


def _free(leased: dict[str, Any]) -> str:
    """Return what no run has, and how many wait for it."""
    if not leased:
        return ""
    parts = [f"{leased['units_free']} of {leased['units']} {leased['by']}"]
    if leased["gpus"]:
        parts.append(f"{leased['gpus_free']} of {leased['gpus']} GPUs")
    if leased["waiting"]:
        parts.append(f"{leased['waiting']} waiting")
    return ", ".join(parts)


def _environment(located: dict[str, Any]) -> str:
    if located.get("ready"):
        return "current" if located["kind"] == "current" else f"built, {located['key']}"
    return "none" if located.get("error") or not located else "to be built"


def _way(pair: Pair) -> tuple[str, ...]:
    entered = "" if pair.ssh is None else "no" if pair.ssh else "yes"
    return (pair.source, pair.target, entered, "no" if pair.ranks else "yes")
