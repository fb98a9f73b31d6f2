"""Files by content on a host: kept whole, made as they were, nothing outside of their folder."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.ssh.agent.objects import (
    Broken,
    Code,
    Objects,
    changed,
    entries,
    name_of,
    rebuilt,
    tree_of,
    write_whole,
)
from launcher.store import write_atomically

HOSTILE = (b"a b", b"new\nline", b"q'\"uote", b"-dash", b"\xff\xfe", b"$HOME`id`", b"d/e\\f", b" ")


def kept(objects: Objects, files: dict[bytes, tuple[bytes, bytes]]) -> str:
    """Keep files, a path -> mode and content, as a tree; return its name."""
    lines = []
    for path, (mode, data) in files.items():
        objects.put(name_of(data), data)
        lines.append(b"%b %b %b" % (mode, name_of(data).encode(), path))
    text = tree_of(lines)
    name = hashlib.sha1(text).hexdigest()
    assert add(objects, name, text) == []
    return name


def add(objects: Objects, name: str, text: bytes, digest: str = "") -> list[str]:
    lines = text.split(b"\0")[:-1]
    return objects.add(name, "", (), lines, digest or hashlib.sha256(text).hexdigest())


def test_names_are_gits() -> None:
    for digits, kind in ((40, "sha1"), (64, "sha256")):
        for data in (b"", b"hello\n", bytes(range(256))):
            words = ("git", "hash-object", "--stdin")
            env = {**os.environ, "GIT_DEFAULT_HASH": kind, "GIT_DIR": "/nonexistent"}
            if kind == "sha1":
                done = subprocess.run(words, input=data, capture_output=True, check=True, env=env)
                assert name_of(data, digits) == done.stdout.decode().strip()
            assert len(name_of(data, digits)) == digits


def test_a_tree_is_made_as_it_was(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "w"))
    files = {name: (b"100644", b"of " + name) for name in HOSTILE}
    files |= {
        b"run.sh": (b"100755", b"#!/bin/sh\n"),
        b"empty": (b"100644", b""),
        b"deep/er/link": (b"120000", b"../../run.sh"),
        b"dangling": (b"120000", b"/nowhere/at all"),
        b"large": (b"100644", os.urandom(3_000_000)),
    }
    name = kept(objects, files)
    objects.make(name, str(tmp_path / "made"))
    top = os.fsencode(tmp_path / "made")
    for path, (mode, data) in files.items():
        place = os.path.join(top, path)
        if mode == b"120000":
            assert os.readlink(place) == data
        else:
            assert Path(os.fsdecode(place)).read_bytes() == data
            assert bool(os.stat(place).st_mode & stat.S_IXUSR) == (mode == b"100755")
    found = {
        os.path.relpath(os.path.join(path, each), top)
        for path, _, names in os.walk(top)
        for each in names
    }
    assert found == set(files)


@pytest.mark.parametrize(
    "path", [b"../out", b"/etc/passwd", b"a/../../out", b"a//b", b".git/config", b"a/.", b""]
)
def test_a_path_that_leaves_the_folder_is_refused(path: bytes, tmp_path: Path) -> None:
    text = b"100644 %b %b\0" % (name_of(b"x").encode(), path)
    with pytest.raises(Broken):
        list(entries(text))
    objects = Objects(str(tmp_path))
    objects.put(name_of(b"x"), b"x")
    with pytest.raises(Broken):
        add(objects, "0" * 40, text)
    assert objects.known() == []


def test_no_file_is_written_through_a_link(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "w"))
    outside = tmp_path / "outside"
    outside.mkdir()
    files = {b"a": (b"120000", os.fsencode(outside)), b"a/b": (b"100644", b"x")}
    name = kept(objects, files)
    with pytest.raises(OSError, match="exists"):
        objects.make(name, str(tmp_path / "made"))
    assert list(outside.iterdir()) == []


def test_what_is_not_its_name_is_not_kept(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path))
    with pytest.raises(Broken):
        objects.put(name_of(b"one"), b"other")
    text = tree_of([b"100644 %b a" % name_of(b"one").encode()])
    assert add(objects, "1" * 40, text) == [name_of(b"one")]
    with pytest.raises(Broken):
        add(objects, "1" * 40, text, "0" * 64)
    assert objects.known() == []
    objects.put(name_of(b"one"), b"one")
    assert add(objects, "1" * 40, text) == []
    assert objects.known() == ["1" * 40]


def test_two_hosts_on_one_disk_call_what_they_write_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 7)
    for host in ("hosta", "hostb"):
        name = os.uname_result(("Linux", host, "6", "1", "x86_64"))
        monkeypatch.setattr(os, "uname", lambda name=name: name)
        with monkeypatch.context() as half:
            half.setattr(os, "replace", lambda *_: None)  # each is still at it
            write_whole(str(tmp_path / "bytes"), b"")
            write_atomically(str(tmp_path / "text"), "")
    assert len(list(tmp_path.iterdir())) == 4


def test_an_object_that_lost_its_content_is_told(tmp_path: Path) -> None:
    objects = Objects(str(tmp_path / "w"))
    name = kept(objects, {b"a": (b"100644", b"x")})
    (place,) = [p for p in (tmp_path / "w" / "objects").glob("*/*") if p.is_file()]
    place.write_bytes(b"")  # as a host leaves it that lost its power
    with pytest.raises(Broken, match="submit again"):
        objects.make(name, str(tmp_path / "made"))
    assert objects.lacks([name_of(b"x")]) == [name_of(b"x")]
    assert objects.known() == []  # so that it is sent once more


def test_a_difference_makes_the_tree_again() -> None:
    name = name_of(b"x").encode()
    old = tree_of(b"100644 %b %b" % (name, each) for each in (*HOSTILE, b"same", b"z"))
    new = tree_of(
        [
            *(b"100755 %b %b" % (name, each) for each in (*HOSTILE[2:], b"n")),
            b"100644 %b same" % name,
        ]
    )
    for one, other in ((old, new), (new, old), (old, b""), (b"", new), (old, old)):
        assert rebuilt(other, *changed(one, other)) == one


def test_the_code_of_a_run_is_made_once_and_tidied_up(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "R"
    (run / "code").mkdir(parents=True)
    files = {
        b"keep.txt": (b"100644", b"old"),
        b"d/e/same": (b"100644", b"s"),
        b"go": (b"100755", b""),
    }
    (run / "code.tree").write_text(kept(Objects(str(tmp_path)), files))
    (run / "code" / "left").write_text("by a rank that was killed while it made the code")
    first, second = Code(str(run)), Code(str(run))
    first.enter()
    assert not (run / "code" / "left").exists()
    (run / "code" / "keep.txt").write_text("new")
    (run / "code" / "d" / "new").write_text("new")
    second.enter()
    assert (run / "code" / "keep.txt").read_text() == "new"
    first.leave()
    assert (run / "code" / "d" / "e" / "same").exists()  # the second is at work
    os.close(first.user)
    second.leave()
    left = sorted(str(p.relative_to(run / "code")) for p in (run / "code").rglob("*"))
    assert left == ["d", "d/new", "keep.txt"]


def test_it_needs_the_standard_library_only() -> None:
    source = Path(sys.modules[Objects.__module__].__file__ or "").read_text()
    program = "import sys; exec(sys.stdin.read(), {'__name__': 'alone'})"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], input=source, text=True, check=True)
