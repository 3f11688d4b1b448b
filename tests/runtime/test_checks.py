"""A configuration that is wrong stops a worker and beat, in one line for each error."""

import importlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import pytest
from celery.app.defaults import _OLD_SETTING_KEYS  # type: ignore[attr-defined]

from runtime import checks, logs, redis
from runtime.app import ReliableCelery
from tests.runtime.conftest import BROKERS, MakeApp

REDIS = {"broker_url": "redis://localhost:6379/0", "broker_transport_options": {}}
trace: Any = importlib.import_module("celery.app.trace")
PASSWORD = "hidden-7f3a"  # noqa: S105


def on_redis(settings: dict[str, Any], namespace: str | None = None) -> ReliableCelery:
    """Return an app on Redis with these settings beside those that are right."""
    app = redis.ReliableCelery("named")
    configuration = REDIS | settings
    if namespace:
        configuration = {f"{namespace}_{key.upper()}": each for key, each in configuration.items()}
    app.config_from_object(configuration, namespace=namespace)
    return app


def test_the_tested_configuration_is_right(app: Any) -> None:
    assert checks.errors(app) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("task_ack_late", "Celery has no setting task_ack_late; did you mean task_acks_late?"),
        ("worker_prefetch_multipler", "did you mean worker_prefetch_multiplier?"),
        ("shutdown_grace_periode", "did you mean shutdown_grace_period?"),
        ("something_else", "if something else reads it, add it to known_settings"),
    ],
)
def test_a_setting_that_nobody_reads_is_said_with_what_was_meant(name: str, said: str) -> None:
    (error,) = checks.errors(on_redis({name: True}))
    assert said in error
    assert checks.errors(on_redis({name: True, "known_settings": [name]})) == []


def test_what_celery_reads_without_a_default_is_known() -> None:
    # A name of several words, in a call or an attribute that leads to the configuration.
    read = re.compile(r"""(?:\bconf\.get|\b_get|\bconf,)\(?\s*['"]((?:[A-Za-z]+_)+[A-Za-z]+)['"]""")
    texts = [path.read_text("utf-8") for path in Path(celery.__file__).parent.rglob("*.py")]
    names = {name.upper().removeprefix("CELERY_") for text in texts for name in read.findall(text)}
    given = {name.lower(): None for name in names - {key.upper() for key in _OLD_SETTING_KEYS}}
    assert len(given) > 30
    assert [*checks.unknown_settings(on_redis(given, "CELERY"))] == []
    unread = {each for each in checks.WITHOUT_DEFAULT if not any(each in text for text in texts)}
    assert unread == set()


def test_a_directory_that_takes_no_heartbeat_file_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, app: Any
) -> None:
    monkeypatch.setenv("HEARTBEAT_DIR", str(tmp_path / "none"))
    (error,) = checks.errors(app)
    assert error == (
        f"{tmp_path / 'none'} cannot be written to; set HEARTBEAT_DIR to a directory that can"
    )


def test_in_django_a_setting_is_spelled_as_it_is_there() -> None:
    assert checks.errors(on_redis({"task_acks_late": True}, "CELERY")) == []
    (error,) = checks.errors(on_redis({"task_ack_late": True}, "CELERY"))
    said = "Celery has no setting CELERY_TASK_ACK_LATE; did you mean CELERY_TASK_ACKS_LATE?"
    assert error == said
    (error,) = checks.errors(on_redis({"redelivery_limit": "three"}, "CELERY"))
    assert error.startswith("CELERY_REDELIVERY_LIMIT is 'three'; it must be a whole number")


