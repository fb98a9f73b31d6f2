"""The way to git: its commands, its errors, and where a directory's repository lies.

Why every setting and variable is given here: what surrounds us, such as a git hook that runs us,
must not turn git to another repository, and nothing of the user's may run.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher import process
from launcher.errors import LaunchError, StoreError, SubmitError

if TYPE_CHECKING:
    from collections.abc import Container, Generator, Sequence

    from launcher.process import Completed

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
    *("-c", "core.warnAmbiguousRefs=false"),  # looks for six refs of each name
)
# What git frees, and needs again for the next object, stays its own: half of the time of a sweep's
# commits is otherwise spent on giving pages back. Source: mallopt(3)
_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "4000000"}
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
    env = {"LANGUAGE": "C", "GIT_OPTIONAL_LOCKS": "1", **_MEMORY}
    if index:
        env["GIT_INDEX_FILE"] = index
    where = [f"--git-dir={git_dir}"] if git_dir else []
    where += [f"--work-tree={cwd}"] if git_dir and cwd else []
    return process.run(_argv((*where, *words), env), cwd=cwd or git_dir, env=env, stdin=stdin)


def _argv(words: Sequence[str], own: Container[str] = ()) -> tuple[str, ...]:
    foreign = [f"-u{name}" for name in _FOREIGN if name in os.environ and name not in own]
    return (*(("env", *foreign) if foreign else ()), "git", *_SETTINGS, *words)


def blobs(git_dir: str, names: Sequence[str]) -> Generator[bytes, None, None]:
    """Yield what the objects of these names hold, in their order; StoreError when one is gone."""
    import tempfile  # noqa: PLC0415 - of code that travels only
    import threading  # noqa: PLC0415

    words = _argv((f"--git-dir={git_dir}", "cat-file", "--batch", "--buffer"))
    with tempfile.TemporaryFile() as errors:
        running = process.connect(words, errors=errors, prompts=False)
        assert running.stdin is not None  # noqa: S101 - for the type checker
        assert running.stdout is not None  # noqa: S101
        to = running.stdin

        def ask() -> None:
            with contextlib.suppress(OSError), to:  # it ended: the reader will see
                to.write("".join(f"{name}\n" for name in names).encode())

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for name in names:
                head = running.stdout.readline().split()
                data = running.stdout.read(int(head[2])) if len(head) == 3 else b""
                if len(head) != 3 or len(data) < int(head[2]):
                    raise StoreError(f"{git_dir} has no object {name}")
                running.stdout.read(1)
                yield data
        finally:
            running.stdout.close()
            asking.join()
            running.wait()


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


def output(done: Completed, problem: str) -> str:
    """Return what git printed; raise its failure as a SubmitError."""
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
    inside, up, *rest = output(done, f"git cannot use {source}").split("\n")[:-1]
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


def make_store(store: str) -> None:
    """Make the launcher's own store, aside and moved in one step: two launches may race."""
    import shutil  # noqa: PLC0415 - once in a lifetime

    aside = f"{store}.{os.getpid()}.{time.monotonic_ns()}"
    try:
        os.makedirs(os.path.dirname(store), exist_ok=True)
        os.mkdir(aside, 0o700)
        output(git(("init", "-q", "--bare", "--template="), cwd=aside), "cannot make the store")
        os.rename(aside, store)
    except OSError as error:
        if not os.path.isdir(f"{store}/objects"):
            hint = "Set LAUNCHER_STORE to a new directory that you may write to."
            raise SubmitError(f"cannot make the store {store}: {error}", hint=hint) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
