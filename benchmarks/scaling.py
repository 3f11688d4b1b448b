"""Writes `docs/scaling.md` from the results: what a hundred machines would need, worked out."""

from typing import Any

from benchmarks import lab
from benchmarks.tables import BROKERS, about, filled, number, table

MACHINES, PROCESSES = 100, 8
TASKS = (0.001, 0.01, 0.1, 1.0)  # seconds
ENOUGH = 0.7  # of a processor; above it, waiting times grow


def cost(figures: dict[str, Any], broker: str) -> tuple[float, float, float]:
    """Return what an empty task takes, and how many of them a worker does in a second.

    The first two are milliseconds of processor: the broker's, and the worker's.
    """
    row = simplest(figures, broker)
    return row["broker_ms"], row["processor_ms"], row["per_second"]


def simplest(figures: dict[str, Any], broker: str) -> dict[str, Any]:
    """Return the row with the fewest types of tasks and queues."""
    row: dict[str, Any] = min(
        figures[broker]["kinds"], key=lambda each: each["types"] + each["queues"]
    )
    return row


def kind(figures: dict[str, Any]) -> str:
    """Return, in a sentence, which tasks the costs are of."""
    row = simplest(figures, "redis")
    return f"Types of tasks: {row['types']}; queues: {row['queues']}."


def of_one(figures: dict[str, Any]) -> str:
    """Return what one task and one worker cost."""
    rows = []
    for broker, label in BROKERS.items():
        broker_ms, worker_ms, rate = cost(figures, broker)
        most = figures[broker]["workers"][-1]
        rows.append(
            [
                label,
                number(broker_ms),
                number(1000 / broker_ms),
                number(worker_ms),
                number(rate),
                number(most["idle_ms_per_worker"]),
                most["connections"],
            ]
        )
    heads = ["", "broker, ms a task", "tasks a second that fill its processor", "worker, ms a task"]
    heads += ["tasks a second of one worker", "broker, ms a second for an idle worker"]
    return table([*heads, "connections of a worker"], rows)


def of_many(figures: dict[str, Any]) -> str:
    """Return what a hundred machines do, and what of the broker that takes."""
    rows = []
    for broker, label in BROKERS.items():
        broker_ms, worker_ms, most = cost(figures, broker)
        for seconds in TASKS:
            each = PROCESSES / (seconds + worker_ms / 1000)
            rate = MACHINES * min(each, most)
            needed = rate * broker_ms / 1000
            verdict = (
                "yes" if needed < ENOUGH else f"no: it takes {number(needed / ENOUGH)} servers"
            )
            if broker == "rabbitmq" and needed >= ENOUGH:
                verdict = f"yes, with {number(needed / ENOUGH)} processors"
            sum_ = f"{PROCESSES} / ({seconds:g} s + {number(worker_ms)} ms) = {number(each)}"
            if each > most:
                sum_ += f", but no more than {number(most)}"
            share = f"{number(rate)} * {number(broker_ms)} ms = {number(needed)}"
            rows.append([label, f"{seconds:g} s", sum_, share, verdict])
    heads = ["broker", "a task waits for", "tasks a second of a machine"]
    heads += [f"tasks a second of {MACHINES} machines, and processors of the broker that they use"]
    return table([*heads, f"is one server enough, {ENOUGH:.0%} busy?"], rows)


def of_workers(figures: dict[str, Any]) -> str:
    """Return what more workers do on one machine."""
    rows = [
        [
            label,
            row["workers"],
            number(row["ideal"]),
            number(row["per_second"]),
            f"{row['per_second'] / row['ideal']:.2f}",
        ]
        for broker, label in BROKERS.items()
        for row in figures[broker]["workers"]
    ]
    heads = ["broker", "workers of one process", "10 tasks a second each", "measured"]
    return table([*heads, "ratio"], rows)


def of_backlog(figures: dict[str, Any]) -> str:
    """Return what a backlog changes."""
    rows = [
        [
            label,
            f"{row['backlog']:,}",
            number(row["per_second"]),
            number(row["delay_per_second"]),
            number(row["bytes_per_message"]),
            f"{row['bytes_per_message'] * 1e6 / 2**30:.1f}",
            number(row["worker_mib"]),
        ]
        for broker, label in BROKERS.items()
        for row in figures[broker]["backlog"]
    ]
    heads = ["broker", "messages that wait", "empty tasks a second", "`delay` a second"]
    heads += ["bytes of the broker for each", "GiB for a million", "MiB of the worker"]
    return table(heads, rows)


