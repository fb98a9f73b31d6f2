"""A host as ``compute.hosts`` names it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from launcher.errors import ConfigError, nearest

# An alias, or [user@]host[:port]. What ssh or a shell could take for something else is no name.
_NAME = re.compile(r"[A-Za-z0-9_.\[:][^\s\x00-\x1f\x7f'\"`$\\;&|<>(){}*?!#]*")
_COUNTS = {"slots": 1, "gpus": 0}  # what a host may be said to have, and the least of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A host as it is configured; ``address``: how the others reach it, "": as ssh does here.

    ``slots``: how many ranks at once, whatever its cores; None: as cores allow. ``gpus``: to be
    given to runs; None: those that are seen there.
    """

    name: str
    address: str = ""
    slots: int | None = None
    gpus: int | None = None


def named(index: int, given: Any) -> Named:
    """Return a host of compute.hosts; raise ConfigError when it is none."""
    values = {"host": given} if isinstance(given, str) else given
    key = f"compute.hosts[{index}]"
    allowed = {"host", "address", *_COUNTS}
    unknown = "" if not isinstance(values, dict) else next(iter({*values} - allowed), "")
    if not isinstance(values, dict) or unknown:
        raise ConfigError(
            f"{key}={given}: " + (f"there is no such key {unknown}" if unknown else "not a host"),
            hint=nearest(str(unknown), allowed) + "An alias of ssh's configuration, "
            "user@host:port, or {host: ..., slots: ..., gpus: ..., address: ...}.",
        )
    for name, least in _COUNTS.items():
        count = values.get(name)
        if count is not None and (type(count) is not int or count < least):
            raise ConfigError(
                f"{key}.{name}={count}: must be {least} or more",
                hint="null: as many as the host has.",
            )
    host = Named(
        name=str(values.get("host") or ""),
        address=str(values.get("address") or ""),
        slots=values.get("slots"),
        gpus=values.get("gpus"),
    )
    for text in filter(None, (host.name, host.address)):
        if not _NAME.fullmatch(text) or "@-" in text:
            raise ConfigError(
                f"{key}={text!r}: not the name of a host",
                hint="Letters and digits, and no space, quote or leading dash.",
            )
    if not host.name:
        raise ConfigError(f"{key}={given}: it has no name", hint="{host: ..., address: ...}")
    return host
