"""How commands share a connection to a host: a master of ours, or as the user's own ssh does."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PERSISTS_S = 60  # a connection that no command uses


def sharing(own: Mapping[str, str]) -> tuple[str, ...]:
    """Return the options of ssh for it; ``own``: what the user's configuration says of the host.

    Whoever shares connections by their own configuration goes on to do so. But a command whose own
    connection others use lasts as long as they do, unless it leaves that to a process that stays.
    """
    if own.get("controlpath", "none") != "none":
        return () if own.get("controlpersist", "no") != "no" else ("ControlMaster=no",)
    if not (folder := _folder()):
        return ()
    path = f"ControlPath={folder}/%C"
    return ("ControlMaster=auto", path, f"ControlPersist={_PERSISTS_S}")


def _folder() -> str:
    """Return our folder for sockets, which nobody else may enter; "" where there is none.

    A socket's path has 108 bytes at most, so it is not in a folder of the project's.
    """
    uid, top = os.getuid(), os.environ.get("XDG_RUNTIME_DIR", "")
    folder = f"{top}/launcher-ssh" if os.path.isdir(top) else f"/tmp/launcher-ssh-{uid}"  # noqa: S108
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        about = os.lstat(folder)
    except OSError:
        return ""
    private = stat.S_ISDIR(about.st_mode) and about.st_uid == uid and not about.st_mode & 0o077
    return folder if private and len(folder) < 40 else ""
