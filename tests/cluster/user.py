"""The plain user who submits: an account on this machine, without a home or a password."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

from tests.cluster.host import ENVIRONMENT

if TYPE_CHECKING:
    from pathlib import Path

USER = "launchertest"


def account(user: str) -> pwd.struct_passwd:
    """Return a user's account; the tests' own is made when it is not there, and stays."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        if user != USER:
            raise
        words = ("useradd", "--no-create-home", "--shell", "/bin/bash", user)
        subprocess.run(words, env=ENVIRONMENT, check=True)
        return pwd.getpwnam(user)


def owned(path: Path, user: str) -> Path:
    """Return a folder, which is made for its user when it is not there."""
    who = account(user)
    if not path.exists():
        path.mkdir()
        os.chown(path, who.pw_uid, who.pw_gid)
    return path
