"""What a broker refuses, or cannot take at the moment: one line that says why, and no hanging."""

import contextlib
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import amqp
import pytest
import redis

from tests import faults, servers
from tests.projects import Bake, BakedProject, clean_environment
from tests.service import DEADLINE, Process, Service, wait_until

# Sends one task for each line of its input, and says what became of it.
SENDER = """\
import sys
import time

from celery_app.tasks import add
from kombu.exceptions import OperationalError

for line in sys.stdin:
    start = time.monotonic()
    try:
        add.apply_async(("x" * int(line.split()[0]), "y"), countdown=float(line.split()[1]))
        outcome = "sent"
    except OperationalError as error:
        outcome = f"OperationalError: {error}"
    print(f"{time.monotonic() - start:.3f} {outcome}", flush=True)
"""
# Tasks that note their starts, and a schedule.
TASKS = """\
import os
import time
from pathlib import Path

from celery_app import app

NOTES = Path(os.environ["HEARTBEAT_DIR"]) / "notes"
app.conf.beat_schedule = {"often": {"task": "tasks.note", "schedule": 1.0, "args": ("beat",)}}


@app.task
def note(text):
    with NOTES.open("a") as notes:
        notes.write(f"{text}\\n")


@app.task
def last(seconds):
    note("long")
    time.sleep(seconds)


@app.task(bind=True, default_retry_delay=1)
def again(self):
    note(f"try {self.request.retries}")
    if not self.request.retries:
        raise self.retry()
"""
BLOCKED = "OperationalError: RabbitMQ blocks publishers: out of memory or disk"
ALARMS = {
    "memory": (
        "vm_memory_monitor:set_vm_memory_high_watermark(0.0001)",
        "vm_memory_monitor:set_vm_memory_high_watermark(0.9)",
    ),
    "disk": (
        'rabbit_disk_monitor:set_disk_free_limit("900000GB")',
        'rabbit_disk_monitor:set_disk_free_limit("1MB")',
    ),
}
# Returns when the node has an alarm, or none.
SETTLED = """
Wait = fun(Wait) ->
    case rabbit_alarm:get_alarms() == [] of ALARM -> timer:sleep(50), Wait(Wait); _ -> ok end
end,
Wait(Wait).
"""


@pytest.fixture(scope="module")
def node() -> Iterator[servers.RabbitMQ]:
    """Start a RabbitMQ for this file alone: its alarms and limits hold for all virtual hosts."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        yield faults.RabbitMQ(Path(directory) / "rabbitmq", stack, own=True).server


@contextlib.contextmanager
def working(project: BakedProject, url: str, **env: str) -> Iterator[Service]:
    """Give a service with the tasks above."""
    with Service(project, url, env=env) as service:
        (service.directory / "tasks.py").write_text(TASKS)
        service.env["PYTHONPATH"] = service.env["HEARTBEAT_DIR"] = str(service.directory)
        yield service


@pytest.fixture
def service(synced: Bake, node: servers.RabbitMQ) -> Iterator[Service]:
    """Give a service with the tasks above, on a virtual host of its own."""
    url = f"amqp://guest:guest@127.0.0.1:{node.port}/{node.add_virtual_host()}"
    project = synced(broker="rabbitmq", result_backend="none")
    with working(project, url, CELERY_REDELIVERY_LIMIT="2") as service:
        yield service


@contextlib.contextmanager
def alarm(node: servers.RabbitMQ, kind: str) -> Iterator[None]:
    """Let the node be out of memory or disk."""
    on, off = ALARMS[kind]
    node.control(f"{on}, {SETTLED.replace('ALARM', 'true')}")
    try:
        yield
    finally:
        node.control(f"{off}, {SETTLED.replace('ALARM', 'false')}")


class Sender:
    """A process that sends when it is told to, on connections that it keeps."""

    def __init__(self, service: Service) -> None:
        """Start it."""
        command = [str(service.project.path / ".venv" / "bin" / "python"), "-c", SENDER]
        self.process = subprocess.Popen(
            command,
            cwd=service.project.path,
            env=clean_environment() | service.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def send(self, size: int = 1, countdown: float = 0) -> str:
        """Send a task; return what became of it, in ten seconds at most."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{size} {countdown}\n")
        self.process.stdin.flush()
        seconds, _, outcome = self.process.stdout.readline().strip().partition(" ")
        assert float(seconds) < 10, outcome
        return outcome

    def end(self) -> None:
        """End it, as a process ends that has nothing more to do."""
        self.process.communicate(timeout=DEADLINE)


@contextlib.contextmanager
def sender(service: Service) -> Iterator[Sender]:
    """Run a sender."""
    one = Sender(service)
    try:
        yield one
        one.end()
    finally:
        one.process.kill()
        one.process.wait(DEADLINE)


