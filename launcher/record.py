"""The run as a git commit: its code and, below ``.launcher``, all that it was started with.

Why git's fast-import: one process writes any number of commits, blobs and refs, so a sweep of
1,000 runs costs what one run costs. A ref below ``refs/launcher/runs`` keeps all that a run needs
from ``git gc``, and shows in no list of branches.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from launcher import process
from launcher.errors import ConfigError, StoreError, SubmitError
from launcher.git import failure, git

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from launcher.errors import LaunchError
    from launcher.process import Completed
    from launcher.snapshot import Snapshot

_REFS = "refs/launcher/runs/"
_FOLDER = ".launcher"
_OUTCOME = "outcome.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSource:
    """The source of a run that is to be recorded.

    ``entry``: a file that the snapshot must hold, as a path from its root; '' for none.
    """

    run_id: str
    snapshot: Snapshot
    entry: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecordInput(RunSource):
    """One run to be recorded. ``files``: a path below ``.launcher`` -> its text."""

    message: str
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """A recorded run.

    ``commit`` is the commit that it was started from, ``tree`` its tree, ``head`` its parent (the
    user's own commit, or None), ``tip`` the run's last commit, ``files`` what ``.launcher`` holds
    there, a path below it -> its text.
    """

    git_dir: str
    run_id: str
    commit: str
    tree: str
    head: str | None
    tip: str
    files: dict[str, str]


def commit_run(run: RunRecordInput) -> str:
    """Return the commit that records ``run``, in the repository that holds its snapshot."""
    return commit_runs(run.snapshot.git_dir, [run])[0]


def commit_runs(git_dir: str, runs: Sequence[RunRecordInput]) -> list[str]:
    """Return the commits that record ``runs``, in their order; raise what ``Recorder`` does."""
    return Recorder(git_dir, runs).commit(runs) if runs else []


class Recorder:
    """Records new runs in one repository: what holds for all of them is asked of git once."""

    def __init__(self, git_dir: str, runs: Sequence[RunSource]) -> None:
        """Check all runs, before any is written.

        SubmitError: an id is no name for a ref or is taken, or a snapshot lies in another
        repository. ConfigError: an entry script is not in its snapshot.
        """
        refs = [_ref(run.run_id, SubmitError) for run in runs]
        for run in runs:
            if run.snapshot.git_dir != git_dir:
                raise SubmitError(f"the code of run {run.run_id} is not in {git_dir}")
        _check(git_dir, refs, runs)
        self._git_dir = git_dir
        self._author, self._committer = _identities(git_dir)

    def commit(self, runs: Sequence[RunRecordInput]) -> list[str]:
        """Return the commits that record ``runs``, some of those that were checked, by one call.

        SubmitError when git cannot write.
        """
        stream, marks = _blobs([run.files for run in runs], len(runs) + 1)
        for mark, run in enumerate(runs, 1):
            stream += (f"commit {_REFS}{run.run_id}", f"mark :{mark}")
            stream += (f"author {self._author}", f"committer {self._committer}", _data(run.message))
            stream += [f"from {run.snapshot.head}"] if run.snapshot.head else []
            stream += (f'M 040000 {run.snapshot.tree} ""', f"D {_FOLDER}")
            stream += _files(run.files, marks)
        stream += (f"get-mark :{mark}" for mark in range(1, len(runs) + 1))
        done = _import(self._git_dir, stream)
        if done.status:
            raise failure(done, f"cannot record the run in {self._git_dir}")
        return done.stdout.split()


def _check(git_dir: str, refs: Sequence[str], runs: Sequence[RunSource]) -> None:
    """Refuse ids that are taken, and entry scripts that a snapshot does not hold."""
    entries = list(dict.fromkeys((run.snapshot.tree, run.entry) for run in runs if run.entry))
    names = [*refs, *(f"{tree}:{entry}" for tree, entry in entries)]
    kinds = [kind for kind, _, _ in _objects(git_dir, names, SubmitError)]
    taken = [ref for ref, count in Counter(refs).items() if count > 1]
    taken += [ref for ref, kind in zip(refs, kinds, strict=False) if kind != "missing"]
    if taken:
        hint = "Nothing was recorded. Submit again: each submission gets an id of its own."
        raise SubmitError(f"the run id {taken[0].removeprefix(_REFS)} is taken", hint=hint)
    for (_, entry), kind in zip(entries, kinds[len(refs) :], strict=True):
        if kind != "blob":
            raise ConfigError(
                f"entry_script={entry}: it is not in the snapshot of the source",
                hint="A line in .gitignore or .launcherignore leaves it out, or the recorded run "
                "had none.",
            )


def record_outcome(
    git_dir: str,
    run_id: str,
    outcome: Mapping[str, Any],
    message: str,
    files: Mapping[str, str] | None = None,
) -> str:
    """Return the run's last commit, which holds ``outcome`` as ``.launcher/outcome.json``.

    It is a new commit on top of the last one, unless that holds the same outcome already.
    StoreError: no such run, or git cannot write.
    """
    ref, text = _ref(run_id, StoreError), json.dumps(outcome, indent=1, sort_keys=True) + "\n"
    for _ in range(5):  # others may record at the same time: git then refuses ours
        (_, tip, _), (kind, _, there) = _objects(git_dir, (ref, f"{ref}:{_FOLDER}/{_OUTCOME}"))
        if not tip:
            raise _unknown(git_dir, run_id)
        if kind == "blob" and there == text:
            return tip
        author, committer = _identities(git_dir)
        added = {_OUTCOME: text, **(files or {})}
        stream, marks = _blobs([added], 2)
        stream += (f"commit {ref}", "mark :1", f"author {author}", f"committer {committer}")
        stream += (_data(message), f"from {tip}", *_files(added, marks))
        done = _import(git_dir, [*stream, "get-mark :1"])
        if done.status == 0:
            return done.stdout.strip()
        if "does not contain" not in done.stderr and "cannot lock ref" not in done.stderr:
            break
    raise failure(done, f"cannot record the outcome of run {run_id}", StoreError)


def read_run(git_dir: str, run_id: str) -> RecordedRun:
    """Return the recorded run; StoreError: there is none, or it cannot be read."""
    ref = _ref(run_id, StoreError)
    listed = git(("ls-tree", "-r", "-z", f"{ref}:{_FOLDER}"), git_dir=git_dir)
    if "Not a valid object name" in listed.stderr:
        raise _unknown(git_dir, run_id)
    if listed.status:
        raise failure(listed, f"cannot read {git_dir}", StoreError)
    entries = [line.partition("\t") for line in listed.stdout.split("\0")[:-1]]
    names, shas = [name for _, _, name in entries], [head.split()[2] for head, _, _ in entries]
    (_, tip, _), *blobs = _objects(git_dir, (ref, *shas))
    files = {name: text for name, (_, _, text) in zip(names, blobs, strict=True)}
    commit, body = _started(git_dir, tip)
    tree, head = (re.search(rf"^{what} (\w+)$", body, re.MULTILINE) for what in ("tree", "parent"))
    return RecordedRun(
        git_dir=git_dir,
        run_id=run_id,
        commit=commit,
        tree=tree[1] if tree else "",
        head=head[1] if head else None,
        tip=tip,
        files=files,
    )


def _started(git_dir: str, tip: str) -> tuple[str, str]:
    """Return the run's first commit and its text: the last one that holds no outcome."""
    for back in range(1_000_000):
        names = (f"{tip}~{back}", f"{tip}~{back}:{_FOLDER}/{_OUTCOME}")
        (_, commit, text), (outcome, _, _) = _objects(git_dir, names)
        if outcome != "blob":
            return commit, text.partition("\n\n")[0]
    raise AssertionError  # no history is as long


def find(git_dir: str, id_or_prefix: str) -> list[str]:
    """Return the ids of the recorded runs that begin so, sorted; just the one that is named."""
    done = git(("for-each-ref", "--format=%(refname)", _REFS), git_dir=git_dir)
    if done.status:
        raise failure(done, f"cannot read {git_dir}", StoreError)
    ids = [ref.removeprefix(_REFS) for ref in done.stdout.split()]
    return [id_or_prefix] if id_or_prefix in ids else [i for i in ids if i.startswith(id_or_prefix)]


def log_command(git_dir: str, run_id: str) -> tuple[str, ...]:
    """Return the words of the command that shows a run's commit to a person."""
    return ("git", f"--git-dir={git_dir}", "log", "-2", "--stat", f"{_REFS}{run_id}")


def forget(git_dir: str, *run_ids: str) -> None:
    """Remove the records of runs, as far as there are any; git prunes their objects in time."""
    lines = "".join(f"delete {_ref(each, StoreError)}\n" for each in run_ids)
    done = git(("update-ref", "--stdin"), git_dir=git_dir, stdin=lines)
    if done.status:
        raise failure(done, f"cannot remove the record of run {run_ids[0]}", StoreError)


def _ref(run_id: str, kind: type[LaunchError]) -> str:
    # what git allows in a ref, and no slash: git-check-ref-format(1)
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]|\.(?!\.|lock$|$))*", run_id):
        raise kind(f"{run_id!r} is no run id", hint="Ids have letters, digits and single . _ -")
    return _REFS + run_id


