"""Requirements as pip reads them: are they well formed, are they met.

Why a pattern before ``packaging``: to import that takes 20 ms, more than all else at a launch, and
nearly all requirements are a name with plain versions. What the pattern does not know goes to
``packaging``, so it decides nothing differently; a test holds the two side by side.
Source: the specification "Dependency specifiers" of the Python Packaging Authority.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.environment.installed import Installed

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_VERSION = r"[0-9]+(?:\.[0-9]+)*(?:(?:a|b|rc)[0-9]+)?(?:\.post[0-9]+)?(?:\.dev[0-9]+)?"
_SPECIFIER = rf"(?:>=|<=|!=|<|>)\s*{_VERSION}|==\s*{_VERSION}(?:\+[a-z0-9]+(?:\.[a-z0-9]+)*)?"
_PLAIN = re.compile(rf"({_NAME})\s*(?:(?:{_SPECIFIER})(?:\s*,\s*(?:{_SPECIFIER}))*)?")
_PINNED = re.compile(rf"{_NAME}\s*==\s*({_VERSION})")
_SECRET = re.compile(r"(https?://)[^/@\s]+@|(://[^/@:\s]*):[^/@\s]*@")


def check(key: str, text: str) -> None:
    """Return when ``text`` is a requirement, else raise ConfigError naming ``key``."""
    if _PLAIN.fullmatch(text):
        return
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415 - 20 ms

    try:
        Requirement(text)
    except InvalidRequirement as error:
        raise ConfigError(
            f"{key}={text!r} is not a requirement: {str(error).splitlines()[0]}",
            hint="Allowed is what pip calls a requirement: 'pandas', 'pandas>=2,<3', "
            "'mine @ file:///path' or 'mine @ git+https://...'; pip's options go to "
            "environment.pip_args.",
        ) from error


def name(text: str) -> str:
    """Return the project that the requirement ``text`` names, in its normal form."""
    found = re.match(_NAME, text)
    return normal(found[0]) if found else ""


def normal(project: str) -> str:
    """Return a project's name as packaging tools compare it: ``Foo.Bar_baz`` -> ``foo-bar-baz``."""
    return re.sub(r"[-_.]+", "-", project).lower()


def pinned(text: str) -> str:
    """Return the version that ``text`` pins with ``==``, or ``""``."""
    found = _PINNED.fullmatch(text.strip())
    return found[1] if found else ""


def redacted(text: str) -> str:
    """Return ``text`` without the secrets of its URLs; ``ssh://git@host`` holds none."""
    return _SECRET.sub(lambda found: (found[1] or found[2]) + ("" if found[1] else "@"), text)


def satisfied(text: str, installed: Mapping[str, Installed], python: str) -> bool:
    """Return whether ``installed``, by normal name, meets ``text`` on Python version ``python``.

    What an extra adds is not looked at: its packages are named by the extra's project alone.
    """
    found = installed.get(name(text))
    if found is None and ";" not in text:
        return False
    if found:
        wants, has = _numbers(pinned(text)), _numbers(found.version.partition("+")[0])
        if text == found.project:
            return True
        if wants and has:
            return wants == has
    return _satisfied(text, found, python)


def _numbers(version: str) -> tuple[int, ...]:
    """Return a version that is numbers only, 2.1.0 as (2, 1); () for any other."""
    if not re.fullmatch(r"[0-9]+(?:\.[0-9]+)*", version):
        return ()
    return tuple(map(int, re.sub(r"(\.0+)+$", "", version).split(".")))


def _satisfied(text: str, found: Installed | None, python: str) -> bool:
    from packaging.requirements import Requirement  # noqa: PLC0415 - 20 ms

    wanted = Requirement(text)
    python_version = ".".join(python.split(".")[:2])
    if wanted.marker and not wanted.marker.evaluate(
        {"python_version": python_version, "python_full_version": python}
    ):
        return True
    if found is None:
        return False
    if wanted.url:
        return found.url() == redacted(wanted.url)
    return wanted.specifier.contains(found.version, prereleases=True)
