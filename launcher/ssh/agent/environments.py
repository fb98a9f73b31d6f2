"""Environments of a host, and Horovod's wheels, which machines of one kind have from each other."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from launcher.environment import Environment, answers
from launcher.errors import LaunchError, ProvisionError
from launcher.ssh.agent.objects import Objects, beside

if TYPE_CHECKING:
    from launcher.ssh.agent.serve import Agent

_MOST = 4 << 20  # bytes of one answer


def extend(agent: Agent) -> None:
    """Have the agent carry out what is below."""
    provided = Environments(agent)
    agent.requests |= {
        each.__name__: each
        for each in (provided.locate, provided.build, wheels, wanted, wheel, adopt)
    }


class Environments:
    """What a host has for ranks to run with. Each method carries out the request of its name."""

    def __init__(self, agent: Agent) -> None:
        """Begin with what the agent knows."""
        self.agent = agent

    def locate(self, head: dict[str, Any], _: bytes) -> dict[str, Any]:
        """Return where the environment is, or would be built, on this host."""
        from launcher.environment.locate import locate  # noqa: PLC0415 - where it is asked for

        found = locate(_environment(head), horovod=head["horovod"], mpi=head["mpi"], remember=True)
        values = {name: getattr(found, name) for name in found.__dataclass_fields__}
        return {**values, "recipe": None}

    def build(self, head: dict[str, Any], _: bytes) -> str:
        """Build the environment where it is not there; return the text of its lock."""
        from launcher.environment.build import ensure, lock_text  # noqa: PLC0415
        from launcher.environment.locate import locate  # noqa: PLC0415

        def say(line: str) -> None:
            self.agent.tell({"say": line})

        with Objects(self.agent.workdir).in_use():  # until its time says that it is used
            prefix = locate(_environment(head), horovod=head["horovod"], mpi=head["mpi"])
            if (prefix.path, prefix.python) != (head["path"], head["python"]):
                raise ProvisionError(
                    f"it would build {prefix.path or prefix.python}, the plan says {head['path']}"
                )
            if prefix.ready:
                return lock_text(ensure(prefix, say))
        return lock_text(ensure(prefix, say))


def wheels(_: dict[str, Any], __: bytes) -> dict[str, dict[str, Any]]:
    """Return the wheels that are here: files and their sizes, and what each depends on, by key."""
    from launcher.environment.wheel import described  # noqa: PLC0415 - where it is asked for

    found = {}
    for key, facts in described(answers.cache_dir()).items():
        with os.scandir(_folder(key)) as files:
            sizes = sorted((each.name, each.stat().st_size) for each in files)
        found[key] = {"files": sizes, "facts": facts}
    return found


def wanted(head: dict[str, Any], _: bytes) -> list[str] | None:
    """Return which of the wheels that are offered may fit here; None: none is wanted.

    ``offers``: what each depends on, by key. What depends on torch is known once torch is here.
    """
    from launcher.environment.locate import locate  # noqa: PLC0415
    from launcher.environment.wheel import is_likely, likely  # noqa: PLC0415

    prefix = locate(_environment(head), horovod=head["horovod"], mpi=head["mpi"])
    recipe = prefix.recipe
    if prefix.ready or recipe is None or not recipe.needs_horovod or is_likely(recipe):
        return None
    return likely(recipe, head["offers"])


def wheel(head: dict[str, Any], _: bytes) -> tuple[int, bytes]:
    """Return a part of a file of a wheel."""
    with open(os.path.join(_folder(head["key"]), os.path.basename(head["name"])), "rb") as file:
        return head["offset"], os.pread(file.fileno(), _MOST, head["offset"])


def adopt(head: dict[str, Any], body: bytes) -> bool:
    """Keep a wheel that was built elsewhere, whole or not at all; return whether it did."""
    folder = _folder(head["key"])
    part = beside(folder)
    os.makedirs(part)
    try:
        at = 0
        for name, size in head["files"]:
            with open(os.path.join(part, os.path.basename(name)), "xb") as file:
                file.write(body[at : at + size])
            at += size
        os.rename(part, folder)
    except OSError:
        if not os.path.isdir(folder):  # else another one was quicker
            raise
        return False
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return True


def _folder(key: str) -> str:
    """Return the folder of a wheel, or of all."""
    if key and not key.isalnum():
        raise LaunchError(f"{key!r} is no key of a wheel")
    return os.path.join(answers.cache_dir(), "wheels", key)


def _environment(head: dict[str, Any]) -> Environment:
    values = head["environment"]
    lists = {name: tuple(each) for name, each in values.items() if isinstance(each, list)}
    return Environment(**{**values, **lists})


def asked(environment: Environment, *, horovod: bool, mpi: bool) -> dict[str, Any]:
    """Return what a request for an environment says of it."""
    return {"environment": asdict(environment), "horovod": horovod, "mpi": mpi}
