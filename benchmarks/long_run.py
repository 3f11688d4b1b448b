"""A long run at 80 % load, with workers killed, restarted and scaled, and the broker restarted.

Each second, the memory of every worker, the length of the queue and the tasks that are done are
noted. At the end, each task that the broker accepted has to be done: none is lost or stuck.
"""

import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from benchmarks import lab
from benchmarks.lab import Contestant
from benchmarks.scale import BROKERS, Server, alone
from tests.service import Process

MINUTES = float(os.environ.get("BENCH_MINUTES", "10"))
SECONDS, LOAD = 0.02, 0.8
WORKERS, PROCESSES = 2, 2
# A killed worker's tasks come back within twice the time limit.
LIMIT = 10


class Run:
    """A service under load, and what was noted of it."""

    def __init__(self, server: Server, own: Contestant, duration: float) -> None:
        """Begin with nothing noted."""
        self.server, self.own, self.duration = server, own, duration
        self.samples: list[dict[str, Any]] = []
        self.happened: list[tuple[float, str]] = []

    def kill(self, index: int) -> None:
        """Kill a worker with all its processes, and start another one."""
        self.own.workers[index].kill()
        self.own.start_worker()

    def restart(self, index: int) -> None:
        """Start a worker, then end an old one by SIGTERM, as a deployment does."""
        self.own.start_worker()
        self.own.workers[index].process.terminate()

    def grow(self) -> None:
        """Start two workers more."""
        for _ in range(2):
            self.own.start_worker()

    def shrink(self) -> None:
        """End the last two by SIGTERM."""
        for worker in self.own.workers[-2:]:
            worker.process.terminate()

    def restart_broker(self) -> None:
        """Restart the broker."""
        self.server.server.stop(signal.SIGTERM)
        self.server.server.start()

    def events(self) -> list[tuple[float, str, Callable[[], None]]]:
        """Return what happens, and at which part of the run. The first worker is left alone."""
        return [
            (0.15, "a worker killed", lambda: self.kill(1)),
            (0.3, "two workers more", self.grow),
            (0.45, "two workers less", self.shrink),
            (0.6, "the broker restarted", self.restart_broker),
            (0.8, "a worker restarted", lambda: self.restart(2)),
        ]

    def go(self, rate: float) -> dict[str, Any]:
        """Send, let things happen, and return what came of it."""
        done = self.own.directory / "done"
        done.touch()
        self.own.sender.ask("steady", rate, self.duration, SECONDS)
        start = time.monotonic()
        events = self.events()
        while (now := time.monotonic() - start) < self.duration:
            if events and now > events[0][0] * self.duration:
                _, name, happen = events.pop(0)
                lab.say(name)
                self.happened.append((now, name))
                happen()
            self.sample(now, len(done.read_text().splitlines()))
            time.sleep(max(0.1, min(1, self.duration / 120)))
        accepted = self.own.sender.answer()
        return {"accepted": len(accepted), **self.settle(accepted)}

    def sample(self, now: float, done: int) -> None:
        """Note how things are."""
        running = [each for each in self.own.workers if each.process.poll() is None]
        self.samples.append(
            {
                "seconds": now,
                "done": done,
                "queued": self.queued(),
                "mib": [main_memory(each) for each in running],
            }
        )

    def queued(self) -> int | None:
        """Return the length of the queue, or nothing while the broker is away."""
        try:
            return self.server.server.queued("my_service")
        except Exception:  # noqa: BLE001  # each broker has its own
            return None

    def settle(self, accepted: list[str]) -> dict[str, Any]:
        """Wait until all is done, or until nothing more can come; count what is not."""
        done = self.own.directory / "done"
        end = time.monotonic() + 6 * LIMIT
        while {*accepted} - {*self.names(done)} and time.monotonic() < end:
            time.sleep(0.2)
        runs = Counter(self.names(done))
        missing = {*accepted} - {*runs}
        left = (self.queued() or 0) + len(self.server.server.fetched())
        first = [each["mib"][0] for each in self.samples]
        third = len(first) // 3
        return {
            "lost": len(missing) - min(left, len(missing)),
            "stuck": min(left, len(missing)),
            "twice": sum(1 for name in runs if runs[name] > 1),
            "mib_first_third": statistics.median(first[:third]),
            "mib_last_third": statistics.median(first[-third:]),
        }

    def names(self, done: Path) -> list[str]:
        """Return the tasks that are done."""
        return [line.split()[0] for line in done.read_text().splitlines()]


def main_memory(worker: Process) -> float:
    """Return the MiB of a worker's main process; its children are replaced as they grow."""
    try:
        memory: float = psutil.Process(worker.process.pid).memory_info().rss / 2**20
    except psutil.Error:
        return 0
    return memory


def measure(directory: Path, broker: str, minutes: float) -> dict[str, Any]:
    """Return what came of a run, with what was noted each second."""
    limits = {"CELERY_TASK_TIME_LIMIT": str(LIMIT), "CELERY_VISIBILITY_TIMEOUT": str(2 * LIMIT)}
    with alone(directory, broker, PROCESSES, workers=WORKERS, **limits) as (server, own):
        own.batch(20, 0, keep=False)
        able = own.batch(int(4 / SECONDS), SECONDS, keep=False)["per_second"]
        run = Run(server, own, 60 * minutes)
        outcome = run.go(LOAD * able)
        lab.say(broker, outcome)
        return {"rate": LOAD * able, **outcome, "events": run.happened, "samples": run.samples}


def run(directory: Path, *, quick: bool) -> None:
    """Measure, and write the result file."""
    minutes = min(1, MINUTES) if quick else MINUTES
    about = lab.conditions(1)
    brokers = BROKERS[:1] if quick else BROKERS
    figures = {broker: measure(directory, broker, minutes) for broker in brokers}
    lab.write("long_run", about, {"minutes": minutes, **figures})