@pytest.mark.parametrize("name", ["import", "_private", "crontab"])
def test_what_a_module_of_settings_imports_is_no_setting(name: str) -> None:
    value: object = logging if name == "import" else logging.getLogger
    assert checks.errors(on_redis({name: 1 if name == "_private" else value})) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"metrics_port": 65536}, "metrics_port is 65536; it must be a whole number from 0"),
        ({"metrics_port": 1.5}, "metrics_port is 1.5"),
        ({"redelivery_limit": None}, "redelivery_limit is None"),
        ({"redelivery_limit": -1}, "redelivery_limit is -1"),
        ({"shutdown_grace_period": "25"}, "shutdown_grace_period is '25'; it must be a number"),
        ({"shutdown_grace_period": float("inf")}, "shutdown_grace_period is inf"),
        ({"task_time_limit": -5}, "task_time_limit is -5"),
        (
            {"task_time_limit": 10, "task_soft_time_limit": 10},
            "task_soft_time_limit is 10; it must be less than the time limit, 10",
        ),
        ({"broker_transport_options": []}, "broker_transport_options must be a dictionary"),
        ({"result_backend": "nothing://x"}, "result_backend cannot be loaded"),
        ({"broker_transport_options": {"visibility_timeout": 300}, "task_time_limit": 300},
         "a visibility_timeout of 300; it must be more than task_time_limit, 300"),
        ({"broker_url": "redis://localhost:6379/name"}, "must end with the number of a database"),
        ({"broker_url": "sentinel://localhost:26379"},
         "broker_transport_options has no master_name, which sentinels need: set CELERY_SENTINEL_"),
        ({"result_backend": "sentinel://localhost:26379"},
         "result_backend_transport_options has no master_name"),
        ({"broker_transport_options": {"master_name": "m"}}, "broker_url must begin with sentinel"),
        ({"result_backend_transport_options": {"master_name": "m"}},
         "result_backend must begin with sentinel://, since CELERY_SENTINEL_MASTER is set"),
        ({"broker_url": "sentinel://:a@one:1/0;sentinel://:b@two:1/0",
          "broker_transport_options": {"master_name": "m"}},
         "must have the same user, password and database for each sentinel"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_work_is_said_in_one_line(settings: dict[str, Any], said: str) -> None:
    (error,) = checks.errors(on_redis(settings))
    assert said in error
    assert "\n" not in error


@pytest.mark.parametrize(
    "settings",
    [
        {"metrics_port": None, "task_time_limit": None, "task_soft_time_limit": None},
        {"metrics_port": 0, "redelivery_limit": 0, "shutdown_grace_period": 0.5},
        {"broker_url": "redis://a:6379/0;redis://b:6379/0"},
        {"broker_url": "rediss://:secret@host/1"},
        {"broker_url": "sentinel://a:1;sentinel://b:2",
         "broker_transport_options": {"master_name": "m"}},
        {"result_backend": "sentinel://a:1",
         "broker_transport_options": {"master_name": "m"},
         "result_backend_transport_options": {"master_name": "m"}},
    ],
)  # fmt: skip
def test_a_value_that_works_is_right(settings: dict[str, Any]) -> None:
    assert checks.errors(on_redis(settings)) == []


@pytest.mark.parametrize("kind", BROKERS)
@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{PASSWORD}@host",
        f"redis://:{PASSWORD}@host:port/0",
        f"amqp://user:{PASSWORD}@[host//",
        f"amqp://user:{PASSWORD}@host//;redis://host",
        f"amqps://user:{PASSWORD}@one//;amqp://user:{PASSWORD}@two//",
        f"rediss://:{PASSWORD}@one/0;redis://:{PASSWORD}@two/0",
        "localhost",
    ],
)
def test_an_address_that_leads_nowhere_is_said_without_its_password(
    make_app: MakeApp, kind: str, url: str
) -> None:
    app = make_app(kind, broker_url=url)
    (error,) = checks.errors(app)
    assert error.startswith("broker_url is not a valid URL that begins with ")
    assert f"{app.schemes[0]}://" in error
    assert PASSWORD not in error


@pytest.mark.parametrize("with_logs", [False, True])
def test_a_worker_and_beat_do_not_start_and_say_each_error(
    caplog: pytest.LogCaptureFixture, *, with_logs: bool
) -> None:
    app: Any = on_redis({"task_ack_late": True, "redelivery_limit": -1})
    if with_logs:
        logs.install(app)
    starts: list[Callable[[], object]] = [
        lambda: app.Worker(quiet=True),
        lambda: app.Beat(quiet=True).init_loader(),
    ]
    for start in starts:
        caplog.clear()
        with pytest.raises(SystemExit) as stopped:
            start()
        trace.reset_worker_optimizations(app)
        assert stopped.value.code == 78
        said = [each for each in caplog.records if each.name == "runtime.checks"]
        assert [each.levelname for each in said] == ["CRITICAL", "CRITICAL"]
        assert "task_ack_late" in said[0].getMessage()
        assert "redelivery_limit" in said[1].getMessage()
