"""Data that go to hosts: only what a host lacks, and of a file that broke off only the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.data import Dataset, there
from launcher.errors import ConfigError, SubmitError
from launcher.show import amount, bytes_text
from launcher.ssh.connection import everywhere
from launcher.ssh.dataset import listing, pieces, remembered
from launcher.ssh.manifest import LINK, contents, entries, extent
from launcher.ssh.objects import changed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from launcher.data import Upload
    from launcher.ssh.channel import Channel
    from launcher.ssh.dataset import Listing

_PIECE = 4 << 20  # bytes of data that go in one message
_ROOM = 256 << 20  # bytes that are left free on a host
_SAYS_S = 5.0

_LISTED: dict[tuple[str, str], Listing] = {}  # by path and digest: looked at, not sent yet

Message = tuple[dict[str, Any], bytes]


def looked(
    uploads: Mapping[str, Upload], channels: Sequence[Channel], say: Callable[[str], None]
) -> tuple[Dataset, ...]:
    """Return what of the data these hosts have; nothing is sent.

    ConfigError: data are not here, or are not those that were meant and a host has not.
    """
    found = []
    for name, upload in uploads.items():
        digest, text = upload.digest, b""
        told = _known(channels, digest) if digest else []
        if not digest or any(each is None for each in told):
            made = listing(name, upload.path, say)
            if digest and made.digest != digest:
                raise _others(name, upload, channels[told.index(None)])
            digest, text = made.digest, made.text
            _LISTED[upload.path, digest] = made
            told = _known(channels, digest)
        files, size = next(filter(None, told), None) or extent(text)
        found.append(
            Dataset(
                name=name,
                digest=digest,
                source=upload.path,
                path=there(channels[0].facts["workdir"], digest, upload.path),
                files=files,
                size=size,
                lacking=tuple(
                    each.name for each, has in zip(channels, told, strict=True) if has is None
                ),
            )
        )
    return tuple(found)


def _known(channels: Sequence[Channel], digest: str) -> list[tuple[int, int] | None]:
    """Return files and bytes of a dataset on each host that has it."""

    def one(channel: Channel) -> tuple[int, int] | None:
        told, _ = channel.ask("data_known", digests=[digest], use=False)
        return tuple(told["found"][digest]) if digest in told["found"] else None

    return everywhere(one, channels)


def _others(name: str, upload: Upload, channel: Channel) -> ConfigError:
    return ConfigError(
        f"data.{name}.digest={upload.digest}: {channel.name} does not have it any more, and "
        f"{upload.path} holds other data now",
        hint=f"data.{name}.digest=null takes what is there now.",
    )


def carry(channels: Sequence[Channel], data: Sequence[Dataset], say: Callable[[str], None]) -> None:
    """Have data on hosts, whole, when this returns; raise SubmitError and ConfigError.

    What breaks off is taken up where it broke off, by whoever sends the same data next.
    """
    for each in data:
        asks: dict[str, Any] = {"digests": [each.digest], "use": True}
        told = everywhere(lambda channel: channel.ask("data_known", **asks)[0], channels)  # noqa: B023
        lacking = [
            (channel, one["latest"])
            for channel, one in zip(channels, told, strict=True)
            if each.digest not in one["found"]
        ]
        if lacking:
            made = _LISTED.pop((each.source, each.digest), None)
            made = made or listing(each.name, each.source, say)
            if made.digest != each.digest:
                raise made.place.changing()
            ways = [_Way(channel=one, data=each, made=made, say=say) for one, _ in lacking]
            pairs = [(way, latest) for way, (_, latest) in zip(ways, lacking, strict=True)]
            everywhere(lambda pair: pair[0].prepare(pair[1]), pairs)
            everywhere(_Way.go, ways)


@dataclass(slots=True, kw_only=True)
class _Way:
    """One dataset on its way to one host."""

    channel: Channel
    data: Dataset
    made: Listing
    say: Callable[[str], None]
    lacks: Sequence[tuple[int, int]] = ()  # contents by number, and how much of each is there
    sent: int = 0
    total: int = 0
    began: float = 0.0
    said: float = 0.0

    def prepare(self, latest: Sequence[str]) -> None:
        """Ask what is lacking, and whether there is room; ``latest``: other data of that host."""
        base, text = remembered(latest)
        head: dict[str, Any] = {"digest": self.data.digest, "base": base}
        told, _ = self.channel.ask("data_lacks", changed(self.made.text, text), **head)
        self.lacks = told["lacks"]
        self._check_room(told["free"])

    def go(self) -> None:
        """Send what is lacking."""
        self.began = time.monotonic()
        if self.total:
            self._tell(f"{bytes_text(self.total)} of {amount(self.data.files, self.data.size)}")
        lacks, before = self.lacks, None
        while lacks != before:  # another one may be sending the same
            self.channel.tell("data_pour", self._messages(lacks))
            before = lacks
            lacks, _ = self.channel.ask("data_make", digest=self.data.digest)
            if not lacks:
                break
        else:
            raise SubmitError(
                f"{self.channel.name}: data.{self.data.name}: what was sent is gone again",
                hint="Submit again.",
                transient=True,
            )
        if self.sent:
            self._tell(f"{bytes_text(self.sent)} in {time.monotonic() - self.began:.1f} s")

    def _check_room(self, free: int) -> None:
        sizes = list(contents(self.made.text).values())
        self.total = sum(sizes[number] - have for number, have in self.lacks)
        if self.total + _ROOM > free:
            raise SubmitError(
                f"data.{self.data.name}.path={self.data.source}: {self.channel.name} lacks "
                f"{bytes_text(self.total)} of it, and has {bytes_text(free)} of room in "
                f"{self.data.path}",
                hint=f"{bytes_text(_ROOM)} are left free. compute.workdir=/path names a folder on "
                "a larger disk.",
            )

    def _tell(self, what: str) -> None:
        self.said = time.monotonic()
        self.say(f"launcher: data.{self.data.name} to {self.channel.name}: {what}")

    def _messages(self, lacks: Sequence[tuple[int, int]]) -> Iterator[Message]:
        """Yield messages of some MB that together hold what is lacking."""
        where = {key: (mode, size, path) for mode, key, size, path in entries(self.made.text)}
        keys = list(contents(self.made.text))
        head: list[tuple[str, int, int, int]] = []
        body = bytearray()
        for number, have in lacks:
            key = keys[number]
            mode, size, path = where[key]
            offset = have
            for data in self._read(mode, path, have) if size > have else (b"",):
                head.append((key, offset, len(data), size))
                body += data
                offset += len(data)
                if len(body) >= _PIECE or len(head) >= 4096:
                    yield {"pieces": head}, bytes(body)
                    self._count(len(body))
                    head, body = [], bytearray()
        if head:
            yield {"pieces": head}, bytes(body)
            self._count(len(body))

    def _read(self, mode: bytes, path: bytes, offset: int) -> Iterator[bytes]:
        found = self.made.found[path]
        if mode == LINK:
            yield found.target[offset:]
        else:
            try:
                yield from pieces(self.made.place, path, found.stamp, _PIECE, offset)
            except OSError as error:
                raise self.made.place.changing(path) from error

    def _count(self, size: int) -> None:
        self.sent += size
        if time.monotonic() > self.said + _SAYS_S:
            rate = self.sent / (time.monotonic() - self.began)
            sent, total = bytes_text(self.sent), bytes_text(self.total)
            self._tell(f"{sent} of {total}, {bytes_text(rate)}/s")
