"""What the user's script raised, or said when it ended."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from launcher.environment import TORCH
from launcher.errors import nearest
from launcher.explain import advice
from launcher.explain.evidence import Explanation, short
from launcher.explain.packages import in_library, project_of

if TYPE_CHECKING:
    from launcher.explain.evidence import Evidence

_MODULE = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'(; '.+' is not a package)?")
_HOROVOD = re.compile(r"cannot import Horovod: (.+)")
_GLIBC = re.compile(r"version `(GLIBC\w*_[\d.]+)' not found")
_LIBRARY = re.compile(r"(lib[\w+.-]+\.so[\d.]*): cannot open shared object file")
_SYMBOL = re.compile(r"(?:ImportError|OSError): \S*?([^/\s]+\.so[\w.]*): undefined symbol")
_VERSION = re.compile(r"HorovodVersionMismatchError: (Framework .+)")
_NAME = re.compile(r"ImportError: (cannot import name .+)")
_MEMORY = re.compile(
    r"^.*(?:MemoryError|can't allocate memory|Cannot allocate memory|std::bad_alloc).*$",
    re.MULTILINE,
)
_FULL = re.compile(r"^.*(?:No space left on device|Disk quota exceeded).*$", re.MULTILINE)
_SHARED = re.compile(r"out of shared memory|bus error.*shm", re.IGNORECASE)
_WORKER = re.compile(r"DataLoader worker \(pid \d+\) is killed by signal: Killed")
_PORT = re.compile(
    r"EADDRINUSE|[Aa]ddress already in use|server socket has failed to listen", re.MULTILINE
)
_PORT_NUMBER = re.compile(r"port:? (\d+)")
_MISSING = re.compile(r"FileNotFoundError: .*?: '(.+?)'(?: -> '.+')?$", re.MULTILINE)
_DENIED = re.compile(r"PermissionError: .*?: '(.+?)'(?: -> '.+')?$", re.MULTILINE)
_USAGE = re.compile(r"^[^:\n]+: error: (.+)$", re.MULTILINE)
_UNKNOWN = re.compile(r"unrecognized arguments: (.+)")
_CHOICE = re.compile(r"argument (\S+): invalid choice: '?(.+?)'? \(choose from (.+)\)")
_REQUIRED = re.compile(r"the following arguments are required: (.+)")
_ARGUMENT = re.compile(r"argument (\S+): (.+)")


def module(evidence: Evidence) -> Explanation | None:
    """Explain a module that is not there."""
    found = evidence.error(_MODULE)
    if not found:
        return None
    name, top = found[1], found[1].partition(".")[0]
    project = project_of(_as_written(evidence, name))
    start = f"{evidence.who} found no module {name}{_place(evidence)}"
    if found[2]:
        why = f"a file {top}.py hides the package {top}"
    elif project and (name == top or project != project_of(top)):
        sentence = f"{start}: the environment does not have it"
        return Explanation(sentence=sentence, override=_add(evidence, top, project))
    elif project:
        why = f"the {top} that is installed is another version, or has no such part"
    elif in_library(name):
        why = "this Python was built without it"
    else:
        folder = evidence.option("source_directory") or "."
        why = f"a file of yours must be below source_directory={folder}, and not ignored by git"
    return Explanation(sentence=f"{start}: {why}")


def _as_written(evidence: Evidence, name: str) -> str:
    """Return the whole name that was imported: Python names the part that it did not find."""
    line = re.compile(
        rf"^ +(?:import|from) +({re.escape(name)}[\w.]*)(?: +import +(\w+))?", re.MULTILINE
    )
    found = line.search("\n".join(evidence.lines))
    return ".".join(filter(None, found.groups())) if found else name


def _add(evidence: Evidence, top: str, project: str) -> str:
    if top == "horovod":
        if evidence.record.dist == "single":
            return "dist=mpi"
        return advice.built(evidence)
    if top != "torch":
        return advice.with_package(evidence, project)
    if evidence.option("environment.torch"):
        return advice.built(evidence)
    return advice.setting(evidence, "environment.torch", TORCH)


def imports(evidence: Evidence) -> Explanation | None:
    """Explain a module that is there and cannot be imported."""
    start = f"{evidence.who} could not import a module{_place(evidence)}"
    if found := evidence.error(_HOROVOD):
        start = f"{evidence.who} could not import Horovod"
        return Explanation(sentence=f"{start}: {short(found[1])}", override=advice.built(evidence))
    if found := evidence.error(_GLIBC):
        where = advice.built_in_job(evidence)
        return Explanation(
            sentence=f"{start}: it was built on a newer system than {evidence.here}, which has no "
            f"{found[1]}",
            override=where or advice.built(evidence),
        )
    if found := evidence.error(_LIBRARY):
        return Explanation(
            sentence=f"{start}: {evidence.here} has no {found[1]}",
            override=_with(evidence, found[1]),
        )
    if found := evidence.error(_SYMBOL) or evidence.error(_VERSION):
        what = f"{found[1]} was built against another version of a library"
        what = found[1] if found[1].startswith("Framework") else what
        return Explanation(sentence=f"{start}: {what}", override=advice.built(evidence))
    if found := evidence.error(_NAME):
        return Explanation(sentence=f"{start}: {short(found[1])}")
    return None


def _with(evidence: Evidence, library: str) -> str:
    """Return the override that brings a shared library."""
    cuda = re.match(r"lib(?:cu|nccl|nv)", library)
    if cuda and evidence.option("environment.kind") == "cpu":
        return "environment=gpu"
    return advice.built(evidence)


def memory(evidence: Evidence) -> Explanation | None:
    """Explain an allocation of the node's memory that failed."""
    found = evidence.error(_SHARED)
    if found:
        return Explanation(
            sentence=f"{evidence.who} used up the shared memory of {evidence.here} (/dev/shm), "
            "which workers of a DataLoader hand their data through"
        )
    found = evidence.error(_MEMORY) or evidence.error(_WORKER)
    if not found:
        return None
    return Explanation(
        sentence=f"{evidence.who} ran out of memory{_place(evidence)}: {short(found[0])}",
        override=advice.more_memory(evidence),
    )


