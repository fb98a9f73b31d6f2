"""What ssh says when it cannot connect -> an error with the next step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.errors import SubmitError
from launcher.shell import shell_line

if TYPE_CHECKING:
    from launcher.hosts import Host
    from launcher.ssh.connection import Target

_TOO_OLD = 86  # exit status of what we run there first
_NO_PROGRAM = (126, 127)
# What ssh says, what that means, what helps. The first that is found counts.
_SIGNS = (
    (
        r"Host key for \S+ has changed",
        "its host key is not the one that is known",
        "If the host was set up anew, compare its key, then: {forget}; {typed}",
    ),
    (
        r"No \S+ host key is known|Host key verification failed",
        "its host key is not known",
        "Run `{typed}` once, and compare the key that it shows.",
    ),
    (
        r"Permissions \d+ for '.+' are too open",
        "ssh takes no key that others may read",
        "chmod 600 {open}",
    ),
    (
        r"Permission denied|Too many authentication failures",
        "it refuses this user or key",
        "`{typed}` must get in: IdentityFile here, and ~/.ssh/authorized_keys there.",
    ),
    (
        r"Could not resolve hostname",
        "there is no host of this name",
        "An alias of ssh's configuration (compute.ssh_config names another), or user@host:port.",
    ),
    (
        r"stdio forwarding failed|channel 0: open failed|administratively prohibited",
        "the jump host does not reach it",
        "`{typed} -v` shows the way that is taken; ProxyJump names the host between.",
    ),
    (
        r"timed out|No route to host|Network is unreachable|Host is down",
        "it does not answer",
        "Is it up, and reached from here? compute.connect_timeout_s is how long we wait.",
    ),
    (
        r"Connection refused|Connection closed|Connection reset|kex_exchange",
        "its sshd does not take the connection",
        "Does sshd run there, on this port? user@host:port says another one.",
    ),
    (
        r"Bad owner or permissions",
        "ssh takes no configuration that others may write",
        "chmod 600 that file.",
    ),
    (
        r"Bad configuration|Can't open user config|line \d+: ",
        "ssh does not take its configuration",
        "That line is to be mended; compute.ssh_config names another file.",
    ),
)
_REFUSED = "Permission denied"
_OF_A_PERSON = (
    rf"{_REFUSED}|Host key verification failed|host key is known|passphrase|"
    r"Too many authentication"
)


def wants_a_person(said: str) -> bool:
    """Return whether ssh may get in once somebody answers its questions."""
    return bool(re.search(_OF_A_PERSON, said)) and "HAS CHANGED" not in said


def refused(said: str) -> bool:
    """Return whether no key would do, for a reason that ssh does not tell."""
    return _REFUSED in said and "are too open" not in said


def between(first: Host, other: Host, said: str) -> SubmitError:
    """Return the error for a host that the first one does not reach, where mpirun has to."""
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    to = f"{other.user}@{other.address}" + ("" if other.port == 22 else f" -p {other.port}")
    if re.search(r"host key|Host key|HOST IDENTIFICATION", said):
        hint = f"On {first.name}: run `ssh {to}` once, and compare the key that it shows."
    elif "Permission denied" in said:
        hint = f"On {first.name}: ssh-keygen, if it has no key, then ssh-copy-id {to}."
    else:
        hint = (
            f"{first.name} must reach it by itself, with no jump between, as ranks do: {{host: "
            f"{other.name}, address: ...}} in compute.hosts names an address that it reaches."
        )
    return SubmitError(
        f"{first.name} cannot ssh to {other.name} ({to}), and mpirun starts its ranks that way: "
        f"{last}",
        hint=hint,
        stderr=said,
    )


def error(way: Target, said: str, status: int | None, *, helps: str = "") -> SubmitError:
    """Return the error for a host that was not reached; ``said``: by ssh, or by its shell.

    ``helps``: what is known to help, where that is more than ssh's words tell.
    """
    lines = said.strip().splitlines() or ["it said nothing"]
    found = next((each for each in _SIGNS if re.search(each[0], said)), None)
    if status == _TOO_OLD:
        what = "its Python is older than 3.10"
        hint = "compute.python=/path/to/python3 names a newer one there."
    elif status in _NO_PROGRAM:
        what, hint = f"there is no Python: {lines[-1]}", "compute.python=/path/to/python3 names it."
    elif found:
        # Of many lines the one that tells: after it come those of a jump host, and others.
        line = next((each for each in lines if re.search(found[0], each)), lines[-1]).strip()
        what = f"{found[1]}: {line}"
        values = {"typed": way.typed, "forget": _forget(way, said), "open": _open(said)}
        hint = helps or found[2].format(**values)
    else:
        what, hint = f"no connection: {lines[-1]}", f"`{way.typed}` shows more."
    return SubmitError(
        f"{way.name} cannot be reached: {what}",
        hint=hint,
        exit_status=status,
        stderr=said,
        transient=found is None or "answer" in found[1] or "sshd" in found[1],
    )


def _forget(way: Target, said: str) -> str:
    """Return the command that takes a host's old key out, by the name that it is known under."""
    name = re.search(r"Host key for (\S+) has changed", said)
    file = re.search(r"Offending \S+ key in (.+):\d+", said)
    words = ("ssh-keygen", *(("-f", file[1]) if file else ()), "-R", name[1] if name else way.name)
    return shell_line(words)


def _open(said: str) -> str:
    found = re.search(r"Permissions \d+ for '(.+)' are too open", said)
    return shell_line((found[1],)) if found else ""
