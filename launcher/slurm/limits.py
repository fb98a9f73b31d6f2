"""What keeps a user from queueing more jobs: limits as slurmctld holds them, and their use. Pure.

Why slurmctld is asked, and not accounting: it answers at once, and tells what is used of each.

Why only what is certain: a limit that does not show here, such as that of a partition, is one that
sbatch tells of.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.cluster import Limit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_USUAL_QOS = "normal"  # of a job that names none, where nobody has said otherwise
# Of each user, and each account, that a QOS has had jobs of: 1001={... MaxSubmitJobsPU=5(2) ...}
_EACH = re.compile(r"(\S+)=\{[^}]*?MaxSubmitJobs(PU|PA)=([^\s}]+)")


def question(user: str) -> tuple[str, ...]:
    """Return the words that ask for the limits of a user, and of all that these are within."""
    return ("scontrol", "--oneliner", "show", "assoc_mgr", f"users={user}", "flags=assoc,qos")


def limits(config: str, text: str, user: str, uid: int) -> tuple[Limit, ...]:
    """Return the limits to what ``user`` queues.

    ``config``: what scontrol shows of the cluster's configuration; ``text``: its answer to the
    question.
    """
    found: list[Limit] = []
    most = re.search(r"^MaxJobCount\s*=\s*(\d+)", config, re.MULTILINE)
    if most:  # how many of it are used is not told; the last one is never given
        value = int(most[1])
        name, of = "MaxJobCount", "this cluster"
        found.append(Limit(name=name, of=of, value=value, used=None, room=value - 1))
    if re.search(r"^AccountingStorageEnforce\s*=.*\b(limits|safe)\b", config, re.MULTILINE):
        found += _accounted(text.splitlines(), user, uid)
    return tuple(found)


def _accounted(lines: Sequence[str], user: str, uid: int) -> Iterator[Limit]:
    """Yield the limits of the user's associations, their accounts, and all qualities of service."""
    rows = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if "ParentAccount=" in line]
    accounts = {row["Account"]: row for row in rows if not row["UserName"]}
    ours = [row for row in rows if _name(row["UserName"]) == user and not row["Partition"]]
    # An account -> how jobs name it: "" is the user's default.
    named = {
        row["Account"]: (row["Account"], *([""] if row["DefAssoc"] == "Yes" else []))
        for row in ours
    }
    for row in ours:
        for account in named[row["Account"]]:
            yield from _of_account(row, accounts, account)
    for line in lines:
        if line.startswith("QOS="):
            yield from _of_qos(line, named, uid)


def _name(text: str) -> str:
    """Return the name in ``name(number)``."""
    return text.partition("(")[0]


def _of_account(
    row: dict[str, str], accounts: dict[str, dict[str, str]], account: str
) -> Iterator[Limit]:
    """Yield the limits of a user's association, and of the accounts that it lies within."""
    name = row["Account"]
    own = f"your association with account {name}"
    yield from _limit("MaxSubmitJobs", own, row["MaxSubmitJobs"], account=account)
    yield from _limit("GrpSubmitJobs", own, row["GrpSubmitJobs"], account=account)
    while name in accounts:
        of, above = f"account {name}", accounts[name]
        yield from _limit("GrpSubmitJobs", of, above["GrpSubmitJobs"], account=account)
        name = _name(above["ParentAccount"])


def _of_qos(line: str, named: dict[str, tuple[str, ...]], uid: int) -> Iterator[Limit]:
    """Yield the limits of a quality of service, of the user there, and of the user's accounts."""
    name = _name(line[len("QOS=") :])
    within: list[tuple[str, str, str | None]] = [
        ("GrpSubmitJobs", value, None) for value in re.findall(r"GrpSubmitJobs=(\S+)", line)
    ]
    for which, kind, value in _EACH.findall(line):
        if kind == "PU" and which == str(uid):
            within.append(("MaxSubmitJobsPerUser", value, None))
        elif kind == "PA":
            names = named.get(which, ())
            within += [("MaxSubmitJobsPerAccount", value, account) for account in names]
    for limit, value, account in within:
        for qos in (name, *([""] if name == _USUAL_QOS else [])):
            yield from _limit(limit, f"QOS {name}", value, account=account, qos=qos)


def _limit(
    name: str, of: str, text: str, *, account: str | None = None, qos: str | None = None
) -> Iterator[Limit]:
    """Yield the limit in ``10(3)``, 3 of which are used; nothing for ``N(3)``."""
    numbers = re.fullmatch(r"(\d+)\((\d+)\)", text)
    if numbers:
        value, used = map(int, numbers.groups())
        room = max(value - used, 0)
        yield Limit(name=name, of=of, value=value, used=used, room=room, account=account, qos=qos)