def of_kinds(figures: dict[str, Any]) -> str:
    """Return what types and queues change."""
    rows = [
        [
            label,
            f"{row['types']:,}",
            row["queues"],
            number(row["per_second"]),
            number(row["broker_ms"]),
            number(row["processor_ms"]),
        ]
        for broker, label in BROKERS.items()
        for row in figures[broker]["kinds"]
    ]
    heads = ["broker", "types of tasks", "queues", "empty tasks a second", "broker, ms a task"]
    return table([*heads, "worker, ms a task"], rows)


def of_later(figures: dict[str, Any]) -> str:
    """Return what delayed tasks change."""
    rows = []
    for broker, label in BROKERS.items():
        row = figures[broker]["later"]
        before, after = row["per_second"]
        rows.append(
            [
                label,
                f"{row['waiting']:,}",
                f"{number(before)}, {number(after)}",
                f"{number(row['mib_before'])}, {number(row['mib_after'])}",
                f"{number(row['broker_mib'])}, {number(row['broker_mib_after'])}",
                number(row["stop_seconds"]),
            ]
        )
    heads = ["broker", "tasks with a `countdown`", "empty tasks a second, before and with them"]
    heads += ["MiB of the worker", "MiB of the broker", "seconds to stop the worker"]
    return table(heads, rows)


def first_full(figures: dict[str, Any]) -> str:
    """Return, in a sentence, what saturates first."""
    broker_ms, worker_ms, most = cost(figures, "redis")
    limit = ENOUGH * 1000 / broker_ms
    shortest = MACHINES * PROCESSES / limit - worker_ms / 1000
    if shortest <= 0 or MACHINES * most <= limit:
        return f"Redis carries {MACHINES} such machines whatever the length of their tasks.\n"
    return filled(
        f"Redis runs its commands on one processor. At {number(limit)} tasks a second, "
        f"{ENOUGH:.0%} of it is used. {MACHINES} machines send so many if a task takes less than "
        f"{MACHINES * PROCESSES} processes / ({number(limit)} tasks/s) - {number(worker_ms)} ms = "
        f"{number(1000 * shortest)} ms. With longer tasks, the workers are full before Redis is."
    )


def scaling() -> str:
    """Return the page."""
    found = lab.load("scale")
    figures = found["figures"]
    return f"""\
# How far it goes

What one worker and one broker do, what changes as more of everything comes, and what a hundred
machines would need. `make bench` measures it and writes this page.

{about(found)}
## One task, one worker

The processor time of an empty task, whose result is ignored: the broker's share, sending included,
and the worker's, of all its processes. {kind(figures)}

{of_one(figures)}
## A hundred machines

{MACHINES} machines with {PROCESSES} processes each, whose tasks wait for something else, such as a
database, and use the processor only as an empty task does. All processes are busy. No worker does
more than the empty tasks above, however many processes it has: its main process hands them out.

{of_many(figures)}
{first_full(figures)}
What helps, in this order:

1. **Fewer, larger messages.** Send tiny tasks in chunks, as the recipes of a project show: a chunk
   of 100 is one message. Do not keep results that nobody reads (`ignore_result=True`).
2. **A higher prefetch** for tasks of milliseconds: `worker_prefetch_multiplier`.
3. **More workers**, until the broker is full. On Kubernetes, [KEDA](https://keda.sh) scales them by
   the length of the queue: its `redis` and `rabbitmq` scalers read it from the broker, its
   `prometheus` scaler from `celery_queue_messages`.
4. **The results elsewhere**: point `CELERY_RESULT_BACKEND` to another Redis than the broker.
5. **Several Redis servers**, a service on each. One queue cannot be spread over several.
6. **RabbitMQ**, which uses all processors of its server. In a cluster, each quorum queue has its
   leader on one node: route the tasks to several queues, so that the nodes share the work.

## More workers

Tasks of 100 ms, on this one machine.

{of_workers(figures)}
## A backlog

![Throughput in front of a backlog](../benchmarks/plots/backlog.svg)

{of_backlog(figures)}
On Redis a backlog is memory: set `maxmemory` above what the longest one needs, with the policy
`noeviction`. RabbitMQ keeps quorum queues on disk, and in memory what was written last.

## More types and more queues

{of_kinds(figures)}
## Delayed tasks

On Redis they wait in a sorted set of the server, and on RabbitMQ in its queues for delayed
messages: no worker holds them, so `worker_eta_task_limit` needs no value.

{of_later(figures)}"""
