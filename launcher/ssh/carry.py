"""Data that go to hosts: only what a host lacks, and of a file that broke off only the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.data import Dataset, there
from launcher.errors import ConfigError, SubmitError
from launcher.show import amount, bytes_text
from launcher.ssh.agent.manifest import LINK, contents, entries, extent
from launcher.ssh.agent.objects import changed
from launcher.ssh.connection import everywhere
from launcher.ssh.dataset import listing, pieces, remembered

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
        digest, size = upload.digest, (0, 0)
        told = _known(channels, digest, extent=True) if digest else []
        size = next((each["extent"] for each in told if each["here"]), size)
        if not digest or not all(each["here"] for each in told):
            made = listing(name, upload.path, say)
            if digest and made.digest != digest:
                lacks = next(c for c, one in zip(channels, told, strict=True) if not one["here"])
                raise _others(name, upload, lacks)
            digest, size = made.digest, extent(made.text)
            _LISTED[upload.path, digest] = made
            told = _known(channels, digest)
        pairs = zip(channels, told, strict=True)
        found.append(
            Dataset(
                name=name,
                digest=digest,
                source=upload.path,
                path=there(channels[0].facts["workdir"], digest, upload.path),
                files=size[0],
                size=size[1],
                lacking=tuple(channel.name for channel, one in pairs if not one["here"]),
            )
        )
    return tuple(found)


def _known(
    channels: Sequence[Channel], digest: str, *, use: bool = False, extent: bool = False
) -> list[dict[str, Any]]:
    """Return what each host tells of data of a digest."""
    asks: dict[str, Any] = {"digest": digest, "use": use, "extent": extent}
    return everywhere(lambda channel: channel.ask("data_known", **asks)[0], channels)


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
    each_once = {each.digest: each for each in data}.values()
    ways = [way for each in each_once for way in _ways(each, channels, say)]
    everywhere(_Way.prepare, ways)
    each_host = [[way for way in ways if way.channel is channel] for channel in channels]
    for mine in each_host:
        _check_room(mine)
    everywhere(_go, each_host)


def _ways(data: Dataset, channels: Sequence[Channel], say: Callable[[str], None]) -> Iterator[_Way]:
    """Yield the ways to the hosts that lack a dataset."""
    told = _known(channels, data.digest, use=True)
    lacking = [each for each in zip(channels, told, strict=True) if not each[1]["here"]]
    if lacking:
        made = _LISTED.pop((data.source, data.digest), None)
        made = made or listing(data.name, data.source, say)
        if made.digest != data.digest:
            raise made.place.changing()
        for channel, one in lacking:
            yield _Way(channel=channel, data=data, made=made, say=say, latest=one["latest"])


def _check_room(ways: Sequence[_Way]) -> None:
    """Raise SubmitError when a host has no room for all that it lacks."""
    total = 0
    for way in ways:
        total += way.total
        if way.total and total + _ROOM > way.free:
            raise SubmitError(
                f"data.{way.data.name}.path={way.data.source}: {way.channel.name} lacks "
                f"{bytes_text(total)} of data, and has {bytes_text(way.free)} of room in "
                f"{way.channel.facts['workdir']}",
                hint=f"{bytes_text(_ROOM)} are left free. compute.workdir=/path names a folder on "
                "a larger disk.",
            )


def _go(ways: Sequence[_Way]) -> None:
    for way in ways:
        try:
            way.go()
        except SubmitError as error:
            error.hint = error.hint or "What has arrived stays there: submit again, and it goes on."
            raise


@dataclass(slots=True, kw_only=True)
class _Way:
    """One dataset on its way to one host."""

    channel: Channel
    data: Dataset
    made: Listing
    say: Callable[[str], None]
    latest: Sequence[str]  # other data of that host
    lacks: Sequence[tuple[int, int]] = ()  # contents by number, and how much of each is there
    free: int = 0
    total: int = 0
    sent: int = 0
    began: float = 0.0
    said: float = 0.0

    def prepare(self) -> None:
        """Ask what is lacking, and how much room there is."""
        told = self._lacking(*remembered(self.latest)) or self._lacking("", b"")
        self.lacks, self.free = told["lacks"], told["free"]
        sizes = list(contents(self.made.text).values())
        self.total = sum(sizes[number] - have for number, have in self.lacks)

    def _lacking(self, base: str, text: bytes) -> dict[str, Any]:
        """Return what the host tells; {} when it has no other data ``base`` any more."""
        gone, come = changed(self.made.text, text)
        head: dict[str, Any] = {"digest": self.data.digest, "base": base, "gone": len(gone)}
        told: dict[str, Any] = self.channel.ask("data_lacks", b"\0".join((*gone, *come)), **head)[0]
        return told

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
