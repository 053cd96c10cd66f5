"""A TCP proxy between a client and a real server, that makes of the way between them what a bad network makes of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

HOST = "127.0.0.1"
_CHUNK = 65_536


class Proxy:
    """Passes on all that is said, until told otherwise; what it does to replies holds for connections there are, too.

    Attributes:
        delay: seconds by which each piece of a reply comes later.
        reply: what becomes of each piece of a reply.
        cut: close the connection in the middle of a reply.
    """

    def __init__(self, port: int) -> None:
        self._server = HOST, port
        self._listener = socket.create_server((HOST, 0), backlog=0)
        self.port: int = self._listener.getsockname()[1]
        self._passes = threading.Event()
        self._sockets: list[socket.socket] = []
        self.heal()
        threading.Thread(target=self._accept, daemon=True).start()

    def heal(self) -> None:
        """From now on pass on everything as it is, also what a black hole has swallowed."""
        self.delay = 0.0
        self.reply: Callable[[bytes], bytes] = bytes
        self.cut = False
        self._passes.set()

    def black_hole(self) -> None:
        """Nothing arrives any more, on either side, nor any attempt to connect."""
        self._passes.clear()
        for _ in range(3):  # one is still accepted, and two fill the queue: the kernel drops the others
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex((HOST, self.port))
            self._sockets.append(waiting)

    def cut_all(self) -> None:
        """Close every connection that there is."""
        while self._sockets:
            _close(self._sockets.pop())

    def close(self) -> None:
        self.heal()
        _close(self._listener)
        self.cut_all()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._passes.wait()
                try:
                    server = socket.create_connection(self._server)
                except ConnectionRefusedError:
                    _close(client)
                    continue
                self._sockets += [client, server]
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with _until_closed(client, server):
            while data := client.recv(_CHUNK):
                self._passes.wait()
                server.sendall(data)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with _until_closed(client, server):
            while data := server.recv(_CHUNK):
                self._passes.wait()
                time.sleep(self.delay)
                client.sendall(data[: len(data) // 2] if self.cut else self.reply(data))
                if self.cut:
                    return


@contextmanager
def _until_closed(client: socket.socket, server: socket.socket) -> Iterator[None]:
    with suppress(OSError):
        yield
    for each in (client, server):
        _close(each)


def _close(each: socket.socket) -> None:
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)  # whoever reads from it in another thread hears of it
    each.close()


@contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """In front of whatever listens on ``port``."""
    between = Proxy(port)
    try:
        yield between
    finally:
        between.close()
