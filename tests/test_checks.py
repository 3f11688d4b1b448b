"""A wrong configuration stops workers and beat before they start, in one line for each error."""

import json

import pytest

from tests import servers
from tests.projects import Bake, BakedProject
from tests.service import Service

INF = float("inf")
# Gives each of the settings in turn, and prints what the runtime says of each.
CHECK = """
import json
import sys

from celery.app.utils import find_app
from {package}.runtime.checks import errors

app = find_app("{package}")
app.loader.import_default_modules()
print(json.dumps(errors(app)))
for name, value in json.loads(sys.argv[1]):
    app.conf[name] = value
    print(json.dumps(errors(app)))
    app.conf.pop(name)
"""
LIMIT = "must be a number from 0 to 1000000000, or None"
# Settings that the runtime reads, each with a value, and a part of the error.
REFUSED = [
    ("metrics_port", "9808", "is '9808'; it must be a whole number from 0 to 65535, or None"),
    ("metrics_port", 70000, "is 70000; it must be a whole number from 0 to 65535, or None"),
    ("metrics_port", -1, "is -1; it must be a whole number from 0 to 65535, or None"),
    ("redelivery_limit", None, "is None; it must be a whole number from 0 to 1000000"),
    ("redelivery_limit", -1, "is -1; it must be a whole number from 0 to 1000000"),
    ("redelivery_limit", 2.5, "is 2.5; it must be a whole number from 0 to 1000000"),
    ("redelivery_limit", "3", "is '3'; it must be a whole number from 0 to 1000000"),
    ("shutdown_grace_period", None, "is None; it must be a number from 0 to 1000000000"),
    ("shutdown_grace_period", -0.5, "is -0.5; it must be a number from 0 to 1000000000"),
    ("shutdown_grace_period", 1e10, "is 10000000000.0; it must be a number from 0 to 1000000000"),
    ("shutdown_grace_period", INF, "is inf; it must be a number from 0 to 1000000000"),
    ("shutdown_grace_period", "25", "is '25'; it must be a number from 0 to 1000000000"),
    ("task_time_limit", -1, f"is -1; it {LIMIT}"),
    ("task_time_limit", INF, f"is inf; it {LIMIT}"),
    ("task_time_limit", "300", f"is '300'; it {LIMIT}"),
    ("task_soft_time_limit", -1, f"is -1; it {LIMIT}"),
    ("task_soft_time_limit", "270", f"is '270'; it {LIMIT}"),
    ("task_soft_time_limit", 300, "is 300; it must be less than the time limit, 300"),
    ("broker_transport_options", None, "must be a dictionary"),
]
URLS: dict[str, list[object]] = {
    "redis": [
        *("amqp://localhost//", "redis://localhost:port/0", "localhost:6379", "", None),
        *("redis://localhost:6379/0;amqp://localhost//", "redis://one:1/0;rediss://two:1/0"),
        *(["redis://localhost:6379/0", "amqp://localhost//"], "nonsense://localhost"),
        "sentinel://one:1;two:1",
    ],
    "rabbitmq": [
        *("redis://localhost:6379/0", "amqp://localhost:port//", "localhost:5672", "", None),
        *("amqp://localhost//;redis://localhost:6379/0", "amqp://one//;amqps://two//"),
        *(["amqp://localhost//", "redis://localhost:6379/0"], "nonsense://localhost"),
    ],
}
REFUSED_BY_REDIS = [
    ("broker_url", "redis://localhost/6379/0", "must end with the number of a database"),
    ("broker_url", "sentinel://one:1;sentinel://two:1", "broker_transport_options has no master"),
    *[
        ("broker_transport_options", {"visibility_timeout": timeout}, "must be more than")
        for timeout in (None, 0, 300, "600")
    ],
]
ACCEPTED: list[tuple[str, object]] = [
    *[("metrics_port", value) for value in (None, 0, 9808)],
    *[("redelivery_limit", value) for value in (0, 1, 1000)],
    *[("shutdown_grace_period", value) for value in (0, 0.5, 3600)],
    *[("task_soft_time_limit", value) for value in (None, 0, 0.5)],
    *[("task_time_limit", value) for value in (None, 0, 271.5)],
    ("broker_transport_options", {}),
]
WORKING_URLS: dict[str, list[object]] = {
    "redis": ["rediss://:pass%2Fword@localhost", "redis+socket:///run/redis.sock"],
    "rabbitmq": ["amqps://localhost//", "amqp://one//;amqp://two//", ["amqp://one", "amqp://two"]],
}
RESULT_BACKENDS = {
    "nonsense://localhost": ["result_backend cannot be loaded: No module named 'nonsense'"],
    "redis://:pass/word@localhost/1": ["result_backend is not a valid URL"],
    "disabled://": [],
}
# What helps in a module of settings is no setting.
HELPERS = """
from __future__ import annotations
import logging
from pathlib import Path
_private = Path.home()
home = Path.home()
logger = logging.getLogger(__name__)
def helper(): ...
"""
# In both flavours: a line of the settings, and what is said of it.
MISTAKES = {
    "celery": {
        "CELERY_TASK_ACKS_LATE": "did you mean task_acks_late?",
        "metric_port": "did you mean metrics_port?",
        "task_ack_late": "did you mean task_acks_late?",
        "weather": "if something else reads it, add it to known_settings",
        "worker_prefetch_multipler": "did you mean worker_prefetch_multiplier?",
    },
    "django": {
        "CELERY_METRIC_PORT": "did you mean CELERY_METRICS_PORT?",
        "CELERY_TASK_ACK_LATE": "did you mean CELERY_TASK_ACKS_LATE?",
        "CELERY_WEATHER": "if something else reads it, add it to CELERY_KNOWN_SETTINGS",
    },
}
DECLARED = {
    "celery": """weather = "fine"; known_settings = ["weather"]""",
    "django": """CELERY_WEATHER = "fine"; CELERY_KNOWN_SETTINGS = ["weather"]; WEATHER = "fine" """,
}


