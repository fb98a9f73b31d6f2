"""What an ssh server and its clients read: keys, and the texts of their files."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from tests.cluster import proxy
from tests.cluster.host import ENVIRONMENT
from tests.cluster.user import USER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PORTS = (22, 2222)  # one server listens on both
HOST_KEY = "ssh_host_ed25519_key"
KEY = ".ssh/id_ed25519"
KNOWN = ".ssh/known_hosts"


def key(path: Path, comment: str) -> str:
    """Make a pair of keys; return the public one, which lies beside the other as well."""
    words = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))
    subprocess.run(words, env=ENVIRONMENT, check=True)
    return path.with_name(f"{path.name}.pub").read_text()


def server(variables: Mapping[str, str]) -> str:
    """Return sshd_config; variables are in every session's environment. Source: sshd_config(5).

    As Debian's, but: the quickest key exchange, no PAM (its session modules want a system around
    them), and keys that a test can take away from outside.
    """
    quoted = " ".join(f'"{name}={value}"' for name, value in sorted(variables.items()))
    return f"""\
Port {PORTS[0]}
Port {PORTS[1]}
HostKey /etc/ssh/{HOST_KEY}
AuthorizedKeysFile /etc/ssh/authorized_keys
KexAlgorithms curve25519-sha256
PidFile none
UsePAM no
UseDNS no
PermitRootLogin no
PasswordAuthentication no
KbdInteractiveAuthentication no
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
{f"SetEnv {quoted}" if quoted else ""}
"""


def client(addresses: Mapping[str, str], jumps: Mapping[str, str], home: Path) -> str:
    """Return the ssh_config of a user with this home."""
    each = [
        f"Host {name}\n  HostName {address}\n"
        + (f"  ProxyJump {jumps[name]}\n" if name in jumps else "")
        for name, address in addresses.items()
    ]
    return f"""\
{"".join(each)}Host {" ".join(addresses)}
  User {USER}
  IdentityFile {home / KEY}
  IdentitiesOnly yes
  UserKnownHostsFile {home / KNOWN}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
"""


def _proxy() -> SplitResult:
    """Return this machine's own."""
    return urlsplit(os.environ.get("https_proxy") or os.environ.get("HTTPS_PROXY") or "")


def upstream() -> str:
    """Return the address of this machine's own proxy; nothing if it needs none."""
    own = _proxy()
    return f"{own.hostname}:{own.port or 80}" if own.hostname else ""


def package_variables() -> dict[str, str]:
    """Return what tells a host's pip where packages come from; /etc/pip.conf is there anyway.

    The proxy is the host's, see proxy.py; a name and password for this machine's own are passed on.
    """
    names = [name for name in os.environ if name.startswith("PIP_") and name != "PIP_CACHE_DIR"]
    login, at, _ = _proxy().netloc.rpartition("@")
    there = {"https_proxy": f"http://{login}{at}127.0.0.1:{proxy.PORT}"}
    return {name: os.environ[name] for name in names} | there
