"""The launcher, held on its way to a host until it is told to go on.

    python held.py MOMENT WORDS...

Why: what is to break off in the middle must not depend on who is quicker. A moment is, as in
kills_submit.py, a request to a host and how many there were of it: ``hosta put 8``. Before that
one is sent the file `held` is made beside this one, and the file `on` is waited for.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launcher import cli
from launcher.ssh.channel import Channel

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.real.ssh import SshProject


@contextmanager
def held(
    box: SshProject, moment: str, *words: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], None]]]:
    """Yield a launcher that is at the moment, and what lets it go on."""
    from tests.cluster.user import give  # noqa: PLC0415 - what is run as a script has no tests
    from tests.real.conftest import until  # noqa: PLC0415

    folder = box.path.with_name(f"{box.path.name}-held")
    folder.mkdir(exist_ok=True)
    (folder / "held.py").write_text(Path(__file__).read_text())
    for name in ("held", "on"):
        (folder / name).unlink(missing_ok=True)
    give(folder)
    argv = ("python", str(folder / "held.py"), moment, *box.known(words))
    with box.hosts.start(argv, cwd=box.path, env=box.env) as running:
        until(lambda: (folder / "held").exists() or running.poll() is not None)
        assert running.poll() is None, running.communicate()
        try:
            yield running, (folder / "on").touch
        finally:
            (folder / "on").touch()


def main() -> int:
    _, moment, *words = sys.argv
    here, counts, send = Path(__file__).parent, Counter[str](), Channel._send

    def sends(channel: Channel, request: str, body: bytes, head: dict[str, Any]) -> None:
        name = f"{channel.name} {request}"
        counts[name] += 1
        if f"{name} {counts[name]}" == moment:
            (here / "held").touch()
            while not (here / "on").exists():
                time.sleep(0.02)
        send(channel, request, body, head)

    Channel._send = sends  # type: ignore[method-assign]
    return cli.run(words)


if __name__ == "__main__":
    sys.exit(main())
