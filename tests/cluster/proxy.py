"""A host's way out: an HTTP proxy on the host's own loopback, which dials from this machine.

Why: pip on a host must reach packages as this machine does, whatever that takes (names, routes, a
proxy). Routes and NAT would need this machine's settings changed; and here nothing listens but
inside the host. It knows CONNECT only, which is all that TLS needs.

Run as a script, with the process id of the host's first process and, if this machine has a proxy,
with that proxy's address; it ends when the host does.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sys
from contextlib import suppress

PORT = 3128
CLONE_NEWNET = 0x40000000  # Source: setns(2)


def listen(host: int) -> socket.socket:
    """Return a socket that listens on a host's loopback; this process stays where it is."""
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(namespace: int) -> None:
        if libc.setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    enter(os.open(f"/proc/{host}/ns/net", os.O_RDONLY))
    listening = socket.create_server(("127.0.0.1", PORT))
    enter(here)
    return listening


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Pass on what comes, and that it has ended."""
    with suppress(OSError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
        target.write_eof()


async def serve(upstream: str, inward: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Connect one client with what it asks for."""
    reader, writer = inward
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        method, asked, _ = head.decode("latin-1").split(None, 2)
        address, _, port = (upstream or asked).rpartition(":")
        if method != "CONNECT":
            writer.write(b"HTTP/1.1 501 CONNECT only\r\n\r\n")
            return
        there, back = await asyncio.open_connection(address.strip("[]"), int(port))
    except (OSError, ValueError, asyncio.IncompleteReadError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        writer.write(b"HTTP/1.1 502 Cannot be reached\r\n\r\n")
        return
    try:
        if upstream:
            back.write(head)
        else:
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(copy(reader, back), copy(there, writer))
    finally:
        back.close()


async def main(host: int, upstream: str) -> None:
    """Serve until the host ends."""
    end = asyncio.Event()
    asyncio.get_running_loop().add_reader(os.pidfd_open(host), end.set)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(upstream, (reader, writer))
        finally:
            writer.close()

    await asyncio.start_server(client, sock=listen(host))
    print("listening", flush=True)
    await end.wait()
    os._exit(0)  # a look-up of a name may still be on its way


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