def _unknown(git_dir: str, run_id: str) -> StoreError:
    hint = "launcher runs lists them."
    return StoreError(f"run {run_id} is not recorded in {git_dir}", hint=hint)


def _data(text: str) -> str:
    return f"data {len(text.encode('utf-8', 'surrogateescape'))}\n{text}"


def _blobs(all_files: Sequence[Mapping[str, str]], first: int) -> tuple[list[str], dict[str, int]]:
    """Return what writes the texts of files, each once, and their marks, from ``first`` on.

    Texts of one name follow each other: git stores each as what differs from the one before.
    """
    names = dict.fromkeys(name for files in all_files for name in files)
    texts = dict.fromkeys(files[name] for name in names for files in all_files if name in files)
    marks = {text: mark for mark, text in enumerate(texts, first)}
    return [f"blob\nmark :{mark}\n{_data(text)}" for text, mark in marks.items()], marks


def _files(files: Mapping[str, str], marks: Mapping[str, int]) -> Iterable[str]:
    for name, text in files.items():
        quoted = name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        yield f'M 100644 :{marks[text]} "{_FOLDER}/{quoted}"'


def _import(git_dir: str, stream: Sequence[str]) -> Completed:
    words = ("fast-import", "--quiet", "--done", "--date-format=raw")
    done = git(words, git_dir=git_dir, stdin="\n".join((*stream, "done", "")))
    # what git says is in the error; a report of its crash would stay in the user's repository
    for report in re.findall(r"dumping crash report to (.*)", done.stderr):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(git_dir, report))
    return done