def check(
    project: BakedProject, *cases: tuple[str, object], env: dict[str, str] | None = None
) -> list[list[str]]:
    """Return the errors of the configuration, and then those of each setting in its place."""
    code = CHECK.format(package=project.package)
    python = project.path / ".venv" / "bin" / "python"
    done = project.run(python, "-c", code, json.dumps(cases), env=env)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_value_that_cannot_work_is_refused(synced: Bake, kind: str) -> None:
    project = synced(broker=kind)
    urls: list[tuple[str, object, str]] = [
        ("broker_url", url, "is not a valid URL that begins with") for url in URLS[kind]
    ]
    refused = [*REFUSED, *urls, *(REFUSED_BY_REDIS if kind == "redis" else [])]
    usual, *said = check(project, *[(name, value) for name, value, _ in refused])
    assert usual == []
    for (name, value, error), errors in zip(refused, said, strict=True):
        assert len(errors) == 1, (name, value, errors)
        assert errors[0].startswith((name, error)), (name, value, errors)
        assert error in errors[0], (name, value, errors)
        assert "\n" not in errors[0]


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_a_value_that_works_is_accepted(synced: Bake, kind: str) -> None:
    project = synced(broker=kind)
    accepted = [*ACCEPTED, *[("broker_url", url) for url in WORKING_URLS[kind]]]
    said = check(project, *accepted)
    assert not any(said), dict(zip([("the usual", ""), *accepted], said, strict=True))


@pytest.mark.parametrize(("url", "error"), RESULT_BACKENDS.items())
def test_a_result_backend_that_cannot_be_loaded_is_refused(
    synced: Bake, url: str, error: list[str]
) -> None:
    assert check(synced(), env={"CELERY_RESULT_BACKEND": url}) == [error]


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_a_setting_that_nobody_reads_stops_the_worker_and_beat_but_no_sender(
    synced: Bake, project: Bake, project_type: str
) -> None:
    answers = {"project_type": project_type, "broker": "redis", "result_backend": "none"}
    binaries = synced(**answers).path / ".venv" / "bin"
    made = project(**answers)
    name = "celeryconfig" if project_type == "celery" else "settings"
    settings = made.path / made.package / f"{name}.py"
    usual = settings.read_text().replace('"""\n', '"""\n' + HELPERS, 1)
    settings.write_text(usual + "".join(f"{name} = None\n" for name in MISTAKES[project_type]))
    said = [
        f"Celery has no setting {name}; {hint}" for name, hint in MISTAKES[project_type].items()
    ]
    with servers.valkey() as url, Service(made, f"{url}/0", env={"LOG_FORMAT": "json"}) as service:
        for command in ("worker", "beat"):
            done = service.run(binaries / "celery", "-A", made.package, command, check=False)
            assert done.returncode == 78
            lines = [json.loads(line) for line in done.stderr.splitlines()]
            assert [line["event"] for line in lines if line["level"] == "critical"] == said
            assert lines[-1]["event"] == said[-1]
        tasks = "celery_app.tasks" if project_type == "celery" else "jobs.tasks"
        send = f"from {made.package} import *; from {tasks} import add; add.delay(2, 3)"
        prepare = "import django; django.setup();" if project_type == "django" else ""
        variables = {"DJANGO_SETTINGS_MODULE": f"{made.package}.settings"}
        service.run(binaries / "python", "-c", prepare + send, env=variables)

        settings.write_text(f"{usual}{DECLARED[project_type]}\n")
        worker = (binaries / "celery", "-A", made.package, "worker", "--pool", "solo")
        service.start(*worker, "--loglevel", "INFO", ready=r" ready\.").wait_for("succeeded")


def test_no_grace_period_is_none(synced: Bake) -> None:
    project = synced()
    celery = (project.path / ".venv/bin/celery", "-A", project.package, "worker", "-l", "INFO")
    with servers.valkey() as url, Service(project, f"{url}/0", f"{url}/1") as service:
        no_grace = {"CELERY_SHUTDOWN_GRACE_PERIOD": "0"}
        worker = service.start(*celery, ready=r" ready\.", env=no_grace)
        service.python("from celery_app.tasks import report; report.delay(1000)")
        worker.wait_for("received")
        worker.stop()
        assert "Cold shutdown" in worker.output
