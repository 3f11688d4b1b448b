"""Three RabbitMQ nodes on this machine, which can be stopped, killed and frozen.

This file is also the program that ends them if the process that started them is killed.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import servers
from tests.service import wait_until

SIZE = 3
DEADLINE = 240.0
COOKIE = "the same for all nodes"


class Node:
    """One of the nodes, on ports that stay the same."""

    def __init__(self, commands: Path, directory: Path, epmd: int) -> None:
        """Know where everything of it lies; start nothing."""
        directory.mkdir()
        cookie = directory / ".erlang.cookie"
        cookie.write_text(COOKIE)
        cookie.chmod(0o400)
        self.commands = commands
        port, distribution = servers.free_port(), servers.free_port()
        self.server = servers.RabbitMQ(commands, directory, port, (distribution, epmd))
        self.port = self.server.port
        environment = self.server.environment
        self.name = environment["RABBITMQ_NODENAME"]
        # New nodes get what coordinates the streams within seconds, not within minutes.
        environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += " -rabbit stream_tick_interval 1000"
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}//"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return before it is ready."""
        with (self.server.directory / "output").open("ab") as output:
            command = str(self.commands / "rabbitmq-server")
            self.process = self.server.spawn(command, output=output)

    def ready(self) -> bool:
        """Tell whether it lets clients in."""
        return servers.answers(self.port)

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to all its processes."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signum)

    def kill(self) -> None:
        """Kill it, as a host that is lost."""
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait(DEADLINE)

    def stop(self) -> None:
        """Stop it as systemd does."""
        self.signal(signal.SIGTERM)
        if self.process:
            self.process.wait(DEADLINE)

    def run(self, command: str, *words: str) -> str:
        """Run one of RabbitMQ's commands on it and return what it printed."""
        return self.server.run(command, *words, timeout=DEADLINE)


class Cluster:
    """The nodes, all of them started and the first one alone, until the others join it."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        """Start them; all end with the ``stack``, or with this process."""
        if not (commands := servers.rabbitmq_commands()):
            servers.unavailable("no RabbitMQ here: to have one, apt-get install rabbitmq-server")
        epmd = servers.free_port()
        # What the keeper reads: the leader of each process group, a line each.
        self.groups = directory / "groups"
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster", str(self.groups)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            cwd=Path(__file__).parents[1],
        )
        stack.callback(keeper.communicate)
        self.nodes = [Node(commands, directory / str(number), epmd) for number in range(SIZE)]
        mapper = self.nodes[0].server.spawn_epmd()
        self.keep(mapper)
        stack.callback(mapper.wait)
        stack.callback(mapper.kill)
        wait_until(lambda: servers.listens(epmd), "epmd does not listen")
        for node in self.nodes:
            stack.callback(node.kill)
        self.start(*self.nodes)

    @property
    def url(self) -> str:
        """Return all addresses."""
        return ";".join(node.url for node in self.nodes)

    def keep(self, process: subprocess.Popen[bytes]) -> None:
        """Tell the keeper of a process group."""
        with self.groups.open("a") as file:
            file.write(f"{process.pid}\n")

    def start(self, *nodes: Node) -> None:
        """Start some nodes that are down, and wait until they let clients in."""
        for node in nodes:
            node.start()
            assert node.process
            self.keep(node.process)
        self.wait(lambda: all(node.ready() for node in nodes), "the nodes do not start")

    def join(self) -> None:
        """Let all nodes join the first one, as the README of a generated project says."""
        first, *others = self.nodes
        for node in others:
            for words in (["stop_app"], ["reset"], ["join_cluster", first.name], ["start_app"]):
                node.run("rabbitmqctl", *words)
        self.wait(lambda: all(node.ready() for node in others), "the nodes do not join")

    def mend(self, *queues: str) -> None:
        """Start what is down, wait until all is as it was, and delete some queues."""
        self.start(*[node for node in self.nodes if not node.ready()])
        self.in_sync()
        for name in {queue["name"] for queue in self.queues()} & {*queues}:
            self.ask("delete_queue", name)

    def in_sync(self) -> None:
        """Wait until every replicated queue has all its members."""

        def in_sync() -> bool:
            return all(queue["members"] == queue["online"] for queue in self.queues())

        self.wait(in_sync, "the queues do not recover")

    def queues(self) -> list[dict[str, Any]]:
        """Return what RabbitMQ tells of each queue."""
        columns = ("name", "messages", "leader", "members", "online")
        listed = self.ask("list_queues", *columns, "--formatter", "json")
        queues: list[dict[str, Any]] = json.loads(listed[listed.index("[") :])
        for queue in queues:
            for column in ("members", "online"):
                # A classic queue has none.
                queue[column] = sorted(queue[column] or ())
        return queues

    def messages(self, name: str) -> int:
        """Return how many messages are in a queue, delivered or not."""
        found = [queue["messages"] for queue in self.queues() if queue["name"] == name]
        return int(found[0] or 0) if found else 0

    def coordinators(self) -> int:
        """Return how many nodes take part in coordinating the streams."""
        expression = "length(element(2, ra:members({rabbit_stream_coordinator, node()})))."
        return int(self.ask("eval", expression))

    def ask(self, *words: str) -> str:
        """Run a command of rabbitmqctl on a node that answers."""
        return next(node for node in self.nodes if node.ready()).run("rabbitmqctl", *words)

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """Return as soon as a condition holds; nodes take longer than other processes."""
        wait_until(condition, what, deadline=DEADLINE)


def main() -> None:
    """Wait until nobody holds the other end of the pipe; then kill all groups of the file."""
    sys.stdin.read()
    for group in Path(sys.argv[1]).read_text().split():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(int(group), signal.SIGKILL)


if __name__ == "__main__":
    main()