def files(evidence: Evidence) -> Explanation | None:
    """Explain a full disk, a file that is not there, and one that may not be used."""
    place = _place(evidence)
    if found := evidence.error(_FULL):
        return Explanation(
            sentence=f"{evidence.who} could not write{place}: the disk is full or the quota "
            f"used up ({short(found[0])})"
        )
    if found := evidence.error(_MISSING):
        path = f"{short(found[1])}{_named(evidence, found[1])}"
        return Explanation(sentence=f"{evidence.who} found no file {path}{place}")
    if found := evidence.error(_DENIED):
        path = f"{short(found[1])}{_named(evidence, found[1])}"
        return Explanation(sentence=f"{evidence.who} may not use {path}{place}: permission denied")
    return None


def _named(evidence: Evidence, path: str) -> str:
    """Return `` (data.digits.path)`` for the key that gave ``path``."""
    for name, entry in (evidence.option("data") or {}).items():
        given = entry.get("path") if isinstance(entry, dict) else None
        sent = entry.get("digest") if isinstance(entry, dict) else None
        if sent and f"/data/{sent}/" in path:
            return f" (data.{name}.path)"
        if given and (path == given or path.startswith(f"{str(given).rstrip('/')}/")):
            return f" (data.{name}.path)"
    for name, value in (evidence.option("script_params") or {}).items():
        if value == path:
            return f" (script_params.{name})"
    return ""


def port(evidence: Evidence) -> Explanation | None:
    """Explain a port that another process has."""
    if not evidence.error(_PORT):
        return None
    number = evidence.error(_PORT_NUMBER)
    which = f"port {number[1]}" if number else "the port that it wanted"
    return Explanation(
        sentence=f"{evidence.who} found {which} in use by another process on {evidence.here}"
    )


