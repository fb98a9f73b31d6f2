"""Our end of a connection to the agent of a host: requests out, answers in."""

from __future__ import annotations

import contextlib
import json
import threading
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from launcher.errors import LaunchError, SubmitError
from launcher.ssh.agent.serve import BEAT, MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from launcher.process import Running

_NOISE = 1 << 16  # bytes that login scripts may print before the agent says that it is there
_AHEAD = 4  # requests that are sent before the answer to the first of them is read
_PACKED = 1 << 12  # from this size on a body is worth packing


class LostError(SubmitError):
    """The connection ended, whether before or after a request was carried out."""


def sources() -> bytes:
    """Return what the other end's Python reads before any request: the agent."""
    here = Path(__file__).parent / "agent"
    agent = (here / "serve.py").read_bytes() + b"\nmain()\n"
    objects = (here / "objects.py").read_bytes()
    return b"%d\n%b%d\n%b" % (len(agent), agent, len(objects), objects)


class Channel:
    """One agent. Any thread may ask; a request waits for the one before it."""

    def __init__(self, name: str, running: Running, errors: IO[bytes]) -> None:
        """Say hello to what ``running`` starts; raise LostError when it is no agent."""
        self.name, self.running, self.errors = name, running, errors
        assert running.stdin is not None  # noqa: S101 - for the type checker
        assert running.stdout is not None  # noqa: S101
        self._to, self._from = running.stdin, running.stdout
        self._lock = threading.Lock()
        self._broken = False  # in the middle of a request
        self.facts: dict[str, Any] = {}  # what hello told
        self.root = ""  # of the launcher's own code there
        try:
            self._to.write(sources())
            self._to.flush()
        except OSError as error:
            raise self._lost() from error
        noise = 0
        while (line := self._from.readline(_NOISE)) != MARK:
            noise += len(line)
            if not line or noise > _NOISE:
                raise self._lost()

    def ask(
        self,
        request: str,
        body: bytes = b"",
        *,
        heed: Callable[[dict[str, Any]], object] | None = None,
        **head: Any,
    ) -> tuple[Any, bytes]:
        """Return the answer's values and bytes; ``heed`` gets the messages before it.

        SubmitError: it could not be carried out, and why. LostError: the connection has ended.
        """
        with self._asking():
            self._send(request, body, head)
            return self._answer(heed)

    def tell(self, request: str, messages: Iterable[tuple[dict[str, Any], bytes]]) -> None:
        """Have a request carried out for each message; as ``ask``, but a few are on their way."""
        waiting = 0
        with self._asking():
            try:
                for head, body in messages:
                    self._send(request, body, head)
                    waiting += 1
                    if waiting == _AHEAD:
                        waiting -= 1
                        self._answer(None)
                while waiting:
                    waiting -= 1
                    self._answer(None)
            except LostError:
                raise
            except LaunchError:  # what is on its way is answered all the same
                for _ in range(waiting):
                    with contextlib.suppress(SubmitError):
                        self._answer(None)
                raise

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Hold the channel; what breaks off in the middle of an answer leaves it of no use."""
        with self._lock:
            try:
                yield
            except LaunchError:
                raise
            except BaseException:
                self.abort()
                raise

    def abort(self) -> None:
        """Hang up at once, in the middle of a request if there is one."""
        if self._lock.locked():
            self._broken = True
            self.running.kill()

    def _send(self, request: str, body: bytes, head: dict[str, Any]) -> None:
        packed = zlib.compress(body, 1) if _packs(body) else body
        packed = packed if len(packed) < len(body) else body
        values = {"request": request, "packed": packed is not body, **head, "size": len(packed)}
        try:
            self._to.write(json.dumps(values).encode() + b"\n")
            self._to.write(packed)
            self._to.flush()
        except (OSError, ValueError) as error:  # or it is closed already
            raise self._lost() from error

    def _answer(self, heed: Callable[[dict[str, Any]], object] | None) -> tuple[Any, bytes]:
        while True:
            if (line := self._from.readline()) == BEAT:
                continue
            head = json.loads(line) if line.endswith(b"\n") else {}
            data = self._from.read(head["size"]) if head else b""
            if not head or len(data) < head["size"]:
                raise self._lost()
            if "ok" in head:
                return head["ok"], data
            if "error" in head:
                raise SubmitError(
                    f"{self.name}: {head['error']}",
                    hint=head.get("hint", ""),
                    stderr=head.get("trace", ""),
                )
            if heed is not None:
                heed(head)

    @property
    def alive(self) -> bool:
        """Return whether the connection may still be used."""
        return not self._broken and self.running.poll() is None and not self._to.closed

    def _lost(self) -> LostError:
        said = self.close()
        last = (said.strip().splitlines() or ["it ended without a word"])[-1]
        return LostError(
            f"{self.name}: the connection ended: {last}",
            hint="Once it is reached again the same command goes on.",
            exit_status=self.running.returncode,
            stderr=said,
            transient=True,
        )

    def close(self) -> str:
        """Hang up, and return what ssh, and the other end, printed as errors."""
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()
        self.running.wait()
        if self.errors.closed:
            return ""
        with self.errors as errors:
            errors.seek(0)
            return errors.read().decode("utf-8", "replace")


def _packs(body: bytes) -> bool:
    """Return whether to pack a body is worth the time, by a look at some parts of it."""
    if len(body) < _PACKED:
        return False
    sample = b"".join(body[at : at + 1024] for at in range(0, len(body), len(body) // 4))
    return len(zlib.compress(sample, 1)) < 0.9 * len(sample)