def _objects(
    git_dir: str, names: Iterable[str], problem: type[LaunchError] = StoreError
) -> list[tuple[str, str, str]]:
    """Return the kind, id and text of each object; ('missing', '', '') where there is none."""
    asked = "".join(f"{name}\n" for name in names)
    done = git(("cat-file", "--batch", "--buffer"), git_dir=git_dir, stdin=asked)
    if done.status:
        raise failure(done, f"cannot read {git_dir}", problem)
    rest, found = done.stdout.encode("utf-8", "surrogateescape"), []
    while rest:
        head, _, rest = rest.partition(b"\n")
        sha, kind, *size = head.decode("utf-8", "surrogateescape").rsplit(" ", 2)
        end = int(size[0]) if size else -1
        found.append(
            (kind, sha if size else "", rest[: max(end, 0)].decode("utf-8", "surrogateescape"))
        )
        rest = rest[end + 1 :]
    return found


def _identities(git_dir: str) -> tuple[str, str]:
    """Return author and committer, with the time: as git knows them, else user and host."""
    done = git(("var", "GIT_COMMITTER_IDENT"), git_dir=git_dir)
    known = re.fullmatch(r"(.*) <(.*)> (\d+ [+-]\d+)\n", done.stdout)
    user = process.user()
    here = (user, f"{user}@{os.uname().nodename}", f"{int(time.time())} +0000")
    name, email, when = known.groups() if known else here
    author = os.environ.get("GIT_AUTHOR_NAME") or name, os.environ.get("GIT_AUTHOR_EMAIL") or email
    return f"{author[0]} <{author[1]}> {when}", f"{name} <{email}> {when}"
