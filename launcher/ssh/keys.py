"""Why none of the user's keys gets in, as far as this machine can tell: ssh does not say."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from launcher import process
from launcher.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.ssh.connection import Target

_PATIENCE_S = 5.0  # with an agent


def advice(way: Target, said: str, configured: Sequence[tuple[str, str]]) -> str:
    """Return what helps; ``configured``: what ssh's configuration says of the host, in order."""
    known = dict(configured)
    who = re.search(r"[^\s@]+@(\S+): Permission denied", said)
    jump = known.get("proxyjump", "none")
    if who and who[1] != known["hostname"] and jump != "none":
        return f"That is {jump}, on the way to it: `ssh {jump}` must get in first."
    files = [os.path.expanduser(value) for key, value in configured if key == "identityfile"]
    there = [file for file in files if os.path.isfile(file)]
    if _agent(known.get("identityagent", "")):
        return _bring(way, f"The agent's keys{' and ' * bool(there)}{' '.join(there)}")
    if not there:
        looked = ", ".join(files)
        return f"No key: no agent, no {looked}. ssh-keygen makes one, ssh-copy-id brings it there."
    locked = [file for file in there if _has_a_passphrase(file)]
    if locked:
        key = shell_line((locked[0],))
        return f"{key} has a passphrase, and no agent holds it: eval $(ssh-agent); ssh-add {key}"
    return _bring(way, " ".join(there))


def _bring(way: Target, keys: str) -> str:
    return (
        f"{keys}: not accepted for this user there. `ssh-copy-id{way.typed.removeprefix('ssh')}` "
        "brings a key; User and IdentityFile in ssh's configuration, or user@host, name others."
    )


def _agent(socket: str) -> bool:
    """Return whether an agent has keys; ``socket``: as the configuration names it."""
    env = {"SSH_AUTH_SOCK": os.path.expanduser(socket)} if socket.startswith(("/", "~")) else None
    return process.run(("ssh-add", "-l"), env=env, timeout_s=_PATIENCE_S).status == 0


def _has_a_passphrase(file: str) -> bool:
    done = process.run(("ssh-keygen", "-y", "-P", "", "-f", file), timeout_s=_PATIENCE_S)
    return "passphrase" in done.stderr
