"""Snapshots of real directories, by real git."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher import record, snapshot
from launcher.errors import StoreError, SubmitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAST = time.time() - 100_000  # git reads again what changed in the second of its indexing


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a home of its own: no configuration, no store."""
    home = tmp_path / "home"
    home.mkdir()
    for name in [*os.environ]:
        if name.startswith(("GIT_", "LAUNCHER_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (home / ".gitconfig").write_text(
        "[user]\nname = Ada\nemail = ada@example.org\n[core]\nfsync = none\n"
        '[protocol "file"]\nallow = always\n'
    )


def git(where: Path, *words: str, **env: str) -> str:
    """Return what git printed there, less the last newline."""
    done = subprocess.run(
        ("git", *words), cwd=where, env={**os.environ, **env}, capture_output=True, check=False
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")


def write(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (PAST, PAST))


def repository(top: Path, files: dict[str, str]) -> Path:
    top.mkdir(parents=True, exist_ok=True)
    git(top, "init", "-q", "-b", "main")
    write(top, files)
    git(top, "add", "-A", "-f")
    git(top, "commit", "-q", "--allow-empty", "-m", "first")
    return top


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    return repository(tmp_path / "repo", {"a.py": "a\n", "pkg/b.py": "b\n", "pkg/sub/c.py": "c\n"})


def next_second() -> None:
    time.sleep(1.02 - time.time() % 1)


def contents(top: Path) -> dict[bytes, tuple[str, bytes]]:
    """Return every file below ``top``: its path -> (its kind, its bytes)."""
    found = {}
    for folder, folders, names in os.walk(os.fsencode(top)):
        for name in (*names, *folders):
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                found[os.path.relpath(path, os.fsencode(top))] = ("link", os.readlink(path))
            elif stat.S_ISREG(mode):
                kind = "executable" if mode & 0o100 else "file"
                found[os.path.relpath(path, os.fsencode(top))] = (
                    kind,
                    Path(os.fsdecode(path)).read_bytes(),
                )
        folders[:] = [each for each in folders if each != b".git"]
    return found


def listed(taken: snapshot.Snapshot) -> dict[str, str]:
    """Return the files of a snapshot: path -> mode."""
    lines = git(Path(taken.git_dir), "--git-dir=.", "ls-tree", "-r", "-z", taken.tree).split("\0")
    return {line.partition("\t")[2]: line[:6] for line in lines[:-1]}


def text(taken: snapshot.Snapshot, path: str) -> str:
    return git(Path(taken.git_dir), "--git-dir=.", "cat-file", "blob", f"{taken.tree}:{path}")


def differs(taken: snapshot.Snapshot) -> str:
    """Return what git shows as the difference between the user's commit and the snapshot."""
    words = ("diff", "--no-renames", "--name-status", "HEAD", taken.tree)
    return git(Path(taken.git_dir).parent, *words).replace("\t", " ")


def checkout(taken: snapshot.Snapshot, run: Path) -> Path:
    """Return the code as a run gets it: recorded, and checked out by the run's own command."""
    files = {"run.json": "{}\n"}
    commit = record.commit_run(
        record.RunRecordInput(run_id=f"r{time.time_ns()}", snapshot=taken, message="m", files=files)
    )
    code = run / "code"
    code.mkdir(parents=True)
    where = (f"--git-dir={taken.git_dir}", f"--work-tree={code}")
    words = ("git", *where, "read-tree", "--reset", "-u", f"{commit}:{taken.prefix}")
    env = {**os.environ, "GIT_INDEX_FILE": str(run / "code.index")}
    subprocess.run(words, env=env, check=True, capture_output=True)
    assert (code / ".launcher").is_dir() == (taken.prefix == "")
    if taken.prefix == "":
        shutil.rmtree(code / ".launcher")
    return code


def same(source: Path, taken: snapshot.Snapshot, run: Path) -> None:
    expected = {k: v for k, v in contents(source).items() if b".git" not in k.split(b"/")}
    assert contents(checkout(taken, run)) == expected


def leftovers(git_dir: Path) -> list[str]:
    return [each for each in os.listdir(git_dir / "launcher") if each.count("-") != 2]


# What the user has stays as it is


def state(top: Path) -> dict[str, Any]:
    git_dir = top / ".git"
    return {
        "index": (git_dir / "index").read_bytes(),
        "index_time": (git_dir / "index").stat().st_mtime_ns,
        "git_dir": sorted(set(os.listdir(git_dir)) - {"launcher"}),
        "HEAD": (git_dir / "HEAD").read_bytes(),
        "config": (git_dir / "config").read_bytes(),
        "refs": git(top, "for-each-ref"),
        "reflog": git(top, "reflog", "--all"),
        "files": contents(top),
        "times": {str(p): p.lstat().st_mtime_ns for p in top.rglob("*") if ".git" not in p.parts},
    }


def test_nothing_of_the_users_changes(repo: Path) -> None:
    write(repo, {"a.py": "stashed\n"})
    git(repo, "stash", "-q")
    git(repo, "branch", "other")
    write(repo, {"a.py": "staged\n", "new.py": "new\n", "pkg/b.py": "unstaged\n"})
    git(repo, "add", "a.py")
    (repo / "pkg/sub/c.py").unlink()
    shown = git(repo, "status", "--porcelain=v2")
    before = state(repo)
    taken = snapshot.take(str(repo))
    assert state(repo) == before
    assert git(repo, "status", "--porcelain=v2") == shown
    assert differs(taken).splitlines() == ["M a.py", "A new.py", "M pkg/b.py", "D pkg/sub/c.py"]
    assert taken.head == git(repo, "rev-parse", "HEAD")
    assert (taken.branch, taken.prefix, taken.dirty) == ("main", "", True)
    assert taken.git_dir == str(repo / ".git")


def test_a_clean_directory_is_its_commit(repo: Path) -> None:
    taken = snapshot.take(str(repo))
    assert taken.tree == git(repo, "rev-parse", "HEAD^{tree}")
    assert not taken.dirty


def test_find_writes_nothing(repo: Path, tmp_path: Path) -> None:
    before = state(repo)
    place = snapshot.find(str(repo / "pkg"))
    outside = snapshot.find(str(tmp_path))
    assert (place.git_dir, place.prefix) == (str(repo / ".git"), "pkg")
    assert not Path(outside.git_dir).exists()
    assert not (repo / ".git/launcher").exists()
    assert state(repo) == before
    assert snapshot.take(place) == snapshot.take(str(repo / "pkg"))


def test_a_held_index_lock_does_not_matter(repo: Path) -> None:
    (repo / ".git/index.lock").touch()
    write(repo, {"new.py": "n\n"})
    assert "new.py" in listed(snapshot.take(str(repo)))


# Every kind of file


def hostile(top: Path) -> None:
    write(
        top,
        {"plain": "x", "empty": "", "sub/deep/er/file": "y", "quo\"te 's": "q", "tab\tname": "t"},
    )
    write(
        top,
        {"new\nline": "n", " lead": "l", "-dash": "d", "back\\slash": "b", "ünï": "u", "*": "s"},
    )
    write(top, {"[a]": "g", ":(top)x": "p", "#hash": "h", "!bang": "e", "trail ": "w"})
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe raw")).write_bytes(b"\x00\xff\r\n")
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "link").symlink_to("plain")
    (top / "to-folder").symlink_to("sub/deep")
    (top / "dangling").symlink_to("no/such")
    (top / "absolute").symlink_to("/etc/passwd")


@pytest.mark.parametrize("kind", ["repository", "folder", "subfolder"])
def test_every_kind_of_file_comes_back(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "so ur'ce\n" / "in:side*"
    source.mkdir(parents=True)
    if kind == "repository":
        repository(source, {"old": "o"})
    elif kind == "subfolder":
        repository(source.parent, {"in:side*/old": "o", "in:sideX/not": "n"})
        write(source.parent, {"in:sideX/not": "not ours"})
    hostile(source)
    taken = snapshot.take(str(source))
    assert taken.prefix == ("in:side*" if kind == "subfolder" else "")
    if kind == "subfolder":
        assert text(taken, "in:sideX/not") == "n"
    same(source, taken, tmp_path / "run")


names = st.binary(min_size=1, max_size=12).filter(
    lambda n: (
        not {b"/"[0], 0} & set(n)
        and n not in (b".", b"..")
        and not n.lower().startswith((b".git", b"git~"))
    )
)
files = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map(b"/".join),
    st.tuples(st.sampled_from(["file", "executable", "link"]), st.binary(max_size=40)),
    max_size=8,
)


def lay_out(top: Path, tree: dict[bytes, tuple[str, bytes]]) -> None:
    """Make ``tree`` what ``top`` holds, but for .git."""
    for each in top.iterdir():
        if each.name != ".git":
            shutil.rmtree(each) if each.is_dir() and not each.is_symlink() else each.unlink()
    for name, (kind, data) in tree.items():
        path = Path(os.fsdecode(os.path.join(os.fsencode(top), name)))
        with contextlib.suppress(FileExistsError, NotADirectoryError):  # a file where a folder is
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "link":
                path.symlink_to(os.fsdecode(data.replace(b"\0", b"") or b"x"))
            elif not path.is_dir() and not path.is_symlink():
                path.write_bytes(data)
                path.chmod(0o755 if kind == "executable" else 0o644)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(trees=st.lists(files, min_size=1, max_size=3), inside=st.booleans())
def test_any_tree_comes_back_after_any_other(
    tmp_path: Path, trees: list[dict[bytes, tuple[str, bytes]]], inside: bool
) -> None:
    where = tmp_path / f"t{time.time_ns()}"
    source = where / "source"
    source.mkdir(parents=True)
    if inside:
        repository(source, {})
    for number, tree in enumerate(trees):
        lay_out(source, tree)
        same(source, snapshot.take(str(source)), where / f"run{number}")


def test_sockets_and_fifos_are_left_out(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(repo / "fifo")
    (repo / "a.py").unlink()
    os.mkfifo(repo / "a.py")
    monkeypatch.chdir(repo)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for _ in range(2):
            assert sorted(listed(snapshot.take(str(repo)))) == ["pkg/b.py", "pkg/sub/c.py"]


@pytest.mark.parametrize("times", [1, 2])
def test_what_becomes_another_kind(repo: Path, tmp_path: Path, times: int) -> None:
    for _ in range(times - 1):
        snapshot.take(str(repo))
    (repo / "a.py").unlink()
    write(repo, {"a.py/inside": "i"})
    shutil.move(repo / "pkg/sub", tmp_path / "elsewhere")
    (repo / "pkg/sub").symlink_to(tmp_path / "elsewhere")
    (repo / "pkg/b.py").unlink()
    (repo / "pkg/b.py").mkdir()
    for _ in range(2):
        taken = snapshot.take(str(repo))
        assert listed(taken) == {"a.py/inside": "100644", "pkg/sub": "120000"}
    shutil.rmtree(repo / "a.py")
    write(repo, {"a.py": "again"})
    assert listed(snapshot.take(str(repo))) == {"a.py": "100644", "pkg/sub": "120000"}


def test_modes_and_contents_of_the_same_length(repo: Path, tmp_path: Path) -> None:
    snapshot.take(str(repo))
    (repo / "a.py").write_text("A\n")
    (repo / "pkg/b.py").chmod(0o755)
    taken = snapshot.take(str(repo))
    assert text(taken, "a.py") == "A"
    assert listed(taken)["pkg/b.py"] == "100755"
    for letter in "xyz":  # git's index is as new as the file each time
        (repo / "a.py").write_text(letter)
        assert text(snapshot.take(str(repo)), "a.py") == letter


def test_what_changed_in_the_second_of_the_users_index(repo: Path) -> None:
    next_second()
    (repo / "a.py").write_text("1\n")
    git(repo, "add", "a.py")
    (repo / "a.py").write_text("2\n")
    next_second()
    for _ in range(2):
        assert text(snapshot.take(str(repo)), "a.py") == "2"


# What is left out


def test_ignored_files_stay_out_unless_tracked(repo: Path) -> None:
    write(
        repo,
        {
            "out.log": "l",
            "pkg/out.log": "l",
            "kept.log": "k",
            "x.tmp": "t",
            ".gitignore": "*.log\n",
        },
    )
    git(repo, "add", "-f", "kept.log")
    (repo / ".git/info/exclude").write_text("*.tmp\n")
    assert sorted(listed(snapshot.take(str(repo)))) == [
        ".gitignore",
        "a.py",
        "kept.log",
        "pkg/b.py",
        "pkg/sub/c.py",
    ]


def test_what_becomes_ignored_disappears(repo: Path) -> None:
    write(repo, {"data/big": "b", "model.pt": "m", "a.pt": "a"})
    git(repo, "add", "a.pt")
    assert {"data/big", "model.pt", "a.pt"} <= listed(snapshot.take(str(repo))).keys()
    write(repo, {".gitignore": "*.pt\n/data/\n"})
    assert listed(snapshot.take(str(repo))).keys() & {"data/big", "model.pt", "a.pt"} == {"a.pt"}
    git(repo, "rm", "-q", "--cached", "a.pt")
    assert "a.pt" not in listed(snapshot.take(str(repo)))
    (repo / ".gitignore").unlink()
    assert {"data/big", "model.pt", "a.pt"} <= listed(snapshot.take(str(repo))).keys()


def test_launcherignore_leaves_out_tracked_or_not(repo: Path) -> None:
    write(
        repo,
        {
            ".launcherignore": "*.py\n!keep.py\n/data/\n",
            "keep.py": "k",
            "pkg/keep.py": "k",
            "x": "x",
        },
    )
    write(
        repo,
        {
            "data/keep.py": "d",
            "pkg/.launcherignore": "!sub/\n!b.py\n/x\n",
            "pkg/x": "x",
            "pkg/sub/x": "x",
        },
    )
    for _ in range(2):
        found = listed(snapshot.take(str(repo))).keys()
        assert found == {".launcherignore", "keep.py", "x"} | {
            "pkg/.launcherignore",
            "pkg/keep.py",
            "pkg/b.py",
            "pkg/sub/x",
        }
    assert listed(snapshot.take(str(repo / "pkg"))).keys() >= {"pkg/keep.py", "pkg/b.py"}
    assert "pkg/sub/c.py" not in listed(snapshot.take(str(repo / "pkg")))
    (repo / ".launcherignore").unlink()
    assert {"pkg/sub/c.py", "data/keep.py"} <= listed(snapshot.take(str(repo))).keys()
    assert leftovers(repo / ".git") == []


def test_launcherignore_where_a_file_became_a_folder(repo: Path) -> None:
    (repo / "a.py").unlink()
    write(repo, {"a.py/no": "n", "a.py/yes": "y", ".launcherignore": "no\n"})
    for _ in range(2):
        assert listed(snapshot.take(str(repo))).keys() == {
            ".launcherignore",
            "a.py/yes",
            "pkg/b.py",
            "pkg/sub/c.py",
        }


def test_what_launcherignore_names_is_never_read(repo: Path) -> None:
    write(
        repo,
        {
            ".gitignore": ".launcherignore\n",
            ".launcherignore": "big/\n",
            "big/data": "not to be read",
        },
    )
    snapshot.take(str(repo))
    sha = git(repo, "hash-object", "big/data")
    done = subprocess.run(
        ("git", "cat-file", "-e", sha), cwd=repo, check=False, capture_output=True
    )
    assert done.returncode != 0


# Where the directory lies


def test_subfolder_holds_the_index_for_what_is_beside(repo: Path, tmp_path: Path) -> None:
    write(repo, {"a.py": "staged\n"})
    git(repo, "add", "a.py")
    write(
        repo,
        {"a.py": "unstaged\n", "beside": "untracked", "pkg/new": "n", "pkg/sub/c.py": "changed\n"},
    )
    taken = snapshot.take(str(repo / "pkg"))
    assert taken.prefix == "pkg"
    assert differs(taken).splitlines() == ["M a.py", "A pkg/new", "M pkg/sub/c.py"]
    assert text(taken, "a.py") == "staged"
    same(repo / "pkg", taken, tmp_path / "run")
    git(repo, "reset", "-q", "--hard")
    git(repo, "rm", "-q", "a.py")
    write(repo, {"added": "a"})
    git(repo, "add", "added")
    assert differs(snapshot.take(str(repo / "pkg"))).splitlines() == [
        "D a.py",
        "A added",
        "A pkg/new",
    ]
    assert snapshot.take(str(repo / "pkg/sub")).prefix == "pkg/sub"


def test_conflicts_inside_and_beside(repo: Path) -> None:
    git(repo, "checkout", "-q", "-b", "theirs")
    write(repo, {"a.py": "theirs\n", "pkg/b.py": "theirs\n"})
    git(repo, "commit", "-q", "-a", "-m", "theirs")
    git(repo, "checkout", "-q", "main")
    write(repo, {"a.py": "ours\n", "pkg/b.py": "ours\n"})
    git(repo, "commit", "-q", "-a", "-m", "ours")
    subprocess.run(("git", "merge", "-q", "theirs"), cwd=repo, check=False, capture_output=True)
    assert git(repo, "ls-files", "-u")
    for _ in range(2):
        taken = snapshot.take(str(repo / "pkg"))
        assert text(taken, "a.py") == "ours"
        assert text(taken, "pkg/b.py") + "\n" == (repo / "pkg/b.py").read_text()
        assert "<<<<" in text(snapshot.take(str(repo)), "a.py")


def test_before_the_first_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "new")
    assert listed(snapshot.take(str(tmp_path / "new"))) == {}
    write(tmp_path / "new", {"staged": "s", "untracked": "u"})
    git(tmp_path / "new", "add", "staged")
    taken = snapshot.take(str(tmp_path / "new"))
    assert (taken.head, taken.branch, taken.dirty) == (None, "", True)
    assert listed(taken).keys() == {"staged", "untracked"}
    same(tmp_path / "new", taken, tmp_path / "run")


def test_linked_work_tree(repo: Path, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    write(tmp_path / "side", {"a.py": "side\n"})
    git(tmp_path / "side", "commit", "-q", "-a", "-m", "side")
    write(tmp_path / "side", {"new": "n"})
    taken = snapshot.take(str(tmp_path / "side"))
    assert (taken.git_dir, taken.branch) == (str(repo / ".git"), "side")
    assert taken.head == git(repo, "rev-parse", "side")
    same(tmp_path / "side", taken, tmp_path / "run")


def test_detached_head(repo: Path) -> None:
    git(repo, "checkout", "-q", "--detach")
    taken = snapshot.take(str(repo))
    assert (taken.branch, taken.head) == ("", git(repo, "rev-parse", "HEAD"))


def test_through_a_symbolic_link(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(repo / "pkg")
    assert snapshot.take(str(tmp_path / "link")) == snapshot.take(str(repo / "pkg"))


def test_in_no_repository(tmp_path: Path) -> None:
    source = tmp_path / "plain"
    write(
        source,
        {
            "a.py": "a",
            "x.log": "l",
            ".gitignore": "*.log\n",
            "no": "n",
            "sub/.launcherignore": "no\n",
        },
    )
    write(source, {"sub/no": "n"})
    taken = snapshot.take(str(source))
    store = tmp_path / "home/data/launcher/store.git"
    assert (taken.git_dir, taken.prefix, taken.head, taken.branch) == (str(store), "", None, "")
    assert stat.S_IMODE(store.stat().st_mode) == 0o700
    assert listed(taken).keys() == {"a.py", ".gitignore", "no", "sub/.launcherignore"}
    (source / "a.py").unlink()
    assert "a.py" not in listed(snapshot.take(str(source)))


def test_the_stores_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "plain"
    write(source, {"a.py": "a"})
    monkeypatch.delenv("XDG_DATA_HOME")
    assert snapshot.take(str(source)).git_dir == str(
        tmp_path / "home/.local/share/launcher/store.git"
    )
    monkeypatch.setenv("LAUNCHER_STORE", str(source / "my store"))
    for _ in range(2):  # it lies in the source, and does not hold itself
        taken = snapshot.take(str(source))
        assert taken.git_dir == str(source / "my store")
        assert listed(taken).keys() == {"a.py"}
    monkeypatch.setenv("LAUNCHER_STORE", str(source / "a.py"))
    with pytest.raises(SubmitError, match=r"cannot make the store") as error:
        snapshot.take(str(source))
    assert "LAUNCHER_STORE" in error.value.hint


def test_a_folder_that_its_repository_ignores(repo: Path) -> None:
    write(repo, {".gitignore": "scratch/\n", "scratch/try/a.py": "a"})
    taken = snapshot.take(str(repo / "scratch/try"))
    assert (taken.head, taken.prefix) == (None, "")
    assert listed(taken).keys() == {"a.py"}
    git(repo, "add", "-f", "scratch/try/a.py")
    assert snapshot.take(str(repo / "scratch/try")).prefix == "scratch/try"


# Submodules and repositories inside


@pytest.fixture
def nested(repo: Path, tmp_path: Path) -> Path:
    """Return ``repo`` with a dirty submodule at libs/sub that has a submodule itself."""
    inner = repository(tmp_path / "inner", {"i.py": "i\n"})
    sub = repository(
        tmp_path / "sub", {"s.py": "s\n", "old.py": "o\n", ".gitignore": "*.log\n", "k.log": "k"}
    )
    git(sub, "submodule", "add", "-q", str(inner), "in ner")
    git(sub, "commit", "-q", "-m", "inner")
    git(repo, "submodule", "add", "-q", str(sub), "libs/sub")
    git(repo, "commit", "-q", "-m", "sub")
    git(repo, "submodule", "update", "-q", "--init", "--recursive")
    return repo


INSIDE = {".gitignore", ".gitmodules", "s.py", "old.py", "k.log", "in ner/i.py"}


def test_submodules_are_folders(nested: Path, tmp_path: Path) -> None:
    sub = nested / "libs/sub"
    assert {f"libs/sub/{each}" for each in INSIDE} <= listed(snapshot.take(str(nested))).keys()
    write(
        sub,
        {
            "s.py": "dirty\n",
            "new.py": "n\n",
            "out.log": "l",
            "in ner/i.py": "dirty\n",
            "in ner/n": "n",
        },
    )
    (sub / "old.py").unlink()
    before = git(nested, "status", "--porcelain")
    taken = snapshot.take(str(nested))
    expected = {*INSIDE - {"old.py"}, "new.py", "in ner/n"}
    found = listed(taken)
    assert {each for each in found if each.startswith("libs/")} == {
        f"libs/sub/{e}" for e in expected
    }
    assert set(found.values()) == {"100644"}
    assert text(taken, "libs/sub/in ner/i.py") == "dirty"
    assert git(nested, "status", "--porcelain") == before
    (sub / "out.log").unlink()
    shutil.rmtree(nested / ".git/modules")  # all that the record needs is in the repository
    same(nested, taken, tmp_path / "run")


def test_submodules_that_come_and_go(nested: Path) -> None:
    snapshot.take(str(nested))
    git(nested, "submodule", "deinit", "-q", "-f", "libs/sub")
    for _ in range(2):
        assert listed(snapshot.take(str(nested)))["libs/sub"] == "160000"
    assert listed(snapshot.take(str(nested / "pkg")))["libs/sub"] == "160000"
    (nested / "libs/sub").rmdir()
    assert not [each for each in listed(snapshot.take(str(nested))) if each.startswith("libs")]
    write(nested, {"libs/sub": "a file"})
    assert listed(snapshot.take(str(nested)))["libs/sub"] == "100644"
    (nested / "libs/sub").unlink()
    git(nested, "submodule", "update", "-q", "--init")
    found = listed(snapshot.take(str(nested)))
    assert found["libs/sub/in ner"] == "160000"
    assert found["libs/sub/s.py"] == "100644"


def test_a_submodule_as_the_source(nested: Path) -> None:
    taken = snapshot.take(str(nested / "libs/sub"))
    assert (taken.git_dir, taken.prefix) == (str(nested / ".git/modules/libs/sub"), "")
    assert listed(taken).keys() == INSIDE


@pytest.mark.parametrize("outside", [True, False])
def test_repositories_inside(tmp_path: Path, outside: bool) -> None:
    top = tmp_path / "top"
    write(top, {"a.py": "a"})
    if not outside:
        repository(top, {})
    deep = repository(top / "lib", {"l.py": "l\n", "tracked.log": "t"})
    write(deep, {".gitignore": "*.log\n", "x.log": "x", "new": "n", "secret": "s"})
    (deep / ".git/info/exclude").write_text("secret\n")
    git(top, "init", "-q", "lib/unborn")
    write(top, {"lib/unborn/u.py": "u"})
    expected = {
        "a.py",
        "lib/.gitignore",
        "lib/l.py",
        "lib/tracked.log",
        "lib/new",
        "lib/unborn/u.py",
    }
    for _ in range(2):
        assert listed(snapshot.take(str(top))).keys() == expected
    write(top, {"lib/l.py": "changed\n"})
    (top / "lib/new").unlink()
    taken = snapshot.take(str(top))
    assert text(taken, "lib/l.py") == "changed"
    assert listed(taken).keys() == expected - {"lib/new"}
    write(top, {".gitignore": "lib/\n"})
    assert listed(snapshot.take(str(top))).keys() == {"a.py", ".gitignore"}


# What the index may hold


def test_flags_that_keep_git_from_looking(repo: Path) -> None:
    git(repo, "update-index", "--assume-unchanged", "a.py")
    git(repo, "update-index", "--skip-worktree", "pkg/b.py")
    for local in ("one", "another"):
        write(repo, {"a.py": local, "pkg/b.py": local})
        taken = snapshot.take(str(repo))
        assert {text(taken, "a.py"), text(taken, "pkg/b.py")} == {local}
    (repo / "a.py").unlink()
    assert "a.py" not in listed(snapshot.take(str(repo)))


@pytest.mark.parametrize("first", [True, False])
def test_a_sparse_checkout_deletes_nothing(repo: Path, first: bool) -> None:
    if first:
        snapshot.take(str(repo))
    git(repo, "sparse-checkout", "set", "--no-cone", "/pkg/sub/")
    write(repo, {"pkg/sub/c.py": "changed\n"})
    gone = ["a.py", "pkg/b.py"]
    assert not [name for name in gone if (repo / name).exists()]
    for _ in range(2):
        assert differs(snapshot.take(str(repo))) == "M pkg/sub/c.py"
    git(repo, "sparse-checkout", "disable")
    for name in gone:
        write(repo, {name: "back\n"})
    taken = snapshot.take(str(repo))
    assert all(text(taken, name) == "back" for name in gone)


def test_a_file_that_is_meant_to_be_added(repo: Path) -> None:
    write(repo, {"later": "l"})
    git(repo, "add", "-N", "later")
    assert text(snapshot.take(str(repo)), "later") == "l"
    (repo / "later").unlink()
    assert "later" not in listed(snapshot.take(str(repo)))


@pytest.mark.parametrize(
    "words", [("--split-index",), ("--untracked-cache",), ("--index-version", "4")]
)
def test_other_kinds_of_index(repo: Path, words: tuple[str, ...]) -> None:
    git(repo, "update-index", *words)
    write(repo, {"a.py": "changed\n", "new": "n"})
    before = state(repo)
    for _ in range(2):
        assert differs(snapshot.take(str(repo))).splitlines() == ["M a.py", "A new"]
    assert state(repo) == before


def test_sha256(tmp_path: Path) -> None:
    top = tmp_path / "long"
    git(tmp_path, "init", "-q", "--object-format=sha256", "long")
    write(top, {"a": "a", "pkg/b": "b", ".launcherignore": "no\n", "no": "n"})
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "first")
    (top / "a").unlink()
    taken = snapshot.take(str(top / "pkg"))
    assert (len(taken.tree), len(taken.head or ""), taken.branch) == (64, 64, "master")
    same(top / "pkg", taken, tmp_path / "run")
    assert listed(snapshot.take(str(top))).keys() == {"pkg/b", ".launcherignore"}


# Filters


def test_line_endings(tmp_path: Path) -> None:
    top = repository(tmp_path / "top", {"a.txt": "a\n"})
    git(top, "config", "core.autocrlf", "true")
    git(top, "config", "core.safecrlf", "true")
    (top / "a.txt").write_bytes(b"a\r\nb\r\n")
    (top / "raw.bin").write_bytes(b"\0\r\n")
    (top / "sh.sh").write_bytes(b"#!\n")
    (top / ".gitattributes").write_bytes(b"*.sh eol=lf\r\n")
    taken = snapshot.take(str(top))
    assert text(taken, "a.txt") == "a\nb"
    same(top, taken, tmp_path / "run")


def test_line_endings_that_do_not_come_back_are_no_error(repo: Path) -> None:
    git(repo, "config", "core.autocrlf", "true")
    git(repo, "config", "core.safecrlf", "true")
    (repo / "mixed.txt").write_bytes(b"a\r\nb\n")
    assert text(snapshot.take(str(repo)), "mixed.txt") == "a\nb"


@pytest.fixture
def counted(tmp_path: Path, repo: Path) -> Callable[[], int]:
    """Give ``repo`` a filter for *.bin, as Git LFS is one; return how often it was asked."""
    program = tmp_path / "clean"
    program.write_text(f"#!/bin/sh\necho >> '{tmp_path}/asked'\ntr a-z A-Z\n")
    program.chmod(0o755)
    git(repo, "config", "filter.caps.clean", str(program))
    git(repo, "config", "filter.caps.smudge", "tr A-Z a-z")
    git(repo, "config", "filter.caps.required", "true")
    write(repo, {".gitattributes": "*.bin filter=caps\n"})
    return lambda: (tmp_path / "asked").read_text().count("\n")


def test_filters_apply(repo: Path, tmp_path: Path, counted: Callable[[], int]) -> None:
    write(repo, {"w.bin": "weights", "tracked.bin": "t"})
    git(repo, "add", "tracked.bin")
    taken = snapshot.take(str(repo))
    assert text(taken, "w.bin") == "WEIGHTS"
    same(repo, taken, tmp_path / "run")


def test_what_has_not_changed_is_not_read_again(repo: Path, counted: Callable[[], int]) -> None:
    write(repo, {"w.bin": "weights"})
    first = snapshot.take(str(repo))
    asked = counted()
    assert asked == 1
    git(repo, "commit", "-q", "--allow-empty", "-m", "the user's index is written")
    write(repo, {"a.py": "changed\n"})
    git(repo, "add", "a.py")
    second = snapshot.take(str(repo))
    assert counted() == asked
    assert first.tree != second.tree
    write(repo, {"w.bin": "changed weights"})
    assert text(snapshot.take(str(repo)), "w.bin") == "CHANGED WEIGHTS"


def test_what_is_as_new_as_the_users_index_is_read_once_more(
    repo: Path, counted: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_OPTIONAL_LOCKS", "0")
    next_second()
    (repo / "w.bin").write_text("weights")
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "weights")
    next_second()
    snapshot.take(str(repo))
    asked = counted()
    snapshot.take(str(repo))
    assert counted() == asked


def test_a_filter_that_fails(repo: Path) -> None:
    git(repo, "config", "filter.caps.clean", "exit 3 #")
    git(repo, "config", "filter.caps.required", "true")
    write(repo, {".gitattributes": "*.bin filter=caps\n", "w.bin": "w"})
    with pytest.raises(SubmitError, match=r"w\.bin") as error:
        snapshot.take(str(repo))
    assert "filter" in error.value.hint
    assert error.value.exit_status == 128


# What surrounds us


def test_in_a_git_hook(repo: Path) -> None:
    program = f"from launcher import snapshot; print(snapshot.take({str(repo)!r}).tree)"
    hook = repo / ".git/hooks/pre-commit"
    hook.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}" > ../tree\n')
    hook.chmod(0o755)
    write(repo, {"a.py": "changed\n", "pkg/b.py": "changed\n", "new": "n"})
    expected = snapshot.take(str(repo)).tree
    python = str(Path(snapshot.__file__).parent.parent)
    git(repo, "commit", "-q", "-m", "partly", "a.py", PYTHONPATH=python)
    assert (repo.parent / "tree").read_text().strip() == expected
    assert git(repo, "status", "--porcelain").splitlines() == [" M pkg/b.py", "?? new"]


def test_git_variables_do_not_confuse(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = repository(tmp_path / "other", {"o": "o"})
    expected = snapshot.take(str(repo))
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(other / ".git/objects"))
    monkeypatch.setenv("GIT_PREFIX", "pkg/")
    monkeypatch.setenv("GIT_ICASE_PATHSPECS", "1")
    monkeypatch.setenv("GIT_OPTIONAL_LOCKS", "0")
    monkeypatch.setenv("LANGUAGE", "de")
    assert snapshot.take(str(repo)) == expected
    plain = tmp_path / "plain"
    write(plain, {"p": "p"})
    assert snapshot.take(str(plain)).git_dir.endswith("store.git")


def test_no_hook_of_the_users_runs(repo: Path, tmp_path: Path) -> None:
    for name in ("post-index-change", "reference-transaction", "fsmonitor"):
        hook = repo / ".git/hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/{name}-ran'\n")
        hook.chmod(0o755)
    git(repo, "config", "core.fsmonitor", ".git/hooks/fsmonitor")
    write(repo, {"new": "n"})
    taken = snapshot.take(str(repo))
    record.commit_run(record.RunRecordInput(run_id="r", snapshot=taken, message="m"))
    assert list(tmp_path.glob("*-ran")) == []
    git(repo, "add", "-A")
    assert len(list(tmp_path.glob("*-ran"))) > 1