def notes(service: Service) -> list[str]:
    """Return what the tasks have noted."""
    path = service.directory / "notes"
    return path.read_text().splitlines() if path.exists() else []


def start(service: Service, *command: str) -> Process:
    """Start a command of Celery, without its banner."""
    return service.start("uv", "run", "celery", "-A", "tasks", "--quiet", *command)


def refused(service: Service, why: str, status: int) -> None:
    """Sender, worker and beat each say ``why`` in one line; the worker ends."""
    with sender(service) as one:
        said = one.send()
        assert re.fullmatch(f"OperationalError: {why}", said), said
    worker = start(service, "worker", "--loglevel", "WARNING", "--concurrency", "1")
    assert worker.process.wait(DEADLINE) == status, worker.output
    assert re.search(rf"(?m)\[critical\s*\] The worker ends\. {why} \[\S+\]$", worker.output)
    assert len(re.findall(r"(?m)^\S+ \[(?:error|critical)\s*\]", worker.output)) == 1
    assert "Connection to broker lost" not in worker.output
    beat = start(service, "beat", "--loglevel", "WARNING")
    beat.wait_for(rf"\] beat: .*: {why} \[")
    assert beat.stop() == 0
    for process in (worker, beat):
        assert "Traceback" not in process.output


def declare(service: Service, code: str) -> None:
    """Declare something on the service's virtual host, as somebody else did before."""
    host, _, vhost = service.env["CELERY_BROKER_URL"].partition("@")[2].partition("/")
    with amqp.Connection(host, virtual_host=vhost) as connection:
        channel = connection.channel()
        channel.exchange_declare("my_service", code, durable=True, auto_delete=False)
        channel.queue_declare("my_service", durable=True, auto_delete=False)


def test_a_queue_with_other_arguments(service: Service) -> None:
    declare(service, "topic")
    vhost = service.env["CELERY_BROKER_URL"].rpartition("/")[2]
    refused(
        service,
        "RabbitMQ has the queue my_service with another x-queue-type: received 'quorum' but "
        rf"current is \S+\. Use another name, or delete it once it is empty: "
        f"rabbitmqctl delete_queue --vhost {vhost} my_service",
        status=78,
    )


def test_an_exchange_of_another_type(service: Service) -> None:
    declare(service, "direct")
    refused(
        service,
        "RabbitMQ has the exchange my_service with another type: received 'topic' but current is "
        r"'direct'\. Use another name, or delete it",
        status=78,
    )


def test_a_virtual_host_that_is_missing(service: Service) -> None:
    service.env["CELERY_BROKER_URL"] += "-not"
    refused(service, r"RabbitMQ refuses this: NOT_ALLOWED - vhost \S+ not found", status=1)


def test_a_wrong_password_for_rabbitmq(service: Service) -> None:
    url = service.env["CELERY_BROKER_URL"]
    service.env["CELERY_BROKER_URL"] = url.replace(":guest@", ":wrong@")
    refused(service, r"RabbitMQ refuses this: ACCESS_REFUSED - Login was refused .+", status=1)


def test_a_permission_that_is_missing(service: Service, node: servers.RabbitMQ) -> None:
    before, _, vhost = service.env["CELERY_BROKER_URL"].rpartition("/")
    node.control(
        f'rabbit_auth_backend_internal:add_user(<<"{vhost}">>, <<"poor">>, <<"tests">>), '
        f'rabbit_auth_backend_internal:set_permissions(<<"{vhost}">>, <<"{vhost}">>, '
        '<<"^$">>, <<"^$">>, <<"^$">>, <<"tests">>).'
    )
    service.env["CELERY_BROKER_URL"] = f"{before.replace('guest:guest', f'{vhost}:poor')}/{vhost}"
    refused(service, rf"RabbitMQ refuses this: ACCESS_REFUSED - .* user '{vhost}'", status=1)


@pytest.mark.parametrize(
    ("login", "database", "why"),
    [
        ("able:wrong@", 0, "invalid username-password pair.*"),
        ("", 0, "Authentication required.*"),
        ("poor:secret@", 0, ".* no permissions .*"),
        ("able:secret@", 99, "DB index is out of range"),
    ],
    ids=["wrong-password", "no-password", "no-permission", "wrong-database"],
)
def test_what_redis_refuses(synced: Bake, login: str, database: int, why: str) -> None:
    with servers.valkey() as base:
        url = base.replace("://", f"://{login}") + f"/{database}"
        with (
            redis.Redis.from_url(base) as client,
            working(synced(result_backend="none"), url) as service,
        ):
            client.acl_setuser("able", enabled=True, passwords=["+secret"], commands=["+@all"])
            client.acl_setuser("poor", enabled=True, passwords=["+secret"])
            client.execute_command("ACL", "SETUSER", "poor", "+@connection")
            client.execute_command("ACL", "SETUSER", "able", "~*", "&*")
            client.config_set("requirepass", "secret")
            try:
                refused(service, f"Redis refuses this: {why}", status=1)
            finally:
                client.config_set("requirepass", "")


