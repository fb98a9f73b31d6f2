"""Starts what mpirun wants to run on another host: ``python rsh.py FILE HOST WORD...``.

Standard library only. ``FILE``: ssh's configuration; the words are shell text, as prte writes it.

Why not ssh itself: prte takes the user's shell there for the one that it knows here, and what it
does not know for bash. One that reads no ``A=b; export A`` never starts a daemon, and prte waits.
Source: plm_ssh_assume_same_shell of prte_info(1)
"""

import os
import pwd
import sys

# With -I and -S nothing but the standard library is on the path.
sys.path.insert(0, os.path.abspath(__file__).rsplit("/", 4)[0])

from launcher.shell import ShellExpr, shell_line  # now it can be found

_CSH = ("csh", "tcsh")  # prte writes for them where the user has one here


def main(file: str, host: str, *words: str) -> None:
    """Become the ssh that runs these words there."""
    line = " ".join(words)
    if os.path.basename(pwd.getpwuid(os.getuid()).pw_shell) not in _CSH:
        line = shell_line((ShellExpr("exec"), "sh", "-c", line))
    os.execvp("ssh", ("ssh", "-F", file, "--", host, line))  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
