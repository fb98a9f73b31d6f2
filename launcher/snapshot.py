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
import re
import stat
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher import process
from launcher.errors import LaunchError, StoreError, SubmitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from launcher.process import Completed

_WEEK_S = 7 * 24 * 3600
_GITLINK = "160000"  # the mode of a submodule in the index
_FOREIGN = (  # set while a git hook runs us; each would turn git away from what we ask it
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX"),
    *("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH"),
    *("GIT_NAMESPACE", "GIT_GRAFT_FILE", "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE"),
    *("GIT_ATTR_SOURCE", "GIT_DEFAULT_HASH", "GIT_INTERNAL_SUPER_PREFIX"),
    *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS"),
    "GIT_ICASE_PATHSPECS",
)
_SETTINGS = (
    *("-c", "core.hooksPath=/dev/null"),  # else post-index-change, reference-transaction run
    *("-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false", "-c", "gc.auto=0"),
    *("-c", "core.splitIndex=false", "-c", "index.sparse=false"),  # an index that stands alone
    *("-c", "core.ignoreStat=false", "-c", "core.safecrlf=false"),
    *("-c", "core.fsyncMethod=batch"),  # one flush to the disk, not one a new file
)
_HINTS = (
    ("adding an object", "Ask for write access to that repository, or launch from your own clone."),
    ("ermission denied", "Make it readable, or leave it out with a line in .gitignore."),
    ("not a git repository", "For a submodule: git submodule update --init --recursive."),
    ("clean filter", "Install the program of that filter (for Git LFS: git lfs install)."),
)


def git(
    words: Sequence[str], *, git_dir: str = "", cwd: str = "", index: str = "", stdin: str = ""
) -> Completed:
    """Return what ``git words`` did, whatever git variables and hooks surround us.

    ``cwd`` is the work tree too when ``git_dir`` is given; without ``git_dir``, git looks for one.
    """
    env = {"LANGUAGE": "C", "GIT_OPTIONAL_LOCKS": "1"}
    if index:
        env["GIT_INDEX_FILE"] = index
    foreign = [f"-u{name}" for name in _FOREIGN if name in os.environ and name not in env]
    where = [f"--git-dir={git_dir}"] if git_dir else []
    where += [f"--work-tree={cwd}"] if git_dir and cwd else []
    argv = (*(("env", *foreign) if foreign else ()), "git", *_SETTINGS, *where, *words)
    return process.run(argv, cwd=cwd or git_dir, env=env, stdin=stdin)


