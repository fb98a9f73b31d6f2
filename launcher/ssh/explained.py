"""What ssh says when it cannot connect -> an error with the next step."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.errors import SubmitError

if TYPE_CHECKING:
    from launcher.hosts import Host

_TOO_OLD = 86  # exit status of what we run there first
_NO_PROGRAM = (126, 127)
# What ssh says, what that means, what helps. The first that is found counts.
_SIGNS = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the one that is known",
        "If the host was set up anew, compare its key, then: ssh-keygen -R {name}; ssh {name}.",
    ),
    (
        r"Host key verification failed|host key is known for|No \S+ host key is known",
        "its host key is not known",
        "Run `ssh {name}` once, and compare the key that it shows.",
    ),
    (
        r"Permission denied|Too many authentication failures",
        "it refuses this user or key",
        "`ssh {name}` must get in: IdentityFile here, and ~/.ssh/authorized_keys there.",
    ),
    (
        r"Could not resolve hostname",
        "there is no host of this name",
        "An alias of ssh's configuration (compute.ssh_config names another), or user@host:port.",
    ),
    (
        r"stdio forwarding failed|channel 0: open failed|administratively prohibited",
        "the jump host does not reach it",
        "`ssh -v {name}` shows the way that is taken; ProxyJump names the host between.",
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
        r"Bad owner or permissions|Can't open user config|Bad configuration|bad configuration",
        "ssh does not take its configuration",
        "compute.ssh_config names its file.",
    ),
)
_OF_A_PERSON = (
    r"Permission denied|Host key verification failed|host key is known|passphrase|"
    r"Too many authentication"
)


def wants_a_person(said: str) -> bool:
    """Return whether ssh may get in once somebody answers its questions."""
    return bool(re.search(_OF_A_PERSON, said)) and "HAS CHANGED" not in said


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
            f"{{host: {other.name}, address: ...}} in compute.hosts says how it is reached there."
        )
    return SubmitError(
        f"{first.name} cannot ssh to {other.name} ({to}), and mpirun starts its ranks that way: "
        f"{last}",
        hint=hint,
        stderr=said,
    )


def error(name: str, said: str, status: int | None) -> SubmitError:
    """Return the error for a host that was not reached; ``said``: by ssh, or by its shell."""
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    found = next((each for each in _SIGNS if re.search(each[0], said)), None)
    if status == _TOO_OLD:
        what = "its Python is older than 3.10"
        hint = "compute.python=/path/to/python3 names a newer one there."
    elif status in _NO_PROGRAM:
        what, hint = f"there is no Python: {last}", "compute.python=/path/to/python3 names it."
    elif found:
        what, hint = f"{found[1]}: {last}", found[2].format(name=name)
    else:
        what, hint = f"no connection: {last}", f"`ssh {name}` shows more."
    return SubmitError(
        f"{name} cannot be reached: {what}",
        hint=hint,
        exit_status=status,
        stderr=said,
        transient=found is None or "answer" in found[1] or "sshd" in found[1],
    )
