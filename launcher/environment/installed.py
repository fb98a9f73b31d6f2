"""What is installed beside an interpreter, read from the names of its ``*.dist-info`` folders.

Why not importlib.metadata: it opens and parses a file a distribution, some 100 ms for an
environment with 300 of them and more on a network file system; one listing of the folder says the
same (a test compares the two), and says it for interpreters that are not ours as well.
Source: the specification "Recording installed projects" of the Python Packaging Authority.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.environment.requirement import normal, redacted

if TYPE_CHECKING:
    from collections.abc import Iterable

_EGG = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-py[0-9.]+)?(?:-[^-]+)?\.egg-info")
_VALUE = re.compile(r"^(\w+)(?:\s*:[^=]+)?\s*=\s*['\"]([^'\"]*)['\"]", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One distribution: its normal name, its version and the folder that records it."""

    project: str
    version: str
    record: str

    def url(self) -> str:
        """Return the URL that it was installed from, without secrets; "" where from an index."""
        try:
            values = json.loads((Path(self.record) / "direct_url.json").read_text("utf-8"))
        except (OSError, ValueError):
            return ""
        control = values.get("vcs_info", {})
        kind = f"{control['vcs']}+" if control else ""
        revision = f"@{control['commit_id']}" if control.get("commit_id") else ""
        return redacted(f"{kind}{values.get('url', '')}{revision}")

    def frozen(self) -> str:
        """Return the line that ``pip freeze`` would print."""
        url = self.url()
        return f"{self.project} @ {url}" if url else f"{self.project}=={self.version}"


def installed(site: Iterable[str]) -> dict[str, Installed]:
    """Return the distributions in the folders ``site`` by normal name; earlier folders win."""
    found: dict[str, Installed] = {}
    for folder in site:
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except OSError:
            continue
        for name in names:
            each = _distribution(folder, name)
            if each:
                found.setdefault(each.project, each)
    return found


def torch_build(site: Iterable[str]) -> dict[str, str]:
    """Return torch's version, git_version and, for a GPU build, cuda or hip; {} without torch.

    Read from its version.py: to import torch takes seconds.
    """
    for folder in site:
        try:
            text = (Path(folder) / "torch" / "version.py").read_text("utf-8")
        except OSError:
            continue
        values = dict(_VALUE.findall(text))
        values["version"] = values.pop("__version__", "")
        return {key: values[key] for key in sorted(values) if values[key] and key != "debug"}
    return {}


def _distribution(folder: str, name: str) -> Installed | None:
    if name.startswith("~"):  # what pip leaves of a package that it could not remove
        return None
    if name.endswith(".dist-info"):
        project, _, version = name[: -len(".dist-info")].rpartition("-")
    elif name.endswith(".egg-info"):
        egg = _EGG.fullmatch(name)
        project = egg["name"] if egg else name[: -len(".egg-info")]
        version = egg["version"] if egg else _egg_version(f"{folder}/{name}")
    else:
        return None
    record = f"{folder}/{name}"
    return Installed(project=normal(project), version=version, record=record) if project else None


def _egg_version(record: str) -> str:
    try:
        text = (Path(record) / "PKG-INFO").read_text("utf-8")
    except OSError:
        return ""
    found = re.search(r"^Version: *(\S+)", text, re.MULTILINE)
    return found[1] if found else ""