def failure(done: Completed, problem: str, kind: type[LaunchError] = SubmitError) -> LaunchError:
    """Return the error that says why a git command failed, and what to do about it."""
    said = done.stderr.strip() or f"git ended with exit status {done.status}"
    hint = next((hint for words, hint in _HINTS if words in said), "")
    if done.status == 127:
        said, hint = "git was not found", "Install git, or load its module, then try again."
    elif "dubious ownership" in said or "unsafe repository" in said:
        command = re.search(r"git config --global --add safe\.directory .*", said)
        hint = f"If you trust its owner: {command[0]}" if command else "See git's safe.directory."
        said = said.splitlines()[0]
    elif denied := re.search(r"""(?:open|stat|directory)\W+?(['"])(.+?)\1\)?: (Perm.*)""", said):
        said = f"cannot read {denied[2]}: {denied[3]}"
    message, status = f"{problem}: {said}", done.status
    if kind is not SubmitError:
        return kind(message, hint=hint)
    return SubmitError(message, hint=hint, argv=done.argv, exit_status=status, stderr=done.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a source directory lies: at ``prefix`` below ``top``, the root of a work tree.

    ``git_dir`` holds the objects and refs, ``own_dir`` this work tree's index. ``head`` is its
    commit (None: no commit, or no repository), ``branch`` its branch ('' without one).
    """

    git_dir: str
    own_dir: str
    top: str
    prefix: str = ""
    head: str | None = None
    head_tree: str = ""
    branch: str = ""

    @property
    def below(self) -> str:
        """Return the pathspec of the source directory."""
        return f":(literal){self.prefix}" if self.prefix else "."


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


def _output(done: Completed, problem: str) -> str:
    # git lists what it can and only warns of a directory that it cannot read
    if done.status or "could not open directory" in done.stderr:
        raise failure(done, problem)
    return done.stdout


def find(source: str) -> Place:
    """Return where the directory ``source`` lies; nothing is written.

    A directory in no repository, or ignored by the one around it, belongs to the launcher's own
    store. SubmitError: no such directory, or git refuses it.
    """
    source = os.path.realpath(source)
    if not os.path.isdir(source) or not os.access(source, os.R_OK | os.X_OK):
        hint = "Set source_directory to the directory that holds your code."
        raise SubmitError(f"the source directory {source} is no readable directory", hint=hint)
    ask = ("--is-inside-work-tree", "--show-cdup", "--absolute-git-dir", "--revs-only")
    # without a commit, git stops at the first HEAD and prints none of the last three
    head = ("HEAD", "HEAD^{tree}", "--symbolic-full-name", "HEAD")
    done = git(("rev-parse", *ask, *head), cwd=source)
    if done.status == 128 and "not a git repository" in done.stderr:
        return _outside(source)
    inside, up, *rest = _output(done, f"git cannot use {source}").split("\n")[:-1]
    if inside != "true" or (up and git(("check-ignore", "-q", "."), cwd=source).status == 0):
        return _outside(source)
    born = len(rest) > 3 and re.fullmatch("[0-9a-f]{40,}", rest[-3])
    commit, tree, ref = rest[-3:] if born else ("", "", "")
    own_dir = "\n".join(rest[:-3] if born else rest)
    top = os.path.realpath(os.path.join(source, up))
    return Place(
        git_dir=_common(own_dir),
        own_dir=own_dir,
        top=top,
        prefix=os.path.relpath(source, top) if up else "",
        head=commit or None,
        head_tree=tree,
        branch=ref.removeprefix("refs/heads/") if ref != "HEAD" else "",
    )


def _common(own_dir: str) -> str:
    """Return the git directory that the work tree of ``own_dir`` shares with the others."""
    try:
        with open(f"{own_dir}/commondir", encoding="utf-8", errors="surrogateescape") as file:
            return os.path.normpath(os.path.join(own_dir, file.read().rstrip("\n")))
    except FileNotFoundError:
        return own_dir


def own_store() -> str:
    """Return the launcher's own store, for directories in no repository; it may not be there."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    store = os.environ.get("LAUNCHER_STORE") or f"{data}/launcher/store.git"
    return os.path.realpath(os.path.expanduser(store))


def _outside(source: str) -> Place:
    return Place(git_dir=own_store(), own_dir=own_store(), top=source)


def _make_store(store: str) -> None:
    """Make the launcher's own store, aside and moved in one step: two launches may race."""
    import shutil  # noqa: PLC0415 - once in a lifetime

    aside = f"{store}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        os.makedirs(os.path.dirname(store), exist_ok=True)
        os.mkdir(aside, 0o700)
        _output(git(("init", "-q", "--bare", "--template="), cwd=aside), "cannot make the store")
        os.rename(aside, store)
    except OSError as error:
        if not os.path.isdir(f"{store}/objects"):
            hint = "Set LAUNCHER_STORE to a new directory that you may write to."
            raise SubmitError(f"cannot make the store {store}: {error}", hint=hint) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def take(source: str | Place) -> Snapshot:
    """Return the snapshot of a directory: objects are written into its repository, nothing else.

    What .gitignore names stays out unless it is tracked, what .launcherignore names (the same
    syntax) stays out always. SubmitError: something there cannot be read or stored.
    """
    place = find(source) if isinstance(source, str) else source
    if not os.path.isdir(f"{place.git_dir}/objects"):
        _make_store(place.git_dir)
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
    for line in _output(done, f"git cannot list {where['cwd']}").split("\0")[:-1]:
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
        _output(done, f"cannot snapshot {place.top}")


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
            tree = _output(git(("write-tree",), **where), f"cannot snapshot {place.top}").strip()
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
    changed = _output(git(words, **where), f"cannot read {place.top}").split("\0")
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