def usage(evidence: Evidence) -> Explanation | None:
    """Explain arguments that the script does not take, naming their script_params."""
    found = evidence.error(_USAGE) if evidence.status == 2 else None  # argparse's exit status
    if not found:
        return None
    said, start = short(found[1]), f"{evidence.who} does not take its arguments"
    if unknown := _UNKNOWN.match(said):
        return _unknown(evidence, unknown[1])
    if wanted := _REQUIRED.match(said):
        keys = ", ".join(_key(each) for each in wanted[1].split(", "))
        return Explanation(sentence=f"{start}: it needs {keys}")
    if choice := _CHOICE.match(said):
        near = nearest(choice[2], [each.strip(" '") for each in choice[3].split(",")])
        value = near.partition("'")[2].rpartition("'")[0]
        override = f"{_key(choice[1])}={advice.text(value)}" if value else ""
        return Explanation(
            sentence=f"{start}: {_key(choice[1])}={choice[2]} is none of {choice[3]}",
            override=override,
        )
    if one := _ARGUMENT.match(said):
        return Explanation(sentence=f"{start}: {_key(one[1])}: {one[2]}")
    return Explanation(sentence=f"{start}: {said}")


def _key(argument: str) -> str:
    """Return the key of an argument: ``-l/--lr`` -> ``script_params.lr``."""
    long = argument.rpartition("/")[2]
    return f"script_params.{long.removeprefix('--')}"


def _unknown(evidence: Evidence, words: str) -> Explanation:
    first = words.split(maxsplit=1)[0]
    text = "\n".join(evidence.lines)
    key = _key(first.partition("=")[0])
    sentence = f"{evidence.who} does not know the argument {first} ({key})"
    if first.startswith("--") and "--hydra-help" in text:
        return Explanation(
            sentence=f"{sentence}: it is a Hydra script", override="params_style=hydra"
        )
    if not first.startswith("-") and evidence.option("params_style") == "hydra":
        return Explanation(
            sentence=f"{sentence}: it is no Hydra script", override="params_style=argparse"
        )
    near = nearest(first, set(re.findall(r"--[\w-]+", text.partition(": error: ")[0])))
    known = near.partition("'")[2].rpartition("'")[0]
    return Explanation(
        sentence=f"{sentence}; it knows {known} ({_key(known)})" if known else sentence
    )


def plain(evidence: Evidence) -> Explanation | None:
    """Explain any other exception: what was raised, and where in the user's own code."""
    if not evidence.raised:
        return None
    last = evidence.raised[0]
    name = last.name if last.kind.startswith("builtins.") else last.kind
    said = short(f"{name}: {last.message}" if last.message else name)
    return Explanation(sentence=f"{_failed(evidence)}: {said}{_place(evidence)}")


def ended(evidence: Evidence) -> Explanation | None:
    """Explain an exit status by the last line before it, or why the script was not started."""
    if evidence.signal or not evidence.status:
        return None
    known = "rank" in evidence.failed
    lines = evidence.lines if known else evidence.started.splitlines() or evidence.lines
    last = next((line for line in reversed(lines) if line.strip(" -*=\t")), "")
    refused = str(evidence.failed.get("reason", ""))
    said = f"; its last line: {short(last)}" if last else f": {short(refused)}" if refused else ""
    start = _failed(evidence) if known else evidence.reason or "the run failed"
    status = "" if f"exit status {evidence.status}" in start else f": exit status {evidence.status}"
    return Explanation(sentence=f"{start}{status}{said}")


def _failed(evidence: Evidence) -> str:
    first = " first" if evidence.record.world_size > 1 else ""
    return f"{evidence.who} failed{first}"


def _place(evidence: Evidence) -> str:
    """Return `` (train.py, line 12)``; "" where no frame is the user's own."""
    for each in evidence.raised:
        place = each.place(evidence.record.id, evidence.record.prefix)
        if place:
            return f" ({place})"
    return ""
