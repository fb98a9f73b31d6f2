"""The code as a git tree: a directory is snapshotted without touching what its owner has.

Why an index of our own, kept between calls: an index lets git skip the files that have not
changed, and the user's must stay as it is. Ours lists exactly what is to be recorded, so that
untracked files, submodules and directories outside git are read once too. It is begun anew each
week from a copy of the user's, because ``git gc`` does not know it and prunes after two weeks.

Why a submodule's files are entries of that index too: they are then stored in the same repository
and pass the same filters on their way in as on their way out again.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.errors import StoreError, SubmitError
from launcher.git import Place, failure, find, git, make_store, output
from launcher.hydra_outputs import written_by_hydra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_WEEK_S = 7 * 24 * 3600
_GITLINK = "160000"  # the mode of a submodule in the index


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A directory as a git tree: ``tree`` is the root tree, the directory is its ``prefix``.

    ``dirty``: ``tree`` is not the tree of ``head``. The other fields are those of Place.
    """

    git_dir: str
    tree: str
    prefix: str
    head: str | None
    branch: str
    dirty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """What our index is to list: files from disk, and entries ('mode sha 0') as they are."""

    files: set[str] = field(default_factory=set)
    fixed: dict[str, str] = field(default_factory=dict)
    untracked: set[str] = field(default_factory=set)  # those of the files that git has not


def take(source: str | Place) -> Snapshot:
    """Return the snapshot of a directory: objects are written into its repository, nothing else.

    What .gitignore names stays out unless it is tracked, what .launcherignore names (the same
    syntax) stays out always. SubmitError: something there cannot be read or stored.
    """
    place = find(source) if isinstance(source, str) else source
    if not os.path.isdir(f"{place.git_dir}/objects"):
        make_store(place.git_dir)
    try:
        tree = _write_tree(place, _wanted(place))
    except OSError as error:
        hint = "Ask for write access to its repository, or launch from your own clone."
        raise SubmitError(f"cannot snapshot {place.top}: {error}", hint=hint) from error
    return Snapshot(
        git_dir=place.git_dir,
        tree=tree,
        prefix=place.prefix,
        head=place.head,
        branch=place.branch,
        dirty=tree != place.head_tree,
    )


def _entries(words: Sequence[str], **where: str) -> Iterator[tuple[str, str, str]]:
    """Yield git's tag, 'mode sha stage' and the name of each file; '?' and '' if untracked."""
    done = git(("ls-files", "-z", "-s", "-v", *words), **where)
    for line in output(done, f"git cannot list {where['cwd']}").split("\0")[:-1]:
        if line[0] == "?":
            yield "?", "", line[2:]
        else:
            head, _, name = line.partition("\t")
            yield head[0], head[2:], name


def _wanted(place: Place) -> _Wanted:
    wanted = _Wanted()
    _collect(place, "", wanted)
    store = os.path.relpath(place.git_dir, place.top) + "/"
    wanted.files.difference_update([name for name in wanted.files if name.startswith(store)])
    wanted.files.difference_update(written_by_hydra(wanted.untracked))
    for name in _launcherignored(place, wanted):
        wanted.files.discard(name)
        wanted.fixed.pop(name, None)
    if place.prefix:
        beside = ("--", ".", f":(exclude,literal){place.prefix}")
        for _, info, name in _entries(beside, git_dir=place.own_dir, cwd=place.top):
            if info[-1] in "02":  # of a conflict, our own side
                wanted.fixed[name] = f"{info[:-1]}0"
    return wanted


def _collect(place: Place, base: str, wanted: _Wanted) -> None:
    """Add the files of the source directory or, with ``base``, of a repository inside it."""
    root = f"{place.top}/{base}"
    below = "." if base else place.below
    where = {"git_dir": f"{root}.git" if base else place.own_dir, "cwd": root}
    for tag, info, name in _entries(("-o", "--exclude-standard", "--", below), **where):
        link = info.startswith(_GITLINK)
        if link and os.path.lexists(f"{root}{name}/.git"):
            _collect(place, f"{base}{name}/", wanted)
        elif tag == "?" and name.endswith("/"):
            _collect(place, base + name, wanted)
        elif link and os.path.isdir(root + name):  # a submodule that is not checked out
            wanted.fixed[base + name] = f"{info[:-1]}0"
        elif tag not in "Ss" or os.path.lexists(root + name):
            wanted.files.add(base + name)
            wanted.untracked.update([base + name] if tag == "?" else [])
        elif not base:  # left out by a sparse checkout: not here, and not deleted either
            wanted.fixed[name] = info


def _folders(names: Iterable[str]) -> set[str]:
    """Return all folders on the way to ``names``, '' among them."""
    folders = {""}
    for name in names:
        folder = os.path.dirname(name)
        while folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)
    return folders


def _launcherignored(place: Place, wanted: _Wanted) -> list[str]:
    """Return the wanted names that a .launcherignore names."""
    folders = _folders(wanted.files | wanted.fixed.keys())
    if not any(os.path.lexists(f"{place.top}/{each}/.launcherignore") for each in folders):
        return []
    blank = git(("hash-object", "--stdin"), git_dir=place.own_dir).stdout.strip()
    lines = dict.fromkeys(wanted.files, f"100644 {blank} 0") | wanted.fixed
    where = {"git_dir": place.own_dir, "cwd": place.top}
    with _private(place, "ignore") as index:
        _update(place, index, ("--index-info",), (f"{lines[n]}\t{n}" for n in sorted(lines)))
        words = ("-c", "-i", "--exclude-per-directory=.launcherignore")
        return [name for _, _, name in _entries(words, **where, index=index)]


