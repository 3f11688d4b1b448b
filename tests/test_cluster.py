"""RabbitMQ on three nodes: workers and senders go on when one of them is lost."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import Bake
from tests.service import DEADLINE, Service, wait_until

SEND = """
import sys, time
from celery_app import app
from tests.fault_tasks import work

failed, longest, number = 0, 0.0, 0
end = time.monotonic() + 25
while time.monotonic() < end:
    start = time.monotonic()
    try:
        work.delay(sys.argv[1], f"t{number}", 0.02)
    except Exception as error:
        failed += 1
        print(f"failed: {error!r}")
    number += 1
    longest = max(longest, time.monotonic() - start)
    time.sleep(0.05)
print(f"sent {number}, {failed} failed, the longest took {longest:.1f} s")
"""


class Cluster:
    """Three nodes, in one directory."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        """Start them, and let two of them join the first."""
        commands = servers.rabbitmq_commands()
        if not commands:
            servers.unavailable("no RabbitMQ here: to have one, apt-get install rabbitmq-server")
        self.commands = commands
        epmd = servers.free_port()
        mapper = subprocess.Popen(
            [shutil.which("epmd") or "epmd", "-port", str(epmd)], start_new_session=True
        )
        stack.callback(mapper.wait)
        stack.callback(mapper.kill)
        self.nodes, self.processes = [], []
        for number in range(3):
            home = directory / str(number)
            home.mkdir()
            (home / ".erlang.cookie").write_text("the same for all")
            (home / ".erlang.cookie").chmod(0o400)
            others = (servers.free_port(), epmd)
            node = servers.RabbitMQ(commands, home, servers.free_port(), others)
            process = node.spawn(str(commands / "rabbitmq-server"))
            stack.callback(self.kill, number)
            self.nodes.append(node)
            self.processes.append(process)
        self.wait()
        for node in self.nodes[1:]:
            for words in (
                ["stop_app"],
                ["reset"],
                ["join_cluster", self.nodes[0].environment["RABBITMQ_NODENAME"]],
                ["start_app"],
            ):
                command = [str(commands / "rabbitmqctl"), "--quiet", *words]
                subprocess.run(command, env=node.environment, check=True, timeout=DEADLINE)
        self.wait()
        addresses = [f"amqp://guest:guest@127.0.0.1:{node.port}//" for node in self.nodes]
        self.url = ";".join(addresses)

    def wait(self) -> None:
        """Wait until each node answers."""
        wait_until(lambda: all(servers.answers(node.port) for node in self.nodes), "the nodes")

    def kill(self, number: int) -> None:
        """Kill a node, as a host that is lost."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.processes[number].pid, signal.SIGKILL)
        self.processes[number].wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Give a cluster, and end it."""
    with contextlib.ExitStack() as stack:
        yield Cluster(stack, tmp_path)


@pytest.mark.timeout(600)
def test_workers_and_senders_go_on_without_the_node_that_all_are_connected_to(
    synced: Bake, cluster: Cluster, tmp_path: Path
) -> None:
    project = synced(project_type="celery", broker="rabbitmq", result_backend="none")
    notes = tmp_path / "notes"
    notes.touch()
    with Service(project, cluster.url, env={"HEARTBEAT_DIR": str(tmp_path)}) as service:
        options = ("--include", "tests.fault_tasks", "--without-mingle")
        workers = [service.worker(*options, name=name) for name in ("one", "two")]
        sender = service.start(project.path / ".venv" / "bin" / "python", "-c", SEND, notes)

        def ends() -> int:
            return notes.read_text().count("end ")

        wait_until(lambda: ends() > 20, "the first tasks")
        cluster.kill(0)
        start, before = time.monotonic(), ends()
        wait_until(lambda: ends() > before + 20, "tasks that are done without it")
        print(f"measured: the next 20 tasks took {time.monotonic() - start:.1f} s")  # noqa: T201

        # A new worker starts, remote control answers, and SIGTERM is obeyed.
        workers.append(service.worker(*options, name="three"))
        status = service.run("uv", "run", "celery", "-A", "celery_app", "status").stdout
        assert all(f"{name}@" in status for name in ("one", "two", "three"))
        sender.wait_for(r"sent \d+")
        report = re.search(r"sent (\d+), (\d+) failed", sender.output)
        assert report
        sent, failed = map(int, report.groups())
        assert failed == 0, sender.output
        wait_until(lambda: ends() >= sent, "the end of each task")
        assert [worker.stop() for worker in workers] == [0, 0, 0]
