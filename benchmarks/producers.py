"""How many tasks are sent in a second: by `delay`, by the web view, and many at once."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import lab
from benchmarks.latency import CONTESTANTS, post, serve
from tests import servers
from tests.service import Service

SIZE = 100  # of a chunk, as in the recipe
CLIENTS = 8


def web(directory: Path, broker: str, count: int) -> float:
    """Return how many tasks gunicorn sends in a second, for several clients."""
    made = lab.project(directory, project_type="django", broker=broker)
    with (
        servers.addresses(broker, "redis") as env,
        Service(made, env.pop("CELERY_BROKER_URL"), env=env) as service,
        ThreadPoolExecutor(CLIENTS) as clients,
    ):
        url = f"{serve(service)}/jobs/add/"
        list(clients.map(post, [url] * CLIENTS * 4))
        start = time.perf_counter()
        list(clients.map(post, [url] * count))
        return count / (time.perf_counter() - start)


def run(directory: Path, *, quick: bool) -> None:
    """Measure, and write the result file."""
    rounds, calls, requests = (3, 500, 200) if quick else (9, 3000, 1000)
    about = lab.conditions(rounds)
    figures: dict[str, list[dict[str, object]]] = {"delay": [], "web": []}
    with contextlib.ExitStack() as stack:
        senders = [
            stack.enter_context(
                lab.contestant(
                    lab.project(directory, broker=broker), broker, settings, 1, workers=0
                )
            ).sender
            for broker, settings in CONTESTANTS
        ]
        runs = lab.in_turns(
            senders,
            lambda own: (own.call("delay", calls), own.call("chunks", 20 * calls, SIZE)),
            rounds,
        )
    for (broker, settings), own in zip(CONTESTANTS, runs, strict=True):
        plain, chunks = zip(*own, strict=True)
        lab.say("delay, chunks:", broker, settings, lab.spread(plain)[0], lab.spread(chunks)[0])
        row = {"broker": broker, "settings": settings}
        figures["delay"].append({**row, "delay_per_second": plain, "chunks_per_second": chunks})
    brokers = ["redis", "rabbitmq"]
    rates = lab.in_turns(brokers, lambda broker: web(directory, broker, requests), rounds)
    for broker, own in zip(brokers, rates, strict=True):
        figures["web"].append({"broker": broker, "per_second": own})
    lab.write("producers", about, figures)
