"""Data that travel: through a real agent, which runs on this machine in place of a host."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from launcher import process
from launcher.data import Upload
from launcher.errors import ConfigError, SubmitError
from launcher.ssh import connection
from launcher.ssh.agent.manifest import entries
from launcher.ssh.agent.objects import Broken, changed
from launcher.ssh.bundle import bundle
from launcher.ssh.carry import carry, looked
from launcher.ssh.channel import Channel, LostError
from launcher.ssh.dataset import listing, pieces
from launcher.ssh.travel import bring

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.data import Dataset

HOSTILE = (b"a b", b"new\nline", b"q'\"uote", b"-dash", b"\xff\xfe", b"$HOME`id`", b"e\\f", b" ")
MB = 1 << 20


class Counted(Channel):
    """A connection that counts the bytes that it sends, and can be cut after a message."""

    sent = 0
    cut_at = -1  # messages of data until then

    def _send(self, request: str, body: bytes, head: dict[str, Any]) -> None:
        self.sent += len(body)
        if request == "data_pour":
            self.cut_at -= 1
            if self.cut_at == 0:
                self.running.kill()
        super()._send(request, body, head)


def agent(workdir: Path) -> Counted:
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - the channel closes it
    words = (sys.executable, "-c", connection._BOOT)
    channel = Counted("here", process.connect(words, errors=errors, prompts=False), errors)
    channel.facts = channel.ask("hello", workdir=str(workdir), paths=[])[0]
    tree = bundle()
    bring(channel, tree)
    channel.ask("load", name=tree.name)
    channel.sent = 0
    return channel


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Counted]:
    channel = agent(tmp_path / "host")
    yield channel
    channel.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAUNCHER_CACHE", str(tmp_path / "cache"))


def sent(host: Counted, path: Path, said: list[str] | None = None) -> Dataset:
    """Have data on the host; return what was looked at before."""
    say = [] if said is None else said
    (data,) = looked({"d": Upload(path=str(path))}, [host], say.append)
    carry([host], [data], say.append)
    return data


def files(top: bytes) -> dict[bytes, bytes | None]:
    """Return what lies below a folder: contents of files, where links lead, None for folders."""
    found: dict[bytes, bytes | None] = {}
    for path, folders, names in os.walk(top):
        for each in (*folders, *names):
            full = os.path.join(path, each)
            inside = os.path.relpath(full, top)
            if os.path.islink(full):
                found[inside] = b"-> " + os.readlink(full)
            else:
                found[inside] = (
                    None if os.path.isdir(full) else Path(os.fsdecode(full)).read_bytes()
                )
    return found


def hostile(folder: Path) -> Path:
    top = os.fsencode(folder)
    os.makedirs(top + b"/deep/" + HOSTILE[1])
    os.makedirs(top + b"/empty/er")
    for place in (b"/", b"/deep/new\nline/"):
        for name in HOSTILE:
            with open(top + place + name + b".x", "wb") as file:
                file.write(name * 3)
    (folder / "nothing").touch()
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "same.sh").write_text("#!/bin/sh\n")
    (folder / "deep" / "up").symlink_to("../run.sh")
    (folder / "dangling").symlink_to("deep/none")
    (folder / "here").symlink_to(".")
    return folder


def test_a_folder_arrives_as_it_is_and_read_only(host: Counted, tmp_path: Path) -> None:
    folder = hostile(tmp_path / "it's\ndata")
    said: list[str] = []
    data = sent(host, folder, said)
    assert data.path == f"{tmp_path}/host/data/{data.digest}/it's\ndata"
    assert files(os.fsencode(data.path)) == files(os.fsencode(folder))
    modes = {each.name: each.lstat().st_mode & 0o777 for each in Path(data.path).iterdir()}
    assert (modes["run.sh"], modes["same.sh"], modes["empty"]) == (0o500, 0o400, 0o500)
    assert data.lacking == ("here",)
    assert data.files == len([each for each in files(os.fsencode(folder)).values() if each]) + 1
    assert any("data.d to here" in line for line in said)
    assert not list((tmp_path / "host" / "data").glob("parts/*"))


def test_what_is_there_costs_nothing(host: Counted, tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number}").write_bytes(os.urandom(2000))
    os.truncate(folder / "0", 64 * MB)
    (folder / "0").chmod(0o600)
    until_older(folder)
    first = sent(host, folder)
    everything, host.sent = host.sent, 0
    before = read_so_far()
    again = sent(host, folder)
    assert read_so_far() - before < 2 * MB  # what is remembered, and none of the data
    assert (again.digest, again.lacking) == (first.digest, ())
    assert host.sent == 0
    (folder / "7").write_bytes(b"changed")
    (folder / "8").unlink()
    after = sent(host, folder)
    assert host.sent < 1000 < 2_000_000 < everything
    assert files(os.fsencode(after.path)) == files(os.fsencode(folder))
    assert Path(first.path, "8").exists()
    # Once by content: what did not change is the same file on the disk.
    assert os.path.samefile(Path(first.path, "9"), Path(after.path, "9"))


def read_so_far() -> int:
    """Return how many bytes this process has read, of all that it read."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"])


