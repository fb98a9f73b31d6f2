"""Data that are sent to real ssh hosts: whole or not at all, once, and only what is lacking."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.user import USER, give
from tests.real.conftest import log, until
from tests.real.held import held
from tests.real.ssh import SINGLE, TWO_HOSTS, records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.cluster.ssh_host import SshHost
    from tests.real.ssh import SshProject

MB = 1 << 20
HOSTILE = (b"a b", b"new\nline", b"q'\"uote", b"-dash", b"\xff\xfe", b"$HOME`id`", b"e\\f")
SHOW = """\
import hashlib, json, os, sys
_, _, path = sys.argv[:3]
found = {}
for folder, folders, names in os.walk(os.fsencode(path)):
    for name in [] if os.path.islink(folder) else names + folders:
        each = os.path.join(folder, name)
        if os.path.islink(each):
            told = "-> " + os.readlink(each).decode()
        elif os.path.isdir(each):
            told = "folder"
        else:
            told = hashlib.sha256(open(each, "rb").read()).hexdigest()
        found[os.path.relpath(each, os.fsencode(path)).hex()] = told
print(json.dumps([path, found, os.access(path, os.W_OK), sys.argv[3:], os.environ.get("FILE")]))
"""


@pytest.fixture(autouse=True)
def blank(box: SshProject) -> Iterator[None]:
    """Have no data on the hosts; what a test sent would be there for the next one."""
    forget(box)
    yield
    forget(box)


def forget(box: SshProject) -> None:
    for host in box.hosts.all:
        shutil.rmtree(host.user_home / ".launcher" / "data", ignore_errors=True)


def received(host: SshHost) -> int:
    """Return the bytes that a host has had by its network."""
    lines = Path(f"/proc/{host.pid}/net/dev").read_text().splitlines()[2:]
    counts = {line.split(":")[0].strip(): int(line.split(":")[1].split()[0]) for line in lines}
    return sum(count for name, count in counts.items() if name != "lo")


def listed(path: Path) -> dict[str, str]:
    """Return what SHOW finds below a folder."""
    done = subprocess.run(
        (sys.executable, "-c", SHOW, "-", str(path)), check=True, capture_output=True, text=True
    )
    found: dict[str, str] = json.loads(done.stdout)[1]
    return found


def data(name: str, path: str) -> tuple[str, ...]:
    return (f"data.{name}.path={path}", f"data.{name}.upload=true")


def noise(box: SshProject, name: str, size: int) -> Path:
    path = box.path / name
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        for _ in range(0, size, MB):
            file.write(os.urandom(min(MB, size)))
    give(box.path / name.partition("/")[0])
    return path


def launched(box: SshProject, *words: str) -> subprocess.CompletedProcess[str]:
    done = box.launch(*SINGLE, *words, "wait=true")
    assert done.returncode == 0, done.stderr
    return done


def test_a_file_and_a_folder_on_two_hosts(box: SshProject) -> None:
    box.write("train.py", SHOW)
    box.write("sets/deep/er/one.txt", "one")
    box.write("sets/run.sh", "#!/bin/sh\n").chmod(0o755)
    (box.path / "sets" / "empty").mkdir()
    (box.path / "sets" / "deep" / "link").symlink_to("../run.sh")
    for name in HOSTILE:
        with open(os.fsencode(box.path / "sets") + b"/" + name, "wb") as file:
            file.write(name)
    box.write(".gitignore", "sets\nfile.csv\n")
    box.write("file.csv", "1,2\n")
    words = (*data("s", "sets"), "script_params.s=${data:s}")
    words += (*data("f", "file.csv"), "env.FILE=see:${data:f}")
    plan = box.launch("plan", *TWO_HOSTS, *words)
    assert plan.returncode == 0, plan.stderr
    assert "not on hosta, hostb)" in plan.stdout
    assert not (box.hosts.hosta.user_home / ".launcher" / "data").exists()
    done = box.launch(*TWO_HOSTS, *words, "wait=true")
    assert done.returncode == 0, done.stderr
    seen: Any = records(box.run, 4)
    for path, found, writable, rest, other in seen:
        assert path.startswith(f"/home/{USER}/.launcher/data/")
        assert path.endswith("/sets")
        assert found == listed(box.path / "sets")
        assert (writable, rest) == (False, [])
        assert other.startswith(f"see:/home/{USER}/.launcher/data/")
        assert other.endswith("/file.csv")
        assert path in plan.stdout
    for host in box.hosts.all[:2]:
        assert f"data.s to {host.name}" in done.stderr
        assert f"data.f to {host.name}" in done.stderr
    record = json.loads((box.run / "run.json").read_text())["config"]
    assert record["script_params"]["s"] == path
    assert record["data"]["s"]["digest"] in path
    for host in box.hosts.all[:2]:
        named = (box.there(box.run, host) / "data.trees").read_text().split()
        assert named == [record["data"][name]["digest"] for name in ("s", "f")]


def test_only_what_a_host_lacks_travels(box: SshProject) -> None:
    box.write("train.py", SHOW)
    box.write(".gitignore", "sets\n")
    (box.path / "sets").mkdir()
    for number in range(2000):
        (box.path / "sets" / str(number)).write_bytes(os.urandom(5000))
    give(box.path / "sets")
    words = (*data("d", "sets"), "script_params.d=${data:d}")

    def sends() -> int:
        before = received(box.hosts.hosta)
        run = box.submit(*SINGLE, *words)
        count = received(box.hosts.hosta) - before  # to follow a run costs more the longer it takes
        assert box.launch("wait", run.name).returncode == 0
        assert json.loads(log(run))[1] == listed(box.path / "sets")
        return count

    first = sends()
    unchanged = sends()
    noise(box, "sets/1234", 50_000)
    changed = sends()
    assert first > 10_000_000
    assert unchanged < 200_000  # the agent, the run's files
    assert changed < unchanged + 150_000
    here = (box.hosts.hosta.user_home / ".launcher" / "data" / "files").glob("*/*")
    names = Counter(each.stat().st_nlink for each in here)
    assert names == {3: 1999, 2: 2}  # of all that lies there, one copy


def test_runs_of_one_command_share_what_was_sent(box: SshProject) -> None:
    box.write("train.py", SHOW)
    noise(box, "large.bin", 20 * MB)
    box.write(".gitignore", "large.bin\n")
    box.write(
        "go.py",
        "import launcher, sys\n"
        "runs = [launcher.submit(*sys.argv[1:], f'script_params.lr={lr}') for lr in (1, 2)]\n"
        "assert [run.wait(180).value for run in runs] == ['SUCCEEDED'] * 2\n",
    )
    before = received(box.hosts.hosta)
    box.python("go.py", *SINGLE, *data("d", "large.bin"), "script_params.d=${data:d}")
    assert 20 * MB < received(box.hosts.hosta) - before < 24 * MB
    assert len(box.runs) == 2


# ------------------------------------------------------------------ what breaks off


def _kill_submitter(box: SshProject, pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)


def _pull_cable(box: SshProject, pid: int) -> None:
    box.hosts.hosta.unplug()


def _pull_plug(box: SshProject, pid: int) -> None:
    box.hosts.hosta.kill()


def _fill_disk(box: SshProject, pid: int) -> None:
    box.hosts.hosta.fill()


@pytest.mark.parametrize("breaks", [_kill_submitter, _pull_cable, _pull_plug, _fill_disk])
def test_what_breaks_off_is_resumed(
    box: SshProject, breaks: Callable[[SshProject, int], None]
) -> None:
    size = 300 * MB
    box.write("train.py", "import sys\nprint(len(open(sys.argv[2], 'rb').read()))\n")
    box.write(".gitignore", "large.bin\n")
    noise(box, "large.bin", size)
    words = (*data("d", "large.bin"), "script_params.d=${data:d}")
    parts = box.hosts.hosta.user_home / ".launcher" / "data" / "parts"

    def there() -> int:
        return sum(each.stat().st_size for each in parts.glob("*"))

    with held(box, "hosta data_pour 9", *SINGLE, *words, "wait=true") as (running, go_on):
        until(there)
        breaks(box, running.pid)
        go_on()
        _, said = running.communicate(timeout=180)
    kept = there()
    assert 0 < kept < size
    assert not list(parts.parent.glob("[0-9a-f]*/large.bin"))
    if breaks is not _kill_submitter:
        assert running.returncode == 3, said
        assert "hosta" in said
        assert "What has arrived stays there" in said
        assert box.runs == []
    box.hosts.mend()
    before = received(box.hosts.hosta)
    done = launched(box, *words)
    assert done.stdout == f"{size}\n"
    assert received(box.hosts.hosta) - before < size - kept + 20 * MB
    assert not list(parts.glob("*"))


def test_a_disk_without_room_is_told_before(box: SshProject) -> None:
    box.write("train.py", "")
    noise(box, "large.bin", 40 * MB)
    box.write(".gitignore", "large.bin\n")
    launched(box)  # the launcher's own code is there
    shutil.rmtree(box.path / "runs")
    box.hosts.hosta.fill(280 * MB)
    before = received(box.hosts.hosta)
    told = ("data.d.path=", "hosta lacks 41.9 MB of data, and has 2", "compute.workdir=/path")
    box.refused(*SINGLE, *data("d", "large.bin"), status=3, words=told)
    assert received(box.hosts.hosta) - before < MB
    box.hosts.hosta.relieve()
    launched(box, *data("d", "large.bin"))


# ------------------------------------------------------------------ what is refused


def test_what_cannot_be_sent(box: SshProject) -> None:
    box.write("train.py", "")
    words = ("data.d.path=", "/nowhere: there is no such file or folder here", "current folder")
    box.refused(*SINGLE, *data("d", "nowhere"), status=2, words=words)
    box.write("sets/one", "1")
    (box.path / "sets" / "out").symlink_to("../train.py")
    told = ("data.d.path=", "'sets/out' leads out of it, to '../train.py'")
    box.refused(*SINGLE, *data("d", "sets"), status=2, words=told)


# ------------------------------------------------------------------ run again


def test_a_rerun_has_the_data_of_its_run(box: SshProject) -> None:
    box.write("train.py", "import sys\nprint(open(sys.argv[2]).read(), sys.argv[3:])\n")
    box.write(".gitignore", "file.txt\n")
    box.write("file.txt", "old")
    first = launched(box, *data("d", "file.txt"), "script_params.d=${data:d}")
    assert first.stdout == "old []\n"
    run = box.run.name
    box.write("file.txt", "new")
    again = box.launch("rerun", run, "script_params.lr=1", "wait=true")
    assert again.stdout == "old ['--lr', '1']\n", again.stderr
    now = box.launch("rerun", run, "data.d.digest=null", "wait=true")
    assert now.stdout == "new []\n", now.stderr
    box.write("other.txt", "other")
    other = box.launch("rerun", run, "data.d.path=other.txt", "wait=true")
    assert other.stdout == "other []\n", other.stderr
    # Onto a host that has none of it: what was meant is not here any more.
    gone = box.launch("rerun", run, "compute.hosts=[hostb]", "wait=true")
    assert gone.returncode == 2
    assert "hostb does not have it any more" in gone.stderr
    assert "data.d.digest=null" in gone.stderr
    box.write("file.txt", "old")
    back = box.launch("rerun", run, "compute.hosts=[hostb]", "wait=true")
    assert back.stdout == "old []\n", back.stderr
