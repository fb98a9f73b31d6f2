"""The run's code on the node's own disk: unpacked once a node, removed by the last one to leave.

Standard library only: copied into the run's folder beside bootstrap.py.

Why locks of the kernel, on the folders themselves: those of a process that is killed are gone with
it, so that what it left can be told from what is in use, and the next run here removes it. Why the
``tar`` program: 10,000 small files take it 0.6 s, the tarfile module 3.4 s.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class StageError(OSError):
    """The code could not be put on the node's own disk."""


class Stage:
    """The folder ``path``, with the code in it, for as long as we have not left."""

    def __init__(self, env: Mapping[str, str]) -> None:
        """Name the folder; nothing is made."""
        self.scratch = env.get("SLURM_TMPDIR") or env.get("TMPDIR") or "/tmp"  # noqa: S108
        run = env["LAUNCHER_RUN_DIR"]
        self.parent = os.path.join(self.scratch, f"launcher-{os.getuid()}")
        self.name = f"{os.path.basename(run)}-{env.get('LAUNCHER_RESTART_COUNT') or 0}"
        self.path = os.path.join(self.parent, self.name)
        self.code = os.path.join(run, "code.tar")
        self.user = -1  # the folder, opened; its shared lock says that it is in use

    def enter(self) -> None:
        """Unpack the code unless another rank of this node has; raise StageError if we cannot."""
        try:
            with self._alone() as parent:
                self._sweep(parent)
                if not os.path.lexists(self.path):
                    self._unpack(parent)
                self.user = _open(self.name, parent)
                fcntl.flock(self.user, fcntl.LOCK_SH)
        except StageError:
            raise
        except OSError as error:
            raise StageError(f"{self.path}: {error.strerror or error}") from error

    def leave(self) -> None:
        """Remove the folder if nobody else uses it; what our rank left behind does not count."""
        with contextlib.suppress(OSError), self._alone() as parent:
            _remove(self.name, parent, self.user)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Yield the parent folder, opened, with no other process of ours at work in it."""
        mode = os.stat(self.scratch).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise StageError(f"{self.scratch} lets every user remove what others put there")
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.parent, 0o700)
        parent = _open(self.parent)
        try:
            if os.fstat(parent).st_mode & 0o077:
                os.fchmod(parent, 0o700)
            fcntl.flock(parent, fcntl.LOCK_EX)
            yield parent
        finally:
            os.close(parent)

    def _unpack(self, parent: int) -> None:
        new = f"{self.name}.new"
        os.mkdir(new, 0o700, dir_fd=parent)
        words = ("tar", "-x", "-f", self.code, "-C", os.path.join(self.parent, new))
        pid = os.posix_spawnp("tar", words, os.environ)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            _remove(new, parent)
            raise StageError(f"tar ended with status {status} when it unpacked into {self.path}")
        os.rename(new, self.name, src_dir_fd=parent, dst_dir_fd=parent)

    def _sweep(self, parent: int) -> None:
        """Remove what killed processes of ours have left there."""
        for name in os.listdir(parent):
            with contextlib.suppress(OSError):
                _remove(name, parent)


def _open(path: str, folder: int | None = None) -> int:
    """Return a folder of our own, opened; raise StageError when it is somebody else's."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except NotADirectoryError as error:
        raise StageError(f"{path} is a link or a file; a folder of our own is wanted") from error
    about = os.fstat(opened)
    if about.st_uid != os.getuid() or not stat.S_ISDIR(about.st_mode):
        os.close(opened)
        raise StageError(f"{path} belongs to user {about.st_uid}, not to us")
    return opened


def _remove(name: str, parent: int, opened: int | None = None) -> None:
    """Remove a folder that no process uses; raise BlockingIOError when one does."""
    if opened is None:
        opened = _open(name, parent)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        import shutil  # noqa: PLC0415 - 10 ms, for the last guard of a node only

        # By way of the open parent: the path itself may lead elsewhere by now.
        shutil.rmtree(f"/proc/self/fd/{parent}/{name}", ignore_errors=True)
    finally:
        os.close(opened)
