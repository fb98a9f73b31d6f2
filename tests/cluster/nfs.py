"""A library that has flock(2) follow the rule of NFS, for programs that are started with it.

An exclusive lock wants a file that is open for writing, a shared one a file that is open for
reading; folders are locked as ever. Source: flock(2), NFS details.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.cluster.host import ENVIRONMENT

if TYPE_CHECKING:
    from pathlib import Path

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

int flock(int file, int how) {
  int (*real)(int, int) = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
  int mode = fcntl(file, F_GETFL) & O_ACCMODE;
  struct stat about;
  if (!fstat(file, &about) && S_ISREG(about.st_mode) &&
      (((how & LOCK_EX) && mode == O_RDONLY) || ((how & LOCK_SH) && mode == O_WRONLY))) {
    errno = EBADF;
    return -1;
  }
  return real(file, how);
}
"""


def locks(library: Path) -> Path:
    """Make the library, which LD_PRELOAD is to name; return its path."""
    words = ("cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl")
    subprocess.run(words, input=_SOURCE, text=True, env=ENVIRONMENT, check=True)
    library.chmod(0o755)
    return library
