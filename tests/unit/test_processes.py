"""Signals that are waited for."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

WAITS = """
import signal, sys
from launcher.processes import next_signal
numbers = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
signal.pthread_sigmask(signal.SIG_BLOCK, (*numbers, signal.SIGALRM))
for patience_s in (1.0, 600.0):
    print("waits", flush=True)
    print(next_signal(numbers, patience_s), flush=True)
"""


def test_who_is_stopped_while_it_waits_hears_of_no_signal() -> None:
    words = (sys.executable, "-c", WAITS)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout
        assert waiting.stdout.readline() == "waits\n"
        waiting.send_signal(signal.SIGSTOP)
        time.sleep(1.2)  # beyond the end of what it waits for
        waiting.send_signal(signal.SIGCONT)
        assert waiting.stdout.read(8) == "0\nwaits\n"
        waiting.send_signal(signal.SIGUSR1)
        assert waiting.stdout.read() == f"{int(signal.SIGUSR1)}\n"
    assert waiting.returncode == 0