def test_launches_at_the_same_time(repo: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    for top in (repo, plain):
        write(top, {f"new{number}": f"{number}" for number in range(50)})
    with ThreadPoolExecutor(8) as pool:
        sources = [str(repo), str(plain), str(repo / "pkg"), str(plain)] * 4
        taken = list(pool.map(snapshot.take, sources))
    for source in set(sources):
        assert len({each.tree for s, each in zip(sources, taken, strict=True) if s == source}) == 1
        assert snapshot.take(source) in taken
    assert leftovers(repo / ".git") == []
    assert os.listdir(tmp_path / "home/data/launcher") == ["store.git"]


def test_objects_that_were_pruned_are_written_again(repo: Path) -> None:
    write(repo, {"new": "n", "deep/new": "d"})
    first = snapshot.take(str(repo))
    git(repo, "gc", "-q", "--prune=now")
    with pytest.raises(AssertionError):
        text(first, "new")
    second = snapshot.take(str(repo))
    assert first == second
    assert (text(second, "new"), text(second, "deep/new")) == ("n", "d")


def test_a_damaged_index_of_ours_is_begun_anew(repo: Path) -> None:
    snapshot.take(str(repo))
    (kept,) = (repo / ".git/launcher").iterdir()
    kept.write_bytes(b"DIRC damaged")
    write(repo, {"new": "n"})
    assert "new" in listed(snapshot.take(str(repo)))


def test_old_indexes_are_removed(repo: Path) -> None:
    snapshot.take(str(repo))
    (kept,) = (repo / ".git/launcher").iterdir()
    kept.rename(kept.with_name("index-0-1"))
    snapshot.take(str(repo))
    assert len(list((repo / ".git/launcher").iterdir())) == 2  # removed once a week has gone by


# Errors


def as_an_ordinary_user(act: Callable[[], Any]) -> Exception:
    """Return the error that ``act`` raises where modes count, even for root."""
    errors: list[Exception] = []

    def run() -> None:
        prctl = ctypes.CDLL(None).prctl
        for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of this thread only
            prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        try:
            act()
        except Exception as error:  # noqa: BLE001 - it is what the test looks at
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return errors[0]


@pytest.fixture
def closed(repo: Path) -> Iterator[Path]:
    write(repo, {"pri vate": "p", "dir/x": "x"})
    yield repo
    (repo / "dir").chmod(0o755)


def test_an_unreadable_file(closed: Path) -> None:
    (closed / "pri vate").chmod(0)
    error = as_an_ordinary_user(lambda: snapshot.take(str(closed)))
    assert isinstance(error, SubmitError)
    assert "cannot read pri vate: Permission denied" in error.message
    assert "ignore" in error.hint
    assert leftovers(closed / ".git") == []
    write(closed, {".launcherignore": "pri*\n"})
    snapshot.take(str(closed))


def test_an_unreadable_folder(closed: Path) -> None:
    (closed / "dir").chmod(0)
    error = as_an_ordinary_user(lambda: snapshot.take(str(closed)))
    assert isinstance(error, SubmitError)
    assert "cannot read dir/: Permission denied" in error.message
    assert ".gitignore" in error.hint


def test_a_repository_that_may_not_be_written(repo: Path) -> None:
    write(repo, {"new": "n"})
    for each in (repo / ".git", repo / ".git/objects"):
        each.chmod(0o555)
    error = as_an_ordinary_user(lambda: snapshot.take(str(repo)))
    for each in (repo / ".git", repo / ".git/objects"):
        each.chmod(0o755)
    assert isinstance(error, SubmitError)
    assert "write access" in error.hint


def test_someone_elses_repository(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(SubmitError, match="dubious ownership") as error:
        snapshot.take(str(repo))
    assert f"git config --global --add safe.directory {repo}" in error.value.hint
    assert "\n" not in error.value.message


def test_no_git(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SubmitError, match="git was not found") as error:
        snapshot.take(str(repo))
    assert "Install git" in error.value.hint


def test_no_directory(repo: Path) -> None:
    for name in ("none", "a.py"):
        with pytest.raises(SubmitError, match=name) as error:
            snapshot.take(str(repo / name))
        assert "source_directory" in error.value.hint


def test_a_submodule_without_its_repository(nested: Path) -> None:
    shutil.rmtree(nested / ".git/modules")
    with pytest.raises(SubmitError, match=r"libs/sub") as error:
        snapshot.take(str(nested))
    assert "submodule update" in error.value.hint


# After the run


@pytest.fixture
def code(repo: Path, tmp_path: Path) -> Path:
    hostile(repo)
    return checkout(snapshot.take(str(repo)), tmp_path / "run")


def tidy(repo: Path, code: Path) -> None:
    snapshot.remove_unchanged(
        git_dir=str(repo / ".git"), index=str(code.parent / "code.index"), worktree=str(code)
    )


def test_an_unchanged_checkout_goes_wholly(repo: Path, code: Path) -> None:
    os.utime(code / "a.py")  # touched, and the same
    tidy(repo, code)
    assert os.listdir(code.parent) == []
    tidy(repo, code)


def test_what_the_run_wrote_stays(repo: Path, code: Path) -> None:
    (code / "a.py").write_text("A\n")  # as long as before, and in the same second
    (code / "pkg/b.py").chmod(0o755)
    (code / "pkg/out.txt").write_text("o")
    (code / "empty folder").mkdir()
    (code / "link").unlink()
    (code / "link").symlink_to("other")
    (code / "plain").unlink()
    (code / "plain").mkdir()
    tidy(repo, code)
    assert contents(code).keys() == {b"a.py", b"pkg/b.py", b"pkg/out.txt", b"link"}
    assert {each.name for each in code.iterdir()} == {
        "a.py",
        "pkg",
        "empty folder",
        "link",
        "plain",
    }
    assert os.listdir(code.parent) == ["code"]


def test_nothing_behind_a_link_is_removed(repo: Path, code: Path, tmp_path: Path) -> None:
    shutil.move(code / "pkg", tmp_path / "scratch")
    (code / "pkg").symlink_to(tmp_path / "scratch")
    (code / "sub").rename(tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty/deep/er")
    (code / "sub").symlink_to(tmp_path / "empty")
    tidy(repo, code)
    assert contents(tmp_path / "scratch").keys() == {b"b.py", b"sub/c.py"}
    assert (tmp_path / "empty/deep").is_dir()
    assert {each.name for each in code.iterdir()} == {"pkg", "sub"}


def test_a_link_in_place_of_the_checkout_is_not_followed(
    repo: Path, code: Path, tmp_path: Path
) -> None:
    code.rename(tmp_path / "kept")
    code.symlink_to(tmp_path / "kept")
    before = contents(tmp_path / "kept")
    tidy(repo, code)
    assert contents(tmp_path / "kept") == before


def test_a_submodule_that_is_not_checked_out_goes(nested: Path, tmp_path: Path) -> None:
    git(nested, "submodule", "deinit", "-q", "-f", "libs/sub")
    code = checkout(snapshot.take(str(nested)), tmp_path / "run")
    assert (code / "libs/sub").is_dir()
    tidy(nested, code)
    assert not code.exists()


def test_filters_tell_whether_a_file_changed(
    repo: Path, tmp_path: Path, counted: Callable[[], int]
) -> None:
    write(repo, {"w.bin": "weights", "v.bin": "v"})
    code = checkout(snapshot.take(str(repo)), tmp_path / "run")
    (code / "v.bin").write_text("w")
    os.utime(code / "w.bin")
    tidy(repo, code)
    assert contents(code).keys() == {b"v.bin"}


def test_a_repository_that_is_gone_costs_no_file(repo: Path, code: Path) -> None:
    before = contents(code)
    shutil.rmtree(repo)
    with pytest.raises(StoreError, match="cannot tidy up"):
        tidy(repo, code)
    assert contents(code) == before
