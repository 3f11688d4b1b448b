"""Messages that are no tasks: each is a dead letter or done, and the worker goes on."""

import base64
import json
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests import servers
from tests.projects import Bake
from tests.service import Service, wait_until
from tests.test_metrics import scrape

# Publishes messages that come as JSON on standard input, and an innocent task after each.
PUBLISH = """
import base64, json, sys
from celery_app import app
from celery_app.tasks import add
messages = json.load(sys.stdin)
queue = app.main
with app.connection_for_write() as connection:
    channel = connection.default_channel
    app.amqp.queues[queue](channel).declare()
    for message in messages:
        body = base64.b64decode(message.pop("body"))
        if message.pop("raw", False) and "redis" in connection.transport_cls:
            channel.client.lpush(queue, body)
        else:
            properties = {"delivery_mode": 2, "correlation_id": "kept"}
            prepared = channel.prepare_message(body, properties=properties, **message)
            channel.basic_publish(prepared, "", queue)
        add.delay(1, 1)
"""
BODY = [[2, 3], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def headers(**changes: object) -> dict[str, Any]:
    """Return the headers of a task, but for some changes; None takes one away."""
    usual: dict[str, object] = {
        "lang": "py",
        "task": "celery_app.tasks.add",
        "id": str(uuid.uuid4()),
        "argsrepr": "(2, 3)",
        "kwargsrepr": "{}",
        "retries": 0,
        "timelimit": [None, None],
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def message(body: object = BODY, headers: Any = None, **changes: object) -> dict[str, Any]:  # noqa: ANN401
    """Return a message as `PUBLISH` takes it."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    usual = {"content_type": "application/json", "content_encoding": "utf-8"}
    return usual | {"body": base64.b64encode(data).decode(), "headers": headers or {}} | changes


def known() -> dict[str, dict[str, Any]]:
    """Return a message of each kind that is no task, by the reason for which it is put aside."""
    return {
        "no task is registered as 'not.here'": message(headers=headers(task="not.here")),
        "it names no task": message(headers=headers(task=None)),
        "it has no id": message(headers=headers(id=None)),
        "its id is 5": message(headers=headers(id=5)),
        "its retries is 'x'": message(headers=headers(retries="x")),
        "its timelimit is ": message(headers=headers(timelimit=["a", "b"])),
        "invalid ETA value": message(headers=headers(eta="tomorrow")),
        "unhashable": message(headers=headers(task=["a"])),
        "DecodeError: Expecting": message(b"{", headers()),
        "DecodeError: 'utf-8'": message(b"\xff", headers()),
        "untrusted content of type pickle": message(
            b"x", headers(), content_type="application/x-python-serialize"
        ),
        "untrusted content of type text/odd": message(headers=headers(), content_type="text/odd"),
        "its arguments are not": message([[1, 2], [], {}], headers()),
        "its options are not": message([[1, 2], {}, [1]], headers()),
        "its chord is 7": message([[1, 2], {}, {"chord": 7}], headers()),
        "Error: ": message(b"", headers(), content_encoding="odd"),  # each broker has its own
        "incorrect header check": message(b"\xff" * 9, headers(compression="application/x-gzip")),
    }


def publish(service: Service, messages: list[dict[str, Any]]) -> None:
    """Publish them, with an innocent task after each."""
    python = service.project.path / ".venv" / "bin" / "python"
    file = service.directory / "messages.json"
    file.write_text(json.dumps(messages))
    service.run("sh", "-c", f'exec "{python}" -c "$0" < "$1"', PUBLISH, file)


def dead_letters(service: Service, *arguments: str) -> list[str]:
    """Run the command, and return its lines."""
    python = service.project.path / ".venv" / "bin" / "python"
    return service.run(
        python, "-m", "celery_app.runtime.dead_letters", *arguments
    ).stdout.splitlines()


def count(port: int, name: str) -> float:
    """Return the sum of all samples of a counter."""
    return sum(value for key, value in scrape(port).items() if key.startswith(f"{name}_total"))


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_what_is_no_task_is_a_dead_letter_and_stops_nobody(synced: Bake, kind: str) -> None:
    answers = {"project_type": "celery", "broker": kind, "result_backend": "redis"}
    project, port = synced(**answers), servers.free_port()
    with servers.addresses(kind, "redis") as addresses:
        env = {"METRICS_PORT": str(port)}
        url, results = addresses["CELERY_BROKER_URL"], addresses["CELERY_RESULT_BACKEND"]
        with Service(project, url, results, env) as service:
            worker = service.worker()
            kinds = known()
            unregistered = kinds["no task is registered as 'not.here'"]["headers"]["id"]
            publish(service, list(kinds.values()))
            worker.wait_for(r"succeeded in .*: 2 ", times=len(kinds))
            worker.wait_for(r"is a dead letter: ", times=len(kinds))
            assert worker.output.count("[critical") == len(kinds)
            assert count(port, "celery_dead_letters") == len(kinds)
            *lines, total = dead_letters(service)
            assert total == f"{len(kinds)} dead letters"
            for reason, line in zip(kinds, lines, strict=True):
                assert reason in line
            result = f"app.AsyncResult({unregistered!r})"
            code = f"from celery_app import app; r = {result}; print(r.state, r.result)"
            said = service.python(code)
            assert said.startswith("FAILURE no task is registered as 'not.here'; its message is in")

            # The next version knows the task: what is put back is done, and all else comes back.
            (service.directory / "newer.py").write_text(
                "from celery import shared_task\n\n\n"
                "@shared_task(name='not.here')\ndef here(x, y):\n    return x * y\n"
            )
            worker.stop()
            path = {"PYTHONPATH": str(service.directory)}
            newer = service.worker("--include", "newer", env=path)
            assert len(dead_letters(service, "retry", "--all")) == len(kinds)
            newer.wait_for(rf"not.here\[{unregistered}\] succeeded in .*: 6 ")
            newer.wait_for(r"is a dead letter: ", times=len(kinds) - 1)
            reasons = [reason for reason in kinds if "not.here" not in reason]
            again = "\n".join(dead_letters(service))
            assert all(reason in again for reason in reasons)
            assert newer.process.poll() is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=9),
    lambda each: (
        st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(
    [
        "id",
        "task",
        "eta",
        "expires",
        "retries",
        "timelimit",
        "group",
        "lang",
        "argsrepr",
        "shadow",
        "ignore_result",
        "compression",
        "stamps",
        "stamped_headers",
        "reply_to",
        "root_id",
    ]
)
TYPES = ["application/json", "application/x-python-serialize", "application/data", "text/plain", ""]
MESSAGES = st.builds(
    message,
    body=st.just(BODY) | st.binary(max_size=20) | JSON | st.tuples(JSON, JSON, JSON).map(list),
    headers=st.dictionaries(NAMES, JSON, max_size=2).map(lambda changes: headers(**changes)),
    content_type=st.just(TYPES[0]) | st.sampled_from(TYPES),
    content_encoding=st.just("utf-8") | st.sampled_from(["binary", "utf-16", "latin-1", "odd"]),
    raw=st.sampled_from([False, False, True]),
)


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_any_message_is_done_or_a_dead_letter(synced: Bake, kind: str) -> None:
    answers = {"project_type": "celery", "broker": kind, "result_backend": "none"}
    project, port = synced(**answers), servers.free_port()
    sent = 0
    with servers.addresses(kind, "none") as addresses:
        env = {"METRICS_PORT": str(port)}
        with Service(project, addresses["CELERY_BROKER_URL"], env=env) as service:
            worker = service.worker()

            @settings(
                max_examples=6,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(st.lists(MESSAGES, min_size=50, max_size=50))
            def run(messages: list[dict[str, Any]]) -> None:
                nonlocal sent
                publish(service, messages)
                sent += 2 * len(messages)
                wait_until(
                    lambda: (
                        count(port, "celery_tasks") + count(port, "celery_dead_letters") >= sent
                    ),
                    "the end of every message",
                )

            run()
            assert worker.process.poll() is None
            assert count(port, "celery_tasks") + count(port, "celery_dead_letters") == sent
            assert count(port, "celery_tasks") >= sent / 2  # the innocent ones
            assert len(dead_letters(service)) - 1 == count(port, "celery_dead_letters")
