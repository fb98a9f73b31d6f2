"""Data that go to hosts: only what a host lacks, and of a file that broke off only the rest."""

from __future__ import annotations

import functools
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from launcher.data import Dataset, there
from launcher.errors import ConfigError, SubmitError
from launcher.show import amount, bytes_text
from launcher.ssh.agent.manifest import LINK, entries, key_of
from launcher.ssh.agent.objects import changed
from launcher.ssh.blocks import BLOCK, LARGE, shared
from launcher.ssh.connection import everywhere
from launcher.ssh.dataset import listing, piece_length, pieces, remembered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from launcher.data import Upload
    from launcher.ssh.channel import Channel
    from launcher.ssh.dataset import Listing

_EARLIER = 10  # other data of a host that are looked at
_COPIES = 16  # blocks that a host copies for one message
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
            digest, size = made.digest, made.extent
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
    _found.cache_clear()
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
            error.hint = f"{error.hint or 'Submit again.'} What has arrived stays there."
            raise


_ONE = threading.Lock()


def _difference(tree: bytes, base: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return what makes ``tree`` of ``base``; for hosts that have the same it is found once."""
    with _ONE:
        return _found(tree, base)


_found = functools.lru_cache(maxsize=4)(changed)


class Entry(NamedTuple):
    """What lies at a path of a tree."""

    mode: bytes
    key: str
    size: int
    path: bytes


@dataclass(slots=True, kw_only=True)
class _Way:
    """One dataset on its way to one host."""

    channel: Channel
    data: Dataset
    made: Listing
    say: Callable[[str], None]
    latest: Sequence[str]  # other data of that host
    come: Sequence[bytes] = ()  # entries that the host's other data do not have
    earlier: Sequence[bytes] | None = None  # the host's other data that are remembered
    lacks: Sequence[tuple[int, int]] = ()  # of these, by number, and how much of each is there
    free: int = 0
    total: int = 0
    sent: int = 0
    began: float = 0.0
    said: float = 0.0

    def prepare(self) -> None:
        """Ask what is lacking, and how much room there is."""
        if not self._ask(*remembered(self.latest)):
            self._ask("", b"")

    def _ask(self, base: str, text: bytes) -> bool:
        """Return False when the host has no other data ``base`` any more."""
        gone, self.come = _difference(self.made.text, text)
        head: dict[str, Any] = {"digest": self.data.digest, "base": base, "gone": len(gone)}
        told = self.channel.ask("data_lacks", b"\0".join((*gone, *self.come)), **head)[0]
        if told:
            self.lacks, self.free = told["lacks"], told["free"]
            self.total = sum(each.size - have for each, have in self._lacking())
        return bool(told)

    def _lacking(self) -> Iterator[tuple[Entry, int]]:
        """Yield what the host lacks, and how much of each is there."""
        for number, have in self.lacks:
            yield Entry(*next(entries(self.come[number]))), have

    def go(self) -> None:
        """Send what is lacking."""
        self.began = time.monotonic()
        if self.total:
            self._tell(f"{bytes_text(self.total)} of {amount(self.data.files, self.data.size)}")
        before: Sequence[tuple[int, int]] | None = None
        copies = True
        while copies or self.lacks != before:  # another one may be sending the same
            self.channel.tell("data_pour", self._messages(copies=copies))
            before, copies = None if copies else self.lacks, False
            self.lacks, _ = self.channel.ask("data_make", digest=self.data.digest)
            if self.lacks is None:
                self._ask("", b"")
            elif not self.lacks:
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

    def _messages(self, *, copies: bool) -> Iterator[Message]:
        """Yield messages of some MB that together hold what is lacking.

        ``copies``: of what is known to be in another file there that file's name takes the place.
        """
        head: list[tuple[str, int, int, int, str]] = []
        body: list[bytes] = []
        filled = 0
        for each, have in self._lacking():
            offset, (source, same) = have, self._before(each) if copies else ("", set[int]())
            for data in self._read(each, have, same) if each.size > have else (b"",):
                length = len(data) or piece_length(offset, each.size, BLOCK)
                head.append((each.key, offset, length, each.size, "" if data else source))
                body.append(data)
                offset += length
                filled += len(data) or length // _COPIES
                if filled >= BLOCK or len(head) >= 4096:
                    yield {"pieces": head}, b"".join(body)
                    self._count(sum(map(len, body)))
                    head, body, filled = [], [], 0
        if head:
            yield {"pieces": head}, b"".join(body)
            self._count(sum(map(len, body)))

    def _before(self, entry: Entry) -> tuple[str, set[int]]:
        """Return the file that the host has of an earlier version of this, and the same blocks."""
        if entry.size < LARGE:
            return "", set()
        if self.earlier is None:
            self.earlier = [remembered([digest])[1] for digest in self.latest[:_EARLIER]]
        for tree in self.earlier:
            at = tree.find(b" %b\0" % entry.path)
            key = key_of(tree[tree.rfind(b"\0", 0, at) + 1 : at] + b" ") if at >= 0 else ""
            if key and (same := shared(key, entry.key)):
                return key, same
        return "", set()

    def _read(self, entry: Entry, offset: int, but: set[int]) -> Iterator[bytes]:
        path = entry.path
        found = self.made.found[path]
        if entry.mode == LINK:
            yield found.target[offset:]
        else:
            try:
                yield from pieces(self.made.place, path, found.stamp, BLOCK, offset, but)
            except OSError as error:
                raise self.made.place.changing(path) from error

    def _count(self, size: int) -> None:
        self.sent += size
        if time.monotonic() > self.said + _SAYS_S:
            rate = self.sent / (time.monotonic() - self.began)
            sent, total = bytes_text(self.sent), bytes_text(self.total)
            self._tell(f"{sent} of {total}, {bytes_text(rate)}/s")
