"""How long a task waits, from publish to start, with a worker at rest and at work; the web view.

At work means 80 % of what the worker is able to do, in tasks of 10 ms, at random moments.
"""

import contextlib
import json
import time
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import lab
from benchmarks.lab import GENERATED, TUTORIAL, Contestant
from tests import servers
from tests.service import Service

CONTESTANTS = [
    (broker, settings) for broker in ("redis", "rabbitmq") for settings in (TUTORIAL, GENERATED)
]
PROCESSES = 2
SECONDS = 0.01
LOAD = 0.8
IDLE_RATE = 10.0  # tasks a second


def stream(own: Contestant, rate: float, duration: float) -> list[float]:
    """Send tasks for so long; return the milliseconds that each waited."""
    told = own.directory / "told"
    told.unlink(missing_ok=True)
    sent = own.sender.call("stream", rate, duration, SECONDS)
    lab.wait_for(lambda: len(told.read_text().splitlines()) >= sent, "all have started")
    return [1000 * float(line) for line in told.read_text().split()]


def measure(directory: Path, *, rounds: int, duration: float) -> list[dict[str, Any]]:
    """Return a row for each contestant, at rest and at work."""
    with contextlib.ExitStack() as stack:
        runners = [
            stack.enter_context(
                lab.contestant(lab.project(directory, broker=broker), broker, settings, PROCESSES)
            )
            for broker, settings in CONTESTANTS
        ]
        able = [own.batch(200, SECONDS, keep=False)["per_second"] for own in runners]
        # The same for all, so that what differs is not the load.
        rates = {"idle": IDLE_RATE, "busy": LOAD * min(able)}
        rows = []
        for state, rate in rates.items():
            runs = lab.in_turns(runners, partial(stream, rate=rate, duration=duration), rounds)
            for (broker, settings), own in zip(CONTESTANTS, runs, strict=True):
                figures = {
                    "p50_ms": [lab.percentile(each, 0.5) for each in own],
                    "p99_ms": [lab.percentile(each, 0.99) for each in own],
                }
                lab.say(state, broker, settings, *(lab.spread(v)[0] for v in figures.values()))
                row = {"broker": broker, "settings": settings, "state": state, "rate": rate}
                rows.append(row | figures)
    return rows


def web(directory: Path, broker: str, count: int) -> list[float]:
    """Return the milliseconds in which the view of a Django project answers 202, under gunicorn."""
    made = lab.project(directory, project_type="django", broker=broker)
    with (
        servers.addresses(broker, "redis") as env,
        Service(made, env.pop("CELERY_BROKER_URL"), env=env) as service,
    ):
        url = serve(service)
        return [1000 * post(f"{url}/jobs/add/") for _ in range(count + 10)][10:]


def serve(service: Service) -> str:
    """Start gunicorn as in production, and return its URL."""
    port = servers.free_port()
    env = {"DATABASE_URL": f"sqlite:///{service.directory}/db.sqlite3", "PORT": str(port)}
    service.env |= env
    service.run("uv", "run", "python", "manage.py", "migrate")
    service.start("uv", "run", "gunicorn")
    lab.wait_for(lambda: servers.listens(port), "the web server listens")
    return f"http://127.0.0.1:{port}"


def post(url: str) -> float:
    """Ask for a sum, and return the seconds until 202 was answered."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps({"x": 1, "y": 1}).encode(), headers)  # noqa: S310
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        answer.read()
    if answer.status != 202:
        raise RuntimeError(f"{url} answers {answer.status}")
    return time.perf_counter() - start


def run(directory: Path, *, quick: bool) -> None:
    """Measure, and write the result file."""
    rounds, duration, count = (2, 5.0, 50) if quick else (5, 20.0, 500)
    about = lab.conditions(rounds)
    rows = measure(directory, rounds=rounds, duration=duration)
    runs = lab.in_turns(["redis", "rabbitmq"], lambda broker: web(directory, broker, count), rounds)
    views = [
        {
            "broker": broker,
            "p50_ms": [lab.percentile(each, 0.5) for each in own],
            "p99_ms": [lab.percentile(each, 0.99) for each in own],
        }
        for broker, own in zip(["redis", "rabbitmq"], runs, strict=True)
    ]
    lab.write("latency", about, {"tasks": rows, "web": views})