def until_older(folder: Path) -> None:
    """Wait until nothing in a folder is so young that it is not remembered."""
    probe = folder.parent / "probe"
    latest = max(each.stat().st_ctime_ns for each in folder.iterdir())
    while not probe.exists() or probe.stat().st_mtime_ns < latest + 150_000_000:
        probe.touch()


@pytest.mark.parametrize("content", ["zeros", "noise"])
def test_a_transfer_that_breaks_off_goes_on_where_it_was(
    host: Counted, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(48 * MB) if content == "zeros" else os.urandom(48 * MB))
    (data,) = looked({"d": Upload(path=str(file))}, [host], print)
    host.cut_at = 6
    with pytest.raises(LostError):
        carry([host], [data], print)
    (part,) = (tmp_path / "host" / "data" / "parts").iterdir()
    there = part.stat().st_size
    assert there >= 4 * MB
    assert not Path(data.path).exists()
    again = agent(tmp_path / "host")
    carry([again], [data], print)
    assert again.sent < 48 * MB - there + MB
    assert Path(data.path).read_bytes() == file.read_bytes()
    again.close()


@pytest.mark.parametrize("how", ["appended", "in place", "shorter", "cut off"])
def test_of_a_large_file_that_changed_only_its_new_blocks_travel(
    host: Counted, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(os.urandom(39 * MB))
    first = sent(host, file)
    host.sent = 0
    with file.open("r+b") as writing:
        if how == "shorter":
            writing.truncate(29 * MB + 7)
        else:
            writing.seek(0 if how == "appended" else 17 * MB, os.SEEK_END * (how == "appended"))
            writing.write(os.urandom(5000))
    (data,) = looked({"d": Upload(path=str(file))}, [host], print)
    assert data.lacking
    if how == "cut off":  # in the middle of a block
        parts = tmp_path / "host" / "data" / "parts"
        parts.mkdir(exist_ok=True)
        name = hashlib.sha256(file.read_bytes()).hexdigest()
        (parts / name).write_bytes(file.read_bytes()[: 18 * MB])
    carry([host], [data], print)
    most = {"cut off": 2, "appended": 3}.get(how, 4) * MB
    assert host.sent < most + 10_000
    assert Path(data.path).read_bytes() == file.read_bytes()
    assert Path(first.path).read_bytes() != file.read_bytes()


@pytest.mark.parametrize("wrong", ["gone", "other"])
def test_a_large_file_of_which_the_host_has_no_good_version_travels_whole(
    host: Counted, tmp_path: Path, wrong: str
) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(os.urandom(20 * MB))
    sent(host, file)
    (kept,) = (tmp_path / "host" / "data" / "files").glob("*/*")
    if wrong == "gone":
        kept.unlink()
    else:
        kept.chmod(0o600)
        with kept.open("r+b") as writing:
            writing.write(b"broken")
    with file.open("ab") as writing:
        writing.write(b"more")
    host.sent = 0
    data = sent(host, file)
    assert host.sent > 20 * MB
    assert Path(data.path).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("gone", ["tree", "folder", "a file of it", "the files too"])
def test_of_data_that_are_not_whole_on_a_host_nothing_is_made(
    host: Counted, tmp_path: Path, gone: str
) -> None:
    folder = tmp_path / "d"
    (folder / "sub").mkdir(parents=True)
    for number in range(50):
        (folder / "sub" / f"{number}").write_text(f"{number}")
    before = Path(sent(host, folder).path)
    (folder / "new").write_text("new")
    (data,) = looked({"d": Upload(path=str(folder))}, [host], print)
    place = tmp_path / "host" / "data"
    for each in (before, before / "sub", before.parent):
        each.chmod(0o700)
    if gone == "tree":
        (place / "trees" / before.parent.name).unlink()
    elif gone == "folder":
        shutil.rmtree(before.parent)
    else:
        (before / "sub" / "7").unlink()
    if gone == "the files too":
        shutil.rmtree(place / "files")
    carry([host], [data], print)
    assert files(os.fsencode(data.path)) == files(os.fsencode(folder))


def test_two_that_send_the_same_help_one_another(host: Counted, tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(os.urandom(40 * MB))
    other = agent(tmp_path / "host")
    (data,) = looked({"d": Upload(path=str(file))}, [host], print)
    errors: list[Exception] = []

    def send(channel: Counted) -> None:
        try:
            carry([channel], [data], print)
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=send, args=(each,)) for each in (host, other)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    assert Path(data.path).read_bytes() == file.read_bytes()
    other.close()


def test_what_came_broken_is_not_used(host: Counted, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"right" * 100)
    (data,) = looked({"d": Upload(path=str(file))}, [host], print)
    made = listing("d", str(file), print)
    _, come = changed(made.text, b"")
    host.ask("data_lacks", b"\0".join(come), digest=made.digest, base="", gone=0)
    name = next(key for _, key, _, _ in entries(made.text))
    with pytest.raises(SubmitError, match="otherwise than it was read"):
        host.ask("data_pour", b"wrong" * 100, pieces=[(name, 0, 500, 500, "")])
    host.ask("data_pour", b"wrong" * 50, pieces=[(name, 0, 250, 500, "")])  # half of it stays
    with pytest.raises(SubmitError, match="otherwise than it was read"):
        carry([host], [data], print)
    carry([host], [data], print)  # from the start
    assert Path(data.path).read_bytes() == b"right" * 100


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("../outside", "'d/sub/link' leads out of it, to '../../outside'"),
        ("/etc/passwd", "'d/sub/link' leads out of it, to '/etc/passwd'"),
        ("far/../../../../x", "leads out of it"),
        ("absolute", "leads out of it"),
    ],
)
def test_a_link_that_leads_out_is_refused(tmp_path: Path, target: str, told: str) -> None:
    (tmp_path / "d" / "sub" / "a" / "b").mkdir(parents=True)
    (tmp_path / "outside").touch()
    (tmp_path / "d" / "sub" / "far").symlink_to("a/b")
    (tmp_path / "d" / "inside").touch()
    target = {"../outside": "../../outside", "absolute": f"{tmp_path}/d/inside"}.get(target, target)
    (tmp_path / "d" / "sub" / "link").symlink_to(target)
    with pytest.raises(ConfigError) as caught:
        listing("d", str(tmp_path / "d"), print)
    assert told in caught.value.message
    assert f"data.d.path={tmp_path}/d" in caught.value.message


