"""What a person types -> overrides that Hydra's grammar reads as they meant it.

Why anything is changed at all: an override is text typed at a prompt. ``lr=1e-3`` must reach the
script as ``1e-3``, ``torch==2.13.0`` is no fault of the person's, and a key whose content is free
needs no '+'. What Hydra's grammar reads is never read differently, but for the text of numbers.
"""

from __future__ import annotations

import re

from launcher import params

# Keys whose content is free: `key.anything=value` needs no leading '+'.
FREE = ("script_params", "env", "data", "compute.extra", "dist.mca")
GROUPS = ("compute", "environment", "dist")
OPTIONS = {
    "compute": "Ours: local, slurm, ssh.",
    "environment": "Ours: cpu, gpu.",
    "dist": "Ours: single, mpi.",
}
_OVERRIDE = re.compile(r"(?P<mark>\+\+?|~)?(?P<key>[^=]+?)(?:=(?P<value>.*))?", re.DOTALL)
_NUMBER = re.compile(r"[+-]?\.?\d[\w.+-]*")
_STRUCTURED = re.compile(r"['\"\[{$,\\]")  # what may mean more than the text that it is


def parts(override: str) -> tuple[str, str, str | None]:
    """Return the mark ('+', '++', '~' or ''), the key and the value (None: there is no '=')."""
    found = _OVERRIDE.fullmatch(override)
    return (found["mark"] or "", found["key"], found["value"]) if found else ("", override, None)


def is_free(key: str) -> bool:
    """Return whether ``key`` is one whose content is free, or below one."""
    return any(key == name or key.startswith(f"{name}.") for name in FREE)


def readable(override: str) -> str:
    """Return ``override`` as Hydra wants it: '++' for free keys, no '+' for a group's option.

    A variable's value, and a number that would be written differently, stay the text they are.
    """
    mark, key, value = parts(override)
    if value is None or mark == "~":
        return override
    if key in (*GROUPS, "experiment"):
        return f"{key}={value}"
    if not is_free(key):
        return override
    variable = key.startswith("env.") and value != "null" and not _STRUCTURED.search(value)
    if variable or (_NUMBER.fullmatch(value) and _rewritten(value) != value):
        value = params.quoted(value)
    return f"++{key}={value}"


def _rewritten(number: str) -> str:
    """Return what becomes of ``number`` when it is read as one and written again."""
    for kind in (int, float):
        try:
            return str(kind(number))
        except ValueError:
            continue
    return number


def as_text(override: str) -> str | None:
    """Return ``override``, which Hydra cannot read, with its value quoted: it is just text.

    A flat list has its items quoted. None when the value begins like something else.
    """
    mark, key, value = parts(override)
    if not value or not re.fullmatch(r"[\w.@/+-]+", key):
        return None
    inner = value[1:-1]
    if value[0] == "[" and value[-1] == "]" and not re.search(r"['\"\[\]{}]", inner):
        items = (params.quoted(each.strip()) for each in inner.split(","))
        return f"{mark}{key}=[{','.join(items)}]"
    if value[0] in "[{'\"":
        return None
    return f"{mark}{key}={params.quoted(value)}"
