"""The plain user who submits: an account on this machine, without a home or a password."""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import TYPE_CHECKING

from tests.cluster.host import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Mapping
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


def give(path: Path) -> Path:
    """Make a file, or a folder with all that is in it, the plain user's."""
    who = account(USER)
    for each in (path, *(path.rglob("*") if path.is_dir() else ())):
        os.chown(each, who.pw_uid, who.pw_gid, follow_symlinks=False)
    return path


def lay(home: Path, files: Mapping[str, str]) -> None:
    """Write files that are private to the plain user, as is the home that they lie in."""
    for name, text in files.items():
        path = home / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(text)
    give(home)
