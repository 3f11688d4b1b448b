"""Where each broker bends: a long backlog, many workers, types, queues, and many delayed tasks.

Each figure has the processor time of the broker and of the workers beside it: from these, `page.py`
works out in `docs/scaling.md` what a hundred machines would need.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks import lab
from benchmarks.lab import GENERATED, Contestant
from tests import faults

BROKERS = ("redis", "rabbitmq")
PATIENT = {"CELERY_TASK_TIME_LIMIT": "7200"}  # a worker is held while its queue is filled
QUICK = {"backlog": [10_000], "workers": [1, 4], "types": [100], "queues": [10], "later": 2_000}
FULL = {
    "backlog": [10_000, 100_000, 1_000_000],
    "workers": [1, 2, 4, 8, 16],
    "types": [1, 100, 1000],
    "queues": [10, 50],
    "later": 50_000,
}
SLOW = 0.1  # seconds of a task where workers are compared: they wait, and share two processors
IDLE = 5.0  # seconds
SETTLING, AT_REST = 120.0, 0.1  # seconds at the most, and of processor in one of them
NOT_KEPT = (False,)


class Server:
    """A broker of one's own, whose process can be looked at."""

    def __init__(self, stack: contextlib.ExitStack, broker: str, directory: Path) -> None:
        """Start it."""
        self.server: faults.Redis | faults.RabbitMQ
        if broker == "redis":
            self.server = faults.Redis(directory / "redis")
            stack.callback(self.server.stop)
            self.url = f"{self.server.url}/0"
        else:
            self.server = faults.RabbitMQ(directory / "rabbitmq", stack, own=True)
            self.url = self.server.url

    @property
    def process(self) -> psutil.Process:
        """The process of the server itself: RabbitMQ's is a child of its script."""
        if isinstance(self.server, faults.Redis):
            with self.server.client(0) as client:
                return psutil.Process(client.info("server")["process_id"])
        family = lab.family(self.server.process.pid)
        return next(each for each in family if "beam" in each.name())

    def used(self) -> float:
        """Return the seconds of processor that it has used."""
        times = self.process.cpu_times()
        return times.user + times.system

    def settle(self) -> None:
        """Wait until it has done what it puts off: RabbitMQ writes messages out for ten seconds."""
        busy, until = 1.0, time.monotonic() + SETTLING
        while busy > AT_REST and time.monotonic() < until:
            before = self.used()
            time.sleep(1)
            busy = self.used() - before

    def mebibytes(self) -> float:
        """Return its memory."""
        return self.process.memory_info().rss / 2**20


@contextlib.contextmanager
def alone(
    directory: Path, broker: str, processes: int, *, workers: int = 1, **env: str
) -> Iterator[tuple[Server, Contestant]]:
    """Give a server of its own with a contestant on it."""
    made = lab.project(directory, broker=broker)
    place = directory / f"server-{broker}-{time.monotonic_ns()}"
    place.mkdir()
    with contextlib.ExitStack() as stack:
        server = Server(stack, broker, place)
        own = stack.enter_context(
            lab.contestant(
                made,
                broker,
                GENERATED,
                processes,
                PATIENT | env,
                workers=workers,
                url=server.url,
            )
        )
        yield server, own


def timed(server: Server, own: Contestant, count: int, *call: Any) -> dict[str, float]:  # noqa: ANN401
    """Measure a batch, and the broker's share of it: with what it took to be sent."""
    before = server.used()
    done = own.timed(count, *call)
    broker_ms = 1000 * (server.used() - before) / count
    processor_ms = 1000 * done["processor"]
    return {
        "per_second": done["per_second"],
        "broker_ms": broker_ms,
        "processor_ms": processor_ms,
    }