def test_what_cannot_be_sent_is_named(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / "pipe")
    with pytest.raises(ConfigError, match="'d/pipe' is no file"):
        listing("d", str(tmp_path / "d"), print)
    with pytest.raises(ConfigError, match="no such file or folder here"):
        listing("d", str(tmp_path / "none"), print)


def test_a_link_as_the_path_has_its_own_name(host: Counted, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("x")
    (tmp_path / "link").symlink_to("real")
    assert files(os.fsencode(sent(host, tmp_path / "link").path)) == {b"f": b"x"}


def test_a_file_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(bytes(4 * MB))
    made = listing("d", str(file), print)
    reading = pieces(made.place, b"f", made.found[b"f"].stamp, MB)
    next(reading)
    with file.open("r+b") as writing:
        writing.write(b"new")
    with pytest.raises(ConfigError, match="changes while it is read: 'f'"):
        list(reading)


def test_a_folder_that_changes_while_it_is_read_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    with (folder / "large").open("wb") as file:
        file.truncate(300 * MB)
    end = threading.Event()

    def write() -> None:
        number = 0
        while not end.wait(0.001):
            (folder / f"{number}").touch()
            number += 1

    writing = threading.Thread(target=write)
    writing.start()
    try:
        with pytest.raises(ConfigError, match="changes while it is read"):
            listing("d", str(folder), print)
    finally:
        end.set()
        writing.join()


def test_data_that_change_before_they_are_sent_are_told(host: Counted, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    (data,) = looked({"d": Upload(path=str(file))}, [host], print)
    file.write_text("two")
    with pytest.raises(ConfigError, match="changes while it is read"):
        carry([host], [data], print)
    assert not Path(data.path).exists()


def test_a_digest_means_that_content(host: Counted, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("one")
    data = sent(host, file)
    file.write_text("two")
    meant = Upload(path=str(file), digest=data.digest)
    (found,) = looked({"d": meant}, [host], print)
    assert (found.path, found.lacking, found.files, found.size) == (data.path, (), 1, 3)
    other = Upload(path=str(file), digest="0" * 64)
    with pytest.raises(ConfigError, match=r"data.d.digest=0+: here does not have it any more"):
        looked({"d": other}, [host], print)


@pytest.mark.parametrize("path", [b"../out", b"/etc/passwd", b"a/../../out", b"a//b", b"a/.", b""])
def test_a_path_that_leaves_the_folder_is_refused(path: bytes) -> None:
    with pytest.raises(Broken):
        list(entries(b"100644 %b:1 %b\0" % (b"0" * 64, path)))


def test_after_an_error_the_connection_is_of_use(host: Counted) -> None:
    """Requests that were on their way when the first of them failed are answered, and heard."""
    bad = [({"pieces": [("../x", 0, 1, 1, "")]}, b"x")] * 3
    with pytest.raises(SubmitError, match="no name of what data hold"):
        host.tell("data_pour", bad)
    assert host.ask("trees")[0] == [bundle().name]
