"""Trees that travel: through a real agent, which runs on this machine in place of a host."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

from launcher import process, snapshot
from launcher.errors import SubmitError
from launcher.ssh import channel, connection
from launcher.ssh.agent.objects import Objects
from launcher.ssh.bundle import NEEDED, bundle
from launcher.ssh.channel import Channel, LostError
from launcher.ssh.travel import bring, code

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Project


class Counted(Channel):
    """A connection that counts the bytes that it sends."""

    sent = 0

    def _send(self, request: str, body: bytes, head: dict[str, Any]) -> None:
        self.sent += len(body)
        super()._send(request, body, head)


def agent(workdir: Path) -> Counted:
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - the channel closes it
    words = (sys.executable, "-c", connection._BOOT)
    host = Counted("here", process.connect(words, errors=errors, prompts=False), errors)
    host.facts = host.ask("hello", workdir=str(workdir), paths=["/", "/none"])[0]
    return host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Counted]:
    host = agent(tmp_path / "host")
    yield host
    host.close()


def test_what_a_host_tells(host: Counted, tmp_path: Path) -> None:
    assert host.facts["workdir"] == str(tmp_path / "host")
    assert host.facts["hostname"] == os.uname().nodename
    assert host.facts["missing"] == ["/none"]
    assert host.facts["uid"] == os.getuid()


def test_machines_of_long_ago_are_forgotten(host: Counted, tmp_path: Path) -> None:
    folder = tmp_path / "machines"
    folder.mkdir()
    for name, days in (("box.earlier", 2), ("other.now", 0)):
        (folder / name).touch()
        os.utime(folder / name, (time.time() - days * 86400,) * 2)
    before = sorted(each.name for each in folder.iterdir())
    host.ask("hello", looks=True, workdir=str(tmp_path), paths=[])
    assert sorted(each.name for each in folder.iterdir()) == before
    told = host.ask("hello", workdir=str(tmp_path), paths=[])[0]
    left = sorted(each.name for each in folder.iterdir())
    assert left == sorted([told["machine"], "other.now"])


def test_a_host_sends_something_now_and_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = channel.sources()
    often = whole.replace(b"_BEAT_S = 30.0", b"_BEAT_S = 0.01")
    assert often != whole
    monkeypatch.setattr(channel, "sources", lambda: often)
    host = agent(tmp_path / "host")
    assert host.running.stdout
    for _ in range(3):
        assert select.select([host.running.stdout], [], [], 30)[0]
        assert host.ask("hello", workdir=str(tmp_path), paths=["/none"])[0]["missing"] == ["/none"]
    host.close()


def test_only_what_is_new_travels(host: Counted, git_project: Project, tmp_path: Path) -> None:
    for number in range(300):
        git_project.write(f"d{number % 7}/file {number}\n", f"{number}" * 500)
    git_project.write(".launcherignore", "left-out\n")
    git_project.write("left-out", "x")
    first = code(snapshot.take(str(git_project.path)))
    bring(host, first)
    everything, host.sent = host.sent, 0
    bring(host, first)
    assert host.sent == 0
    git_project.write("d1/file 1\n", "changed")
    os.unlink(git_project.path / "d2" / "file 2\n")
    second = code(snapshot.take(str(git_project.path)))
    bring(host, second)
    assert 0 < host.sent < 1000 < 100_000 < everything
    made = tmp_path / "made"
    Objects(str(tmp_path / "host")).make(second.name, str(made))
    there = {str(p.relative_to(made)): p.read_text() for p in made.rglob("*") if p.is_file()}
    wanted = {
        str(p.relative_to(git_project.path)): p.read_text()
        for p in git_project.path.rglob("*")
        if p.is_file() and ".git" not in p.parts and p.name != "left-out"
    }
    assert there == wanted


def test_a_transfer_that_breaks_off_is_taken_up_again(
    host: Counted, git_project: Project, tmp_path: Path
) -> None:
    for number in range(20):
        (git_project.path / f"large{number}").write_bytes(os.urandom(1 << 20))
    tree = code(snapshot.take(str(git_project.path)))
    whole = host._answer
    answers = 0

    def cut(heed: Any) -> Any:  # the connection ends in the middle of it all
        nonlocal answers
        answers += 1
        if answers == 4:
            host.running.kill()
        return whole(heed)

    host._answer = cut  # type: ignore[method-assign]
    with pytest.raises(LostError):
        bring(host, tree)
    objects = Objects(str(tmp_path / "host"))
    assert objects.known() == []
    there = [p for p in (tmp_path / "host" / "objects").glob("*/*") if p.suffix != ".new"]
    assert there
    again = agent(tmp_path / "host")
    bring(again, tree)
    assert again.sent < ((21 - len(there)) << 20) + 10_000
    assert objects.known() == [tree.name]
    again.close()


def test_a_subdirectory_and_a_repository_of_long_names(host: Counted, project: Project) -> None:
    subprocess.run(["git", "init", "-q", "--object-format=sha256"], cwd=project.path, check=True)
    project.write("above.txt", "not sent")
    project.write("it's/below/train.py", "pass\n")
    tree = code(snapshot.take(str(project.path / "it's" / "below")))
    assert [line.split(b" ", 2)[2] for line in tree.text.split(b"\0")[:-1]] == [b"train.py"]
    bring(host, tree)


def test_a_request_that_fails_says_why(host: Counted) -> None:
    with pytest.raises(SubmitError, match=r"here: .*No such file"):
        host.ask("tree", name="0" * 40, base="1" * 40, gone=0, digest="")
    assert host.ask("trees")[0] == []  # and the connection is of use as before


def test_a_connection_that_ends_says_so(host: Counted) -> None:
    host.running.kill()
    host.running.wait()
    with pytest.raises(LostError, match="here: the connection ended"):
        host.ask("trees")
    assert not host.alive


def test_noise_of_login_scripts_is_passed_over(tmp_path: Path) -> None:
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - the channel closes it
    line = f"echo welcome; echo to this host; exec {sys.executable} -c '{connection._BOOT}'"
    running = process.connect(("sh", "-c", line), errors=errors, prompts=False)
    channel = Channel("here", running, errors)
    assert channel.ask("hello", workdir=str(tmp_path), paths=[])[0]["workdir"] == str(tmp_path)
    channel.close()


def test_our_own_code_runs_there(host: Counted, tmp_path: Path) -> None:
    tree = bundle()
    bring(host, tree)
    root = Path(host.ask("load", name=tree.name)[0])
    assert root.parent == tmp_path / "host" / "lib"
    # Alone, without our own site packages, as on a host where nothing is installed.
    program = f"import sys; sys.path.insert(0, {str(root)!r}); import virtualenv.__main__"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
    told = host.ask("locate", environment={"torch": None}, horovod=False, mpi=False)[0]
    assert told["python"] == host.facts["python"]
    assert bundle() is tree


def test_all_that_virtualenv_needs_is_sent() -> None:
    wanted, seen = ["virtualenv", "packaging"], set()
    while wanted:
        name = wanted.pop()
        try:
            needs = [Requirement(each) for each in requires(name) or ()]
        except PackageNotFoundError:
            continue
        seen.add(name)
        asked = (each for each in needs if not each.marker or each.marker.evaluate({"extra": ""}))
        wanted += [each.name for each in asked if each.name not in seen]
    assert seen <= set(NEEDED)


def test_files_go_as_a_checkout_would_write_them(
    host: Counted, git_project: Project, tmp_path: Path
) -> None:
    for words in (("clean", "tr a-z A-Z"), ("smudge", "tr A-Z a-z")):
        config = ("git", "config", f"filter.case.{words[0]}", words[1])
        subprocess.run(config, cwd=git_project.path, check=True)
    git_project.write(".gitattributes", "*.bin filter=case\n*.bat eol=crlf\n")
    subprocess.run(["git", "add", ".gitattributes"], cwd=git_project.path, check=True)
    git_project.write("it's/below/data.bin", "filtered")
    git_project.write("it's/below/go.bat", "one\r\ntwo\r\n")
    git_project.write("it's/below/plain.txt", "As It Is")
    tree = code(snapshot.take(str(git_project.path / "it's" / "below")))
    bring(host, tree)
    Objects(str(tmp_path / "host")).make(tree.name, str(tmp_path / "made"))
    there = {p.name: p.read_bytes() for p in (tmp_path / "made").iterdir()}
    assert there == {
        "data.bin": b"filtered",
        "go.bat": b"one\r\ntwo\r\n",
        "plain.txt": b"As It Is",
    }