def backlog(directory: Path, broker: str, sizes: list[int], count: int) -> list[dict[str, Any]]:
    """Return what a worker does in front of a backlog, and what the backlog costs the broker."""
    rows = []
    for size in sizes:
        with alone(directory, broker, 2) as (server, own):
            empty = server.mebibytes()
            done = own.timed(count, "backlog", 2, count, size)
            row = {"backlog": size, "per_second": done["per_second"]}
            row["bytes_per_message"] = (server.mebibytes() - empty) * 2**20 / size
            row["delay_per_second"] = own.sender.call("delay", 300)
            row["worker_mib"] = lab.memory(own.workers[0].process.pid)
            own.workers[0].kill()  # the rest is thrown away with the server
            rows.append(row)
            lab.say(broker, row)
    return rows


def workers(directory: Path, broker: str, counts: list[int]) -> list[dict[str, Any]]:
    """Return what more workers do, each of one process, and what they cost the broker at rest."""
    rows = []
    for number in counts:
        with alone(directory, broker, 1, workers=number) as (server, own):
            count = 40 * number
            done = timed(server, own, count, "fill", number, count, SLOW, *NOT_KEPT)
            before = server.used()
            time.sleep(IDLE)
            done["idle_ms_per_worker"] = 1000 * (server.used() - before) / IDLE / number
            port = int(server.url.rpartition(":")[2].strip("/").partition("/")[0])
            pids = [each.pid for each in lab.family(own.workers[0].process.pid)]
            done["connections"] = sum(connections(pid, port) for pid in pids)
            rows.append({"workers": number, "ideal": number / SLOW, **done})
            lab.say(broker, rows[-1])
    return rows


def connections(pid: int, port: int) -> int:
    """Return how many connections a process has to a port."""
    found = psutil.Process(pid).net_connections(kind="tcp")
    return sum(1 for each in found if each.raddr[1:] == (port,))


def kinds(
    directory: Path, broker: str, types: list[int], queues: list[int], count: int
) -> list[dict[str, Any]]:
    """Return what a worker does with many types of tasks, and with many queues."""
    rows = []
    for task_types, queue_count in [(n, 1) for n in types] + [(1, n) for n in queues]:
        names = [f"q{number}" for number in range(queue_count)]
        env = {"BENCH_TYPES": str(task_types)}
        with alone(directory, broker, 2, workers=0, **env) as (server, own):
            own.start_worker("--queues", ",".join(names))
            timed(server, own, 40, "spread", 2, 40, names)
            done = timed(server, own, count, "spread", 2, count, names)
            rows.append({"types": task_types, "queues": queue_count, **done})
            lab.say(broker, rows[-1])
    return rows


def later(directory: Path, broker: str, number: int, count: int) -> dict[str, Any]:
    """Return what a worker does while so many tasks wait for their countdown."""
    with alone(directory, broker, 2) as (server, own):
        pid = own.workers[0].process.pid
        own.batch(100, 0, keep=False)
        before = own.batch(count, 0, keep=False)
        row: dict[str, Any] = {
            "waiting": number,
            "mib_before": lab.memory(pid),
            "broker_mib": server.mebibytes(),
        }
        row["sent_per_second"] = own.sender.call("later", number, 3600)
        server.settle()
        after = own.batch(count, 0, keep=False)
        row |= {"mib_after": lab.memory(pid), "broker_mib_after": server.mebibytes()}
        row["per_second"] = [before["per_second"], after["per_second"]]
        start = time.monotonic()
        own.workers[0].stop()
        row["stop_seconds"] = time.monotonic() - start
        lab.say(broker, row)
    return row


def run(directory: Path, *, quick: bool) -> None:
    """Measure, and write the result file."""
    sizes: dict[str, Any] = QUICK if quick else FULL
    count = 600 if quick else 3000
    about = lab.conditions(1)
    figures: dict[str, Any] = {"processors": os.cpu_count()}
    for broker in BROKERS:
        figures[broker] = {
            "backlog": backlog(directory, broker, sizes["backlog"], count),
            "workers": workers(directory, broker, sizes["workers"]),
            "kinds": kinds(directory, broker, sizes["types"], sizes["queues"], count),
            "later": later(directory, broker, sizes["later"], count),
        }
    lab.write("scale", about, figures)
