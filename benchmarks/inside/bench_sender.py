"""Sends the tasks that are measured: reads calls as lines of JSON, answers each with a line."""

import contextlib
import json
import random
import sys
import time
from collections.abc import Iterator

from bench_app import GATE, app, do, hold, more, tell, work  # type: ignore[import-not-found]
from kombu.exceptions import OperationalError
from kombu.messaging import Producer


@contextlib.contextmanager
def hasty() -> Iterator[Producer]:
    """Give a producer that waits for no answer: what it sends is counted when it is done."""
    options = {**app.conf.broker_transport_options, "confirm_publish": False}
    with app.connection_for_write(transport_options=options) as connection:
        producer = app.amqp.Producer(connection)
        with producer.batch():
            yield producer


def fill(processes: int, count: int, seconds: float, keep: bool) -> None:  # noqa: FBT001
    """Hold each process of the worker, and queue so many tasks behind; the last one is marked."""
    GATE.touch()
    with hasty() as producer:
        for _ in range(processes):
            hold.apply_async(producer=producer, ignore_result=True)
        options = {"producer": producer, "ignore_result": not keep}
        for _ in range(count - 1):
            work.apply_async((seconds,), **options)
        work.apply_async((seconds, "last"), **options)


def delay(count: int) -> float:
    """Call `delay` so often; return how many calls were done in a second."""
    work.delay(0)  # connects
    start = time.perf_counter()
    for _ in range(count):
        work.delay(0)
    return count / (time.perf_counter() - start)


def chunks(count: int, size: int) -> float:
    """Send so many calls as the recipe does, in chunks; return how many were sent in a second."""
    work.delay(0)
    start = time.perf_counter()
    work.chunks(((0,) for _ in range(count)), size).apply_async()
    return count / (time.perf_counter() - start)


def stream(rate: float, duration: float, seconds: float) -> int:
    """Send tasks at random moments, so many a second on average; return how many."""
    source = random.Random(0)  # noqa: S311
    start = due = time.time()
    sent = 0
    while (due := due + source.expovariate(rate)) < start + duration:
        time.sleep(max(0, due - time.time()))
        tell.apply_async((time.time(), seconds), ignore_result=True)
        sent += 1
    return sent


def backlog(processes: int, measured: int, count: int) -> None:
    """Hold the worker; queue the tasks that are measured, and so many behind them."""
    fill(processes, measured, 0, keep=False)
    message = app.amqp.create_task_message("0" * 36, work.name, (0,), {}, ignore_result=True)
    queue = app.amqp.router.route({}, work.name)["queue"]
    with hasty() as producer:
        for _ in range(count):
            app.amqp.send_task_message(producer, work.name, message, queue=queue)


def later(count: int, countdown: float) -> float:
    """Send so many tasks with a countdown; return how many were sent in a second."""
    start = time.perf_counter()
    with hasty() as producer:
        for _ in range(count):
            work.apply_async((0,), countdown=countdown, producer=producer, ignore_result=True)
    return count / (time.perf_counter() - start)


def steady(rate: float, duration: float, seconds: float) -> list[str]:
    """Send tasks at a steady rate, whatever becomes of the broker; return those it accepted."""
    accepted = []
    start = time.time()
    number = 0
    while time.time() < start + duration:
        time.sleep(max(0, start + number / rate - time.time()))
        number += 1
        with contextlib.suppress(OperationalError):
            do.apply_async((str(number), seconds), ignore_result=True)
            accepted.append(str(number))
    return accepted


def spread(processes: int, count: int, queues: list[str]) -> None:
    """Hold the worker and queue tasks of every type in turn, in every queue in turn."""
    names = [*more] or [work.name]
    GATE.touch()
    with hasty() as producer:
        for _ in range(processes):
            hold.apply_async(producer=producer, ignore_result=True, queue=queues[0])
        for number in range(count):
            last = ("last",) if number == count - 1 else ()
            app.send_task(
                names[number % len(names)],
                (0, *last),
                queue=queues[number % len(queues)],
                producer=producer,
                ignore_result=True,
            )


def main() -> None:
    """Do what each line asks for."""
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(globals()[name](*arguments)), flush=True)


if __name__ == "__main__":
    main()
