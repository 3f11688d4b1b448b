"""Several beats on real brokers: one sends each entry, once, whatever becomes of the others."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.projects import Bake
from tests.proxy import Broker, broker
from tests.service import DEADLINE, Process, Service, wait_until

# The entries, and what lies in the queue: no worker runs. Prints the time of each of them.
TASKS = """\
import json

from {package} import {app} as app


@app.task
def note():
    pass


app.conf.beat_schedule = {{
    name: {{"task": note.name, "schedule": seconds}}
    for name, seconds in {entries!r}.items()
}}


def sent():
    with app.connection_for_read() as connection:
        queue = app.amqp.queues[app.conf.task_default_queue].bind(connection.default_channel)
        found = []
        while message := queue.get(no_ack=True):
            found.append(message.headers["sent_at"])
    print(json.dumps(found))
"""
EVERY = 2.0  # seconds
TAKEOVER = 30.0  # seconds
AT_ONCE = 9.0  # seconds, on a busy machine
KINDS = {"redis": ("celery", "redis"), "rabbitmq": ("django", "none")}


class Beats:
    """The beats of a service."""

    def __init__(self, service: Service, directory: Path) -> None:
        """Start none yet."""
        self.service = service
        self.directory = directory
        self.python = service.project.path / ".venv" / "bin" / "python"
        self.started: list[Process] = []

    def start(self) -> Process:
        """Start one more, with a heartbeat file of its own."""
        home = self.directory / str(len(self.started))
        home.mkdir()
        # Not `uv run`: the signals are for beat itself.
        command = (self.python, "-m", "celery", "-A", "entries", "beat", "--loglevel", "INFO")
        env = {"HEARTBEAT_DIR": str(home)}
        self.started.append(self.service.start(*command, ready=r"this one (leads|waits)", env=env))
        wait_until((home / "beat.heartbeat").exists, "a beat is not healthy")
        return self.started[-1]

    def count(self) -> int:
        """Return how often they say that they send an entry."""
        return sum(each.output.count("Sending due task") for each in self.started)

    def sent(self) -> list[float]:
        """Return when the entries were sent that lie in the queue, and take them out."""
        done = self.service.run(self.python, "-c", "import entries; entries.sent()")
        times: list[float] = json.loads(done.stdout.splitlines()[-1])
        return times


StartBeats = Callable[..., Any]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return each broker in turn."""
    return str(request.param)


@pytest.fixture
def server(kind: str) -> Iterator[Broker]:
    """Give a broker that can go away."""
    with broker(kind) as server:
        yield server


@pytest.fixture
def make_beats(synced: Bake, tmp_path: Path, kind: str, server: Broker) -> Iterator[StartBeats]:
    """Give a function that makes a service with entries of so many seconds."""
    project_type, result_backend = KINDS[kind]
    project = synced(project_type=project_type, broker=kind, result_backend=result_backend)
    app = "app" if project_type == "celery" else "celery_app"
    results = server.url.replace("/0", "/1") if result_backend == "redis" else None
    with Service(project, server.url, results, {"PYTHONPATH": str(tmp_path)}) as service:

        def make_beats(**entries: float) -> Beats:
            code = TASKS.format(package=project.package, app=app, entries=entries)
            (tmp_path / "entries.py").write_text(code)
            return Beats(service, tmp_path)

        yield make_beats


def sends(beat: Process) -> None:
    """Wait until a beat has sent once more, and has told the broker.

    What is killed in between sends an entry twice.
    """
    beat.wait_for("Sending due task", times=beat.output.count("Sending due task") + 1)
    time.sleep(EVERY / 4)


def test_each_entry_is_sent_once_whatever_becomes_of_the_beat_that_leads(
    make_beats: StartBeats, server: Broker, record_property: Callable[[str, object], None]
) -> None:
    beats = make_beats(often=EVERY)
    first = beats.start()
    sends(first)
    second = beats.start()
    sends(first)

    took = {}

    def hit(signum: signal.Signals, leader: Process, following: Process) -> None:
        start = time.monotonic()
        leader.process.send_signal(signum)
        following.wait_for("this one leads")
        took[signum.name] = round(time.monotonic() - start, 1)
        record_property(signum.name, took[signum.name])

    # It stops: the other one goes on at once.
    hit(signal.SIGTERM, first, second)
    assert first.process.wait(DEADLINE) == 0

    # It is killed.
    third = beats.start()
    sends(second)
    hit(signal.SIGKILL, second, third)

    # It is frozen, and comes back when another one leads.
    fourth = beats.start()
    sends(third)
    hit(signal.SIGSTOP, third, fourth)
    third.process.send_signal(signal.SIGCONT)
    third.wait_for("this one waits")

    # The broker goes away, and comes back.
    sends(fourth)
    server.stop()
    before = beats.count()
    for each in (third, fourth):
        each.wait_for("the broker cannot be reached, nothing is sent")
    server.start()
    wait_until(lambda: beats.count() > before, "nothing is sent")
    for each in (third, fourth):
        assert each.stop() == 0
        assert "Traceback" not in each.output
    assert max(took.values()) < TAKEOVER
    # No lease had to run out.
    assert took["SIGTERM"] < AT_ONCE

    times = beats.sent()
    assert len(times) == beats.count()
    gaps = [later - one for one, later in pairwise(sorted(times))]
    assert min(gaps) > EVERY - 0.1


def test_an_interval_ends_in_time_though_beat_is_restarted_more_often(
    make_beats: StartBeats,
) -> None:
    every = 6.0
    beats, begin = make_beats(seldom=every), time.time()
    first, seen = beats.start(), time.time()
    wait_until(lambda: time.time() > seen + every / 3, "time stands still")
    assert first.stop() == 0
    restarted = time.time()
    second = beats.start()
    sends(second)
    assert second.stop() == 0
    # Counted from when the first one saw it: from the start of the second one, it would be later.
    assert begin + every < min(beats.sent()) < restarted + every
