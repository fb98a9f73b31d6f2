"""Starts what mpirun wants to run on another host: ``python rsh.py FILE HOST WORD...``.

Standard library only. ``FILE``: ssh's configuration; the words are shell text, as prte writes it.

Why not ssh itself: prte writes for the user's shell as it is here, and for bash where it does not
know that one. What reads the words there may be another one, or, as fish, take no ``A=b;`` at all.
Source: plm_ssh_assume_same_shell of prte_info(1)
"""

import os
import pwd
import sys

# With -I and -S nothing but the standard library is on the path.
sys.path.insert(0, os.path.abspath(__file__).rsplit("/", 4)[0])

from launcher.shell import ShellExpr, shell_line  # now it can be found

_CSH = ("csh", "tcsh")  # of those that prte knows, not like sh


def main(file: str, host: str, *words: str) -> None:
    """Become the ssh that runs these words there."""
    own = pwd.getpwuid(os.getuid()).pw_shell
    shell = own if os.path.basename(own) in _CSH else "sh"
    line = shell_line((ShellExpr("exec"), shell, "-c", " ".join(words)))
    os.execvp("ssh", ("ssh", "-F", file, "--", host, line))  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
