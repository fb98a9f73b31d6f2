"""The environment variables of the ranks: which may be shown, and which are secret.

Why names decide: a token in a record stays there for ever, and nobody thinks of a list beforehand.
"""

from __future__ import annotations

import re
from typing import Any

from launcher import overrides as overrides_of
from launcher import params
from launcher.errors import ConfigError

_SECRET = re.compile(
    r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY|(?:^|_)(?:PWD|PAT)|"
    r"(?:API|ACCESS|PRIVATE|SECRET|AUTH|ACCOUNT|STORAGE)_?KEYS?)(?:$|_)",
    re.IGNORECASE,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def environment(values: dict[str, Any]) -> tuple[dict[str, str], tuple[str, ...], dict[str, str]]:
    """Return the variables that may be shown, the names of the secret ones, and given secrets."""
    shown: dict[str, str] = {}
    given: dict[str, str] = {}
    names = set(values["secrets"])
    for name, value in values["env"].items():
        if not _NAME.fullmatch(name) or name.startswith("LAUNCHER_"):
            raise ConfigError(
                f"env.{name}: not a name for a variable of yours",
                hint="Letters, digits and '_', no digit first; LAUNCHER_... is the launcher's own.",
            )
        if value is None:
            continue
        text = params.text(value)
        if "\0" in text:
            raise ConfigError(f"env.{name}: a variable cannot hold a NUL byte")
        if name in names or _SECRET.search(name):
            names.add(name)
            given[name] = text
        else:
            shown[name] = text
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"secrets: '{name}' is no name of an environment variable",
                hint="List names, such as secrets=[HF_TOKEN]; values come from the environment.",
            )
    return shown, tuple(sorted(names)), given


def no_secret_within(record: dict[str, Any], given: dict[str, str]) -> None:
    """Refuse a secret's value that an interpolation carried to another key."""
    for key, value in _leaves(record):
        for name, secret in given.items():
            if len(secret) >= 4 and secret in value:
                raise ConfigError(
                    f"{key}: holds the value of the secret env.{name}",
                    hint="A secret never goes on a command line or into a record: let the script "
                    f"read os.environ['{name}'].",
                )


def _leaves(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Return (key, text) of every value, and of every key, in ``value``."""
    if isinstance(value, dict):
        pairs = [(f"{path}.{key}".lstrip("."), each) for key, each in value.items()]
    elif isinstance(value, list):
        pairs = [(f"{path}[{index}]", each) for index, each in enumerate(value)]
    else:
        return [(path, f"{path} {params.text(value)}")]
    return [leaf for name, each in pairs for leaf in _leaves(each, name)]


def masked(override: str, secrets: tuple[str, ...]) -> str:
    """Return ``override`` as it may be recorded: the value of a secret is not shown."""
    mark, key, value = overrides_of.parts(override)
    name = key.removeprefix("env.")
    hidden = name in secrets or _SECRET.search(name) or key == "env"
    if value is not None and key.partition(".")[0] == "env" and hidden:
        return f"{mark}{key}=***"
    return override
