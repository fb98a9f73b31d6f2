"""What a host has for runs, and whether it reaches other hosts, as ``launcher doctor`` asks it.

Standard library only, and sent to the agent as it is: a host whose disk is full can tell so. What
it writes is one file that it removes at once; what it listens on ends with the connection.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import os
import shutil
import socket
import ssl
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_INDEX = "https://pypi.org/simple"
_PROBE = bytes(1 << 16)  # more than what a file system keeps beside a file's name
_LISTENING: list[socket.socket] = []


def requests() -> dict[str, Callable[[dict[str, Any], bytes], Any]]:
    """Return what the agent carries out from now on, by name."""
    each = (checkup, listen, connect, hush)
    return {"time": lambda _, __: time.time(), **{one.__name__: one for one in each}}


def checkup(head: dict[str, Any], _: bytes) -> dict[str, Any]:
    """Return what this host has; ``timeout_s``: of the question for packages."""
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    compilers = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return {
        "unwritable": _unwritable(head["workdir"]),
        "compiler": next((path for each in compilers if (path := shutil.which(each))), ""),
        "make": shutil.which("make") or "",
        "header": header if os.path.exists(header) else "",
        "packages": _packages(head["pip_args"], head["timeout_s"]),
    }


def listen(head: dict[str, Any], _: bytes) -> int:
    """Return the port on which this host answers with ``token``, until it is told to hush.

    By IPv4, as supervisors and pools do.
    """
    listening = socket.create_server(("", 0), backlog=256)
    _LISTENING.append(listening)

    def answer() -> None:
        with contextlib.suppress(OSError):  # it is closed
            while True:
                with listening.accept()[0] as client, contextlib.suppress(OSError):
                    client.settimeout(1)
                    client.sendall(head["token"].encode())

    threading.Thread(target=answer, daemon=True).start()
    return int(listening.getsockname()[1])


def hush(_: dict[str, Any], __: bytes) -> int:
    """Listen no more."""
    count = len(_LISTENING)
    for each in _LISTENING:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)  # wakes who waits for a connection
        each.close()
    _LISTENING.clear()
    return count


def connect(head: dict[str, Any], _: bytes) -> list[str]:
    """Return of each (address, port, token) why it was not reached, or ""."""
    found = ["it did not answer in time"] * len(head["to"])

    def one(index: int) -> None:
        address, port, token = head["to"][index]
        try:
            with socket.create_connection((address, port), timeout=head["timeout_s"]) as there:
                said = there.recv(100).decode("utf-8", "replace")
                found[index] = "" if said == token else f"another machine answers at {address}"
        except OSError as error:
            found[index] = str(error)

    threads = [threading.Thread(target=one, args=(n,), daemon=True) for n in range(len(found))]
    for each in threads:
        each.start()
    end = time.monotonic() + head["timeout_s"] + 1  # a name may be looked up for longer
    for each in threads:
        each.join(max(0.0, end - time.monotonic()))
    return list(found)


def _unwritable(workdir: str) -> str:
    """Return why no file can be written there, or ""."""
    path = os.path.join(workdir, f"doctor.{os.getpid()}.{os.uname().nodename}")
    try:
        os.makedirs(workdir, mode=0o700, exist_ok=True)
        try:
            with open(path, "xb", buffering=0) as file:
                if file.write(_PROBE) < len(_PROBE):
                    return "No space left on device"
                os.fsync(file.fileno())
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _packages(pip_args: list[str], timeout_s: float) -> dict[str, str]:
    """Return pip's index without its password, and why it does not answer, or ""."""
    settings = _pip()
    url = _given(pip_args, ("-i", "--index-url")) or settings.get("index-url", _INDEX)
    parts = urllib.parse.urlsplit(url)
    shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    if settings.get("no-index") in ("1", "true", "yes", "on") or "--no-index" in pip_args:
        return {"index": "no index: find-links only", "error": ""}
    found = {"index": shown, "error": f"no answer within {timeout_s:g} s"}

    def ask() -> None:
        request = urllib.request.Request(f"{shown.rstrip('/')}/pip/")  # noqa: S310
        if parts.username:
            login = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
            value = base64.b64encode(login.encode()).decode()
            request.add_header("Authorization", f"Basic {value}")
        try:
            trust = ssl.create_default_context(cafile=settings.get("cert"))
            with urllib.request.urlopen(request, timeout=timeout_s, context=trust) as answer:  # noqa: S310
                answer.read(1)
            found["error"] = ""
        except urllib.error.HTTPError as error:
            found["error"] = str(error)
            error.close()
        except (OSError, ValueError) as error:
            found["error"] = str(getattr(error, "reason", "") or error)

    asking = threading.Thread(target=ask, daemon=True)  # a name may be looked up for long
    asking.start()
    asking.join(timeout_s)
    return dict(found)


def _pip() -> dict[str, str]:
    """Return pip's own settings of this host, the strongest last. Source: pip's configuration."""
    home = os.path.expanduser("~")
    files = ["/etc/pip.conf", f"{home}/.pip/pip.conf", f"{home}/.config/pip/pip.conf"]
    files += [os.path.join(sys.prefix, "pip.conf"), os.environ.get("PIP_CONFIG_FILE", "")]
    settings: dict[str, str] = {}
    for file in files:
        parsed = configparser.RawConfigParser()
        with contextlib.suppress(OSError, configparser.Error, UnicodeDecodeError):
            parsed.read(file)
            if parsed.has_section("global"):
                settings |= dict(parsed.items("global"))
    for name in ("index-url", "no-index", "cert"):
        value = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
        settings |= {name: value} if value else {}
    return settings


def _given(words: list[str], names: tuple[str, ...]) -> str:
    """Return the value of an option among pip's arguments, or ""."""
    for word, following in zip(words, [*words[1:], ""], strict=False):
        name, _, value = word.partition("=")
        if name in names:
            return value or following
    return ""