def _update(place: Place, index: str, how: tuple[str, ...], lines: Iterable[str]) -> None:
    stdin = "".join(f"{line}\0" for line in lines)
    if stdin:
        words = ("update-index", "-z", "--add", "--remove", "--replace", *how)
        done = git(words, git_dir=place.own_dir, cwd=place.top, index=index, stdin=stdin)
        output(done, f"cannot snapshot {place.top}")


@contextlib.contextmanager
def _private(place: Place, kind: str) -> Iterator[str]:
    """Yield the name of an index that no other process uses; it is gone afterwards."""
    folder = f"{place.git_dir}/launcher"
    index = f"{folder}/{kind}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        os.makedirs(folder, exist_ok=True)
        yield index
    finally:
        for path in (index, f"{index}.lock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _copied(source: str, target: str) -> bool:
    """Copy an index, if it is there; git must not take the copy for newer than it is."""
    try:
        with open(source, "rb") as file:
            data, times = file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    with open(target, "wb") as file:
        file.write(data)
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    return True


def _write_tree(place: Place, wanted: _Wanted, *, anew: bool = False) -> str:
    """Return the tree of what is wanted; ``anew``: without the index that was kept."""
    # two directories may have the same key: that costs time, and nothing else
    key = zlib.crc32(f"{place.top}/{place.prefix}".encode("utf-8", "surrogateescape"))
    kept = f"{place.git_dir}/launcher/index-{key:08x}-{int(time.time() // _WEEK_S)}"
    with _private(place, "index") as index:
        where = {"git_dir": place.own_dir, "cwd": place.top, "index": index}
        anew = anew or not _copied(kept, index)
        if anew:
            _copied(f"{place.own_dir}/index", index)
        try:
            _sync(place, index, wanted)
            if anew:
                # git then need not read again what changed in the second of its indexing
                git(("status", "--porcelain", "-uno", "--ignore-submodules=all"), **where)
                _remove_old(os.path.dirname(kept))
            tree = output(git(("write-tree",), **where), f"cannot snapshot {place.top}").strip()
        except SubmitError:
            if anew:
                raise
            # it is damaged, or lists what is gone since, as after git gc --prune=now
            return _write_tree(place, wanted, anew=True)
        with contextlib.suppress(FileNotFoundError):  # an empty directory has no index
            os.replace(index, kept)
    return tree


def _remove_old(folder: str) -> None:
    for each in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):
            if each.stat().st_ctime < time.time() - _WEEK_S:
                os.unlink(each)


def _sync(place: Place, index: str, wanted: _Wanted) -> None:
    """Make the index list exactly what is wanted, its files as they are on disk."""
    where = {"git_dir": place.own_dir, "cwd": place.top, "index": index}
    have: dict[str, str] = {}
    kept, lines = set(), []
    for tag, info, name in _entries((), **where):
        if wanted.fixed.get(name) == info:
            kept.add(name)
        elif tag == "H" and name in wanted.files and not info.startswith(_GITLINK):
            have[name] = info
        else:  # unwanted, unmerged or with a flag that keeps git from looking at it
            lines.append(f"0{info[6:]}\t{name}")
    words = ("diff-files", "-z", "--name-only", "--ignore-submodules=all", "--", place.below)
    changed = output(git(words, **where), f"cannot read {place.top}").split("\0")
    names = wanted.files.difference(have).union(have.keys() & changed)
    there = _on_disk(place.top, names)
    lines += [f"0{have[name][6:]}\t{name}" for name in (names - there) & have.keys()]
    lines += [f"{info}\t{name}" for name, info in wanted.fixed.items() if name not in kept]
    _update(place, index, ("--index-info",), lines)
    _update(place, index, ("--stdin",), sorted(there))


def _real(top: str, folders: Iterable[str]) -> set[str]:
    """Return those of the folders that no symbolic link leads to, below ``top`` (itself real)."""
    paths = {each: f"{top}/{each}".rstrip("/") for each in folders}
    return {each for each, path in paths.items() if os.path.realpath(path) == path}


def _on_disk(top: str, names: set[str]) -> set[str]:
    """Return the names that are files or symbolic links; no sockets, no directories."""
    real = _real(top, {os.path.dirname(name) for name in names})
    there = set()
    for name in names:
        try:
            mode = os.lstat(f"{top}/{name}").st_mode if os.path.dirname(name) in real else 0
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            there.add(name)
    return there


def remove_unchanged(*, git_dir: str, index: str, worktree: str) -> None:
    """Remove from ``worktree`` what ``index`` lists and is unchanged, then ``index`` itself.

    Directories that become empty go too, ``worktree`` among them; what changed or is new stays.
    StoreError: git cannot tell, or a file cannot be removed.
    """
    top = os.path.realpath(worktree)
    if os.path.isdir(top) and not os.path.islink(worktree) and os.path.isfile(index):
        words = ("ls-files", "-z", "-t", "-c", "-m")
        done = git(words, git_dir=git_dir, cwd=top, index=os.path.abspath(index))
        if done.status:
            raise failure(done, f"cannot tidy up {worktree}", StoreError)
        lines = done.stdout.split("\0")[:-1]
        listed, changed = ({line[2:] for line in lines if line[0] == tag} for tag in "HC")
        _remove(top, listed - changed)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(index)


def _remove(top: str, names: set[str]) -> None:
    # a run may have put a link to elsewhere in a directory's place
    real = _real(top, _folders(names))
    try:
        for name in names:
            if os.path.dirname(name) in real:
                try:
                    os.unlink(f"{top}/{name}")
                except FileNotFoundError:
                    pass
                except IsADirectoryError:  # a submodule that is not checked out
                    real.add(name)
    except OSError as error:
        raise StoreError(f"cannot tidy up {top}: {error}") from error
    for folder in sorted(real, reverse=True):
        with contextlib.suppress(OSError):  # it is not empty
            os.rmdir(f"{top}/{folder}")
