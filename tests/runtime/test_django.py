"""Django: tasks after a commit, and web requests in the log."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Task
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from structlog.contextvars import get_contextvars

from runtime import logs, web
from runtime.django import ReliableDjangoTask
from tests import servers
from tests.runtime.conftest import MakeApp, Take, length


def add(x: int, y: int) -> int:
    """Return the sum, as a task."""
    return x + y


def add_task(make_app: MakeApp, **options: Any) -> Task[..., int]:
    """Return the task of an app whose tasks are Django's."""
    app = make_app("redis", **options)
    app.task_cls = ReliableDjangoTask
    task: Task[..., int] = app.task(add)
    return task


@pytest.fixture(autouse=True)
def _database() -> Iterator[None]:
    """Close the database, and leave no filter at Django's loggers."""
    yield
    connection.close()
    logging.getLogger("django.request").removeFilter(web.has_traceback)
    for name in ("django.server", "gunicorn.access", "gunicorn.error"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize("way", ["delay_on_commit", "apply_async_on_commit"])
def test_a_task_is_sent_when_the_transaction_is_committed(
    make_app: MakeApp, take: Take, way: str
) -> None:
    task: Any = add_task(make_app)
    with transaction.atomic():
        if way == "delay_on_commit":
            task.delay_on_commit(2, y=3)
        else:
            task.apply_async_on_commit((2,), {"y": 3}, queue=task.app.main)
        assert length(task.app) == 0
    assert length(task.app) == 1
    args, kwargs, _ = take(task.app).payload
    assert (args, kwargs) == ([2], {"y": 3})


def test_a_task_of_a_transaction_that_is_rolled_back_is_not_sent(make_app: MakeApp) -> None:
    task: Any = add_task(make_app)
    with transaction.atomic():
        task.delay_on_commit(2, 3)
        transaction.set_rollback(True)
    assert length(task.app) == 0


def test_a_broker_that_cannot_be_reached_is_logged_and_later_hooks_run(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    task: Any = add_task(make_app, broker_url=f"redis://localhost:{servers.free_port()}")
    later: list[str] = []
    with transaction.atomic():
        task.delay_on_commit(2, 3)
        transaction.on_commit(lambda: later.append("done"))
    assert later == ["done"]
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is None
    assert re.match(rf"could not send {re.escape(task.name)}\(.*2, 3.*\): ", record.getMessage())


def test_an_error_of_the_task_s_own_is_logged_and_later_hooks_run(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    task: Any = add_task(make_app)
    later: list[str] = []
    with transaction.atomic():
        task.delay_on_commit("too few")
        transaction.on_commit(lambda: later.append("done"))
    assert later == ["done"]
    assert "missing 1 required positional argument" in caplog.text


def respond(request: HttpRequest) -> HttpResponse:
    """Answer with what lines of the log carry meanwhile."""
    return HttpResponse(json.dumps(get_contextvars()), status=418, headers={"X-Path": request.path})


@pytest.mark.parametrize("given", ["Client-42", "x" * 64])
def test_a_request_keeps_the_id_that_it_came_with(given: str) -> None:
    request = RequestFactory().get("/jobs/", headers={"X-Request-ID": given})
    response = web.log_requests(respond)(request)
    assert response["X-Request-ID"] == given
    assert get_contextvars() == {}


@pytest.mark.parametrize("given", [None, "", "x" * 65, "a b", '"', "a\nb", "ä"])
def test_a_request_without_a_usable_id_gets_one(given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    request = RequestFactory().get("/jobs/", headers=headers)
    response = web.log_requests(respond)(request)
    assert re.fullmatch(r"[0-9a-f-]{36}", response["X-Request-ID"])


def test_each_request_is_one_line_when_it_is_answered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    logs.configure(logs.configuration(logfile=str(tmp_path / "log")))
    request = RequestFactory().post("/jobs/?token=hidden", headers={"X-Request-ID": "Client-42"})
    response: Any = web.log_requests(respond)(request)
    assert json.loads(response.content) == {"request_id": "Client-42"}
    (line,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert line["milliseconds"] >= 0
    assert {key: line[key] for key in ("event", "method", "path", "status", "request_id")} == {
        "event": "request",
        "method": "POST",
        "path": "/jobs/",
        "status": 418,
        "request_id": "Client-42",
    }


def test_what_the_web_server_and_django_say_of_a_request_is_not_said_twice(
    capfd: pytest.CaptureFixture[str],
) -> None:
    web.configure_logs()
    for name in ("django.server", "gunicorn.access"):
        logging.getLogger(name).error("GET /jobs/ 200")
    logging.getLogger("gunicorn.error").warning("Booting worker")
    logging.getLogger("django.request").warning("Not Found: /jobs/")
    try:
        int("why")
    except ValueError:
        logging.getLogger("django.request").exception("Internal Server Error: /jobs/")
    said = capfd.readouterr().err
    assert "GET /jobs/" not in said
    assert "Not Found" not in said
    assert said.count("Booting worker") == 1
    assert said.count("Internal Server Error: /jobs/") == 1
    assert "ValueError: invalid literal" in said