def test_a_worker_ends_when_its_virtual_host_is_deleted(
    service: Service, node: servers.RabbitMQ
) -> None:
    worker = service.worker()
    vhost = service.env["CELERY_BROKER_URL"].rpartition("/")[2]
    node.control(f'rabbit_vhost:delete(<<"{vhost}">>, <<"tests">>).')
    assert worker.process.wait(DEADLINE) == 1
    # It may come back between the loss of its permission and that of the host.
    (end,) = re.findall(r"The worker ends\. (.*) \[", worker.output)
    assert re.match(f"RabbitMQ refuses this: NOT_ALLOWED - .*{vhost}", end)
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("kind", ALARMS)
def test_a_blocked_rabbitmq_is_an_error_for_senders(
    service: Service, node: servers.RabbitMQ, kind: str
) -> None:
    with sender(service) as old, sender(service) as new:
        assert old.send() == "sent"
        with alarm(node, kind):
            for one in (old, old, new, new):
                assert one.send() == BLOCKED
            assert new.send(countdown=1) == BLOCKED
            with sender(service) as brief:  # and ends while RabbitMQ blocks
                assert brief.send() == BLOCKED
        for one in (old, new):
            assert one.send() == "sent"
    worker = service.worker()
    # Three were taken. Of those that were not, RabbitMQ has kept the first of each process.
    worker.wait_for(r"add\[\S+\] succeeded", times=6)
    worker.stop()
    assert len(re.findall(r"add\[\S+\] succeeded", worker.output)) == 6


def test_a_blocked_rabbitmq_is_emptied(service: Service, node: servers.RabbitMQ) -> None:
    send = "import tasks; tasks.again.delay(); [tasks.note.delay(f'note {n}') for n in range(20)]"
    service.python(send)
    worker_options = ("worker", "--loglevel", "INFO", "--concurrency", "2", "--task-events")
    with alarm(node, "memory"):
        worker = start(service, *worker_options)
        beat = start(service, "beat", "--loglevel", "INFO")
        noted = [f"note {n}" for n in range(20)]
        wait_until(lambda: not {*noted, "try 0"} - {*notes(service)}, "all that is in the queue")
        # What cannot be sent again goes back to its queue, and does not come in a circle.
        worker.wait_for(r"again\[\S+\] reject requeue=True: RabbitMQ blocks publishers")
        beat.wait_for(r"beat: the broker cannot be reached, nothing is sent: RabbitMQ blocks")
        assert beat.stop() == 0
        assert "Traceback" not in beat.output
        starting = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - starting < 25
        second = start(service, *worker_options)
        second.wait_for(r"ready\.")
    wait_until(lambda: "try 1" in notes(service), "the second try")
    assert "Sending due task" not in beat.output
    assert [note for note in notes(service) if note.startswith("note")] == noted


def test_a_message_that_is_too_large(service: Service, node: servers.RabbitMQ) -> None:
    node.control("application:set_env(rabbit, max_message_size, 2000).")
    try:
        with sender(service) as one:
            sent = [one.send(), one.send(5000), one.send(), one.send(5000, 1), one.send()]
    finally:
        node.control("application:set_env(rabbit, max_message_size, 134217728).")
    large = r"OperationalError: RabbitMQ refuses this: PRECONDITION_FAILED - message size \d+ is .+"
    assert [re.sub(large, "large", each) for each in sent] == ["sent", "large"] * 2 + ["sent"]
    service.worker().wait_for(r"add\[\S+\] succeeded", times=3)


def test_a_task_that_outlasts_the_consumer_timeout(
    service: Service, node: servers.RabbitMQ
) -> None:
    node.control(
        "application:set_env(rabbit, consumer_timeout, 3000), "
        "application:set_env(rabbit, channel_tick_interval, 500)."
    )
    try:
        service.python("import tasks; print(tasks.last.delay(600).id)")
        worker = start(service, "worker", "--loglevel", "INFO", "--concurrency", "2")
        worker.wait_for("RabbitMQ's consumer_timeout is 3 s", times=3)
        worker.wait_for(
            r"\[critical *\] Task tasks.last\[\S+\] is a dead letter: "
            r"the broker took it back after each of 3 runs"
        )
        service.python("import tasks; tasks.note.delay('later')")
        wait_until(lambda: "later" in notes(service), "a later task")
        assert notes(service) == ["long"] * 3 + ["later"]  # the limit is 2
        assert worker.stop() == 0
    finally:
        node.control(
            "application:set_env(rabbit, consumer_timeout, 1800000), "
            "application:set_env(rabbit, channel_tick_interval, 60000)."
        )
    assert "Traceback" not in worker.output
