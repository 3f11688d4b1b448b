"""Tasks a second, and the processor time of a task: as generated, and with the settings of others.

Every contestant has a server and a worker of its own, which stays; in each round, each gets a batch
of tasks. The queue is filled while the worker is held, so that it does not share the processor with
the sender. The figures hold what each batch gave; `page.py` makes ratios of them.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks import lab
from benchmarks.lab import DJANGO, GENERATED, KOMBU, TINY, TUTORIAL, TWO, Contestant
from tests import servers

Rows: TypeAlias = list[dict[str, Any]]

# Broker and settings; the first is what the others are compared with.
CONTESTANTS = [
    ("redis", TUTORIAL),
    ("redis", GENERATED),
    ("redis", TWO),
    ("redis", KOMBU),
    ("redis", DJANGO),
    ("redis", TINY),
    ("rabbitmq", TUTORIAL),
    ("rabbitmq", GENERATED),
    ("rabbitmq", TINY),
]
# Of each task: seconds, and how many a process gets in a batch.
LONG = {0.0: 1500, 0.001: 800, 0.01: 200, 0.1: 25}
SHORT = {0.0: 400, 0.01: 60}
# What a worker of the project is asked to do beside its tasks: environment, and options.
BESIDE = {"metrics": "METRICS_PORT", "task events": "-E"}


def wanted(processes: int, *, quick: bool) -> Iterator[tuple[float, bool]]:
    """Yield the tasks of so many processes: seconds, and whether results are kept."""
    for seconds in SHORT if quick else LONG:
        yield seconds, True
        if processes == 2 and seconds in SHORT:
            yield seconds, False


def compare(runners: list[Contestant], task: tuple[float, bool], rounds: int, count: int) -> Rows:
    """Return a row for each contestant, which all do the same task."""
    seconds, keep = task

    def batch(own: Contestant) -> dict[str, float]:
        # The settings for tiny tasks ignore results.
        done = own.batch(count, seconds, keep=keep and own.settings != TINY)
        lab.say(own.processes, seconds, keep, own.broker, own.settings, *done.values())
        return done

    outcomes = lab.in_turns(runners, batch, rounds)
    return [
        {
            "broker": own.broker,
            "settings": own.settings,
            "processes": own.processes,
            "seconds": seconds,
            "results": keep,
            "per_second": [each["per_second"] for each in runs],
            "processor_ms": [1000 * each["processor"] for each in runs],
        }
        for own, runs in zip(runners, outcomes, strict=True)
    ]


def measure(directory: Path, *, quick: bool, rounds: int) -> Rows:
    """Return the rows of every number of processes and every task."""
    rows = []
    tasks = SHORT if quick else LONG
    for processes in [2] if quick else [1, 2, 4]:
        with contextlib.ExitStack() as stack:
            runners = [
                stack.enter_context(
                    lab.contestant(
                        lab.project(directory, broker=broker), broker, settings, processes
                    )
                )
                for broker, settings in CONTESTANTS
            ]
            for own in runners:  # connects, and brings the code into memory
                own.batch(20 * processes, 0, keep=False)
            for task in wanted(processes, quick=quick):
                rows += compare(runners, task, rounds, tasks[task[0]] * processes)
    return rows


def beside(directory: Path, *, quick: bool, rounds: int) -> Rows:
    """Return what metrics and task events cost a worker, for tasks that take no time."""
    made = lab.project(directory, broker="redis")
    kinds = ["nothing", *BESIDE]
    with contextlib.ExitStack() as stack:
        runners = []
        for kind in kinds:
            env = {"METRICS_PORT": str(servers.free_port())} if kind == "metrics" else {}
            own = stack.enter_context(lab.contestant(made, "redis", GENERATED, 2, env, workers=0))
            own.start_worker(*(["-E"] if kind == "task events" else []))
            own.batch(40, 0, keep=False)
            runners.append(own)
        count = (SHORT if quick else LONG)[0.0] * 2
        outcomes = lab.in_turns(runners, lambda own: own.batch(count, 0, keep=False), rounds)
    return [
        {
            "with": kind,
            "per_second": [each["per_second"] for each in runs],
            "processor_ms": [1000 * each["processor"] for each in runs],
        }
        for kind, runs in zip(kinds, outcomes, strict=True)
    ]


def run(directory: Path, *, quick: bool) -> None:
    """Measure, and write the result file."""
    rounds = 3 if quick else 7
    about = lab.conditions(rounds)
    rows = measure(directory, quick=quick, rounds=rounds)
    figures = {"tasks": rows, "beside": beside(directory, quick=quick, rounds=rounds)}
    lab.write("throughput", about, figures)
