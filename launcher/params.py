"""``script_params`` -> the script's arguments, and other values -> text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from launcher.errors import ConfigError

_PLAIN_WORD = re.compile(r"[A-Za-z_/][A-Za-z0-9_/.-]*")
_DURATION = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+):(?P<minutes>\d+):(?P<seconds>\d+)")


def text(value: Any) -> str:
    """Return a scalar as a word: ``true``, ``null``, ``0.1``, or the text itself."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def arguments(params: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the words an argparse script expects.

    ``lr: 0.1`` -> ``--lr 0.1``; true: the bare flag; false, null: nothing; a list: the flag and
    its values; a dict: ``--a.b``; a key that begins with '-' is used as it is.
    """
    for key, value in params.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        flag = name if name.startswith("-") else f"--{name}"
        if isinstance(value, Mapping):
            yield from arguments(value, name)
        elif isinstance(value, (list, tuple)):
            if any(isinstance(each, (Mapping, list, tuple)) for each in value):
                raise ConfigError(
                    f"script_params.{name}: an argument cannot hold a list or a mapping in a list",
                    hint="Give plain values, or one text, such as JSON between quotes.",
                )
            yield flag
            yield from map(text, value)
        elif value is True:
            yield flag
        elif value is not None and value is not False:
            yield flag
            yield text(value)


def hydra_arguments(params: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the overrides a Hydra script expects: ``lr=0.1``, ``model.depth=3``, ``x=[1,2]``."""
    for key, value in params.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from hydra_arguments(value, name)
        else:
            yield f"{name}={_hydra_value(value)}"


def override_arguments(params: Mapping[str, Any]) -> Iterator[str]:
    """Yield overrides whose texts are what a person types: ``lr=0.1``, ``+x=[1,2]``, ``~y``.

    ``~y: null`` has no value; the key '' has words that are none: options, and what else there is.
    """
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from override_arguments({f"{key}.{name}": each for name, each in value.items()})
        elif not key:
            yield from map(text, value)
        elif key.startswith("~") and value is None:
            yield key
        else:
            yield f"{key}={value if isinstance(value, str) else _hydra_value(value)}"


def _hydra_value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ",".join(
            f"{_hydra_value(str(key))}:{_hydra_value(each)}" for key, each in value.items()
        )
        return "{" + inner + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_hydra_value, value)) + "]"
    if not isinstance(value, str):
        return text(value)
    named = value.lower() in ("true", "false", "null", "nan", "inf")
    if _PLAIN_WORD.fullmatch(value) and not named:
        return value
    literal = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    return quoted(literal)


def quoted(value: str) -> str:
    """Return ``value`` between quotes, as Hydra's grammar reads it back."""
    # Backslashes are literal there, but before a quote and at the end.
    inner = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{inner}'"


STYLES = {"argparse": arguments, "hydra": hydra_arguments, "overrides": override_arguments}


def seconds(key: str, value: Any) -> int | None:
    """Return a limit in seconds from minutes, ``HH:MM:SS`` or ``D-HH:MM:SS``; None for null."""
    if value is None:
        return None
    found = _DURATION.fullmatch(str(value))
    if found is not None:
        days, hours, minutes, rest = (int(found[each] or 0) for each in found.groupdict())
        limit = ((days * 24 + hours) * 60 + minutes) * 60.0 + rest
    else:
        try:
            limit = float(value) * 60
        except (TypeError, ValueError):
            limit = 0.0
    if isinstance(value, bool) or not 1 <= limit < 1e9:
        raise ConfigError(
            f"{key}={value}: not a time",
            hint='Minutes (90), "HH:MM:SS" ("01:30:00") or "D-HH:MM:SS" ("1-00:00:00"), from one '
            "second; in a YAML file between quotes.",
        )
    return round(limit)
