"""The log: one line for each event, which says whose it is and no password."""

import importlib
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import structlog
from structlog.contextvars import bound_contextvars, get_contextvars

from runtime import logs
from runtime.worker import ReliableRequest, current_request
from tests.projects import RUNTIME
from tests.runtime.conftest import MakeApp, StartWorker, Take
from tests.service import DEADLINE, wait_until

celery_worker: Any = importlib.import_module("celery.apps.worker")


# Sets the log up as a worker and beat do.
UNHANDLED = f"""
import sys
import threading
sys.path.append({str(RUNTIME.parent)!r})
from celery import Celery
from runtime import logs

app = Celery("service")
logs.install(app)
app.log.setup("INFO")
thread = threading.Thread(target=int, args=("thread",))
thread.start()
thread.join()
int("process")
"""


def fail(text: str) -> NoReturn:
    """Raise an error with a text."""
    raise ValueError(text)


Log = Callable[..., Callable[[], list[str]]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Log:
    """Give a function that starts a log in a format; it returns one that reads its lines."""
    path = tmp_path / "log"

    def log(log_format: str = "json", level: str = "INFO") -> Callable[[], list[str]]:
        monkeypatch.setenv("LOG_FORMAT", log_format)
        logs.configure(logs.configuration(level, str(path)))
        return lambda: path.read_text(encoding="utf-8").splitlines()

    return log


@pytest.fixture
def app(make_app: MakeApp) -> Any:
    """Return an app on Redis, whose log is ours."""
    app = make_app("redis", worker_redirect_stdouts=False)
    logs.install(app)
    return app


def test_each_event_is_one_object_in_a_line(log: Log) -> None:
    lines = log()
    logging.getLogger("library").info("%d lines,\nand more", 2)
    structlog.get_logger("ours").warning("said", pages=3)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    try:
        int("why")
    except ValueError:
        logging.getLogger("library").exception("failed")
    library, ours, warning, failed = map(json.loads, lines())
    for each in (library, ours, warning, failed):
        assert datetime.fromisoformat(each["timestamp"]).utcoffset() is not None
    assert (library["event"], library["level"]) == ("2 lines,\nand more", "info")
    assert library["logger"] == "library"
    assert (ours["event"], ours["pages"], ours["level"]) == ("said", 3, "warning")
    assert ours["logger"] == "ours"
    assert "DeprecationWarning: deprecated" in warning["event"]
    assert failed["exception"].startswith("Traceback")
    assert "\nValueError: invalid literal" in failed["exception"]


def test_people_read_a_line_with_no_colours_in_a_file(log: Log) -> None:
    lines = log("console")
    secret = "not in the log"  # noqa: S105
    structlog.get_logger("ours").info("said", pages=3)
    try:
        int(secret[:3])
    except ValueError:
        logging.getLogger("library").exception("failed")
    said, *failed = lines()
    assert "[info" in said
    assert "said" in said
    assert "pages=3" in said
    assert failed[-1].startswith("ValueError: invalid literal")
    text = "\n".join(lines())
    assert "\x1b" not in text
    assert secret not in text


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_what_is_below_the_level_is_left_out(log: Log, log_format: str) -> None:
    lines = log(log_format, "WARNING")
    for each in (logging.getLogger("library"), structlog.get_logger("ours")):
        each.info("too much")
        each.warning("enough")
    assert len(lines()) == 2
    assert all("enough" in line for line in lines())


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:hidden@host:6379/0", "redis://:***@host:6379/0"),
        ("amqp://user:hidden@host//", "amqp://user:***@host//"),
        ("at rediss://u:hidden/@!@host, twice", "at rediss://u:***@host, twice"),
        ("postgres://u:hidden@one/ amqp://u:hidden@two", "postgres://u:***@one/ amqp://u:***@two"),
        ("redis://host:6379/0 and me@example.org", "redis://host:6379/0 and me@example.org"),
    ],
)
def test_a_password_in_a_url_is_written_nowhere(
    log: Log, log_format: str, text: str, shown: str
) -> None:
    lines = log(log_format)
    logging.getLogger("library").info("at %s", text)
    structlog.get_logger("ours").info("said", url=text)
    try:
        fail(text)
    except ValueError:
        logging.getLogger("library").exception("failed")
    written = "\n".join(lines())
    assert "hidden" not in written
    assert written.count(shown) >= 3


def test_a_line_of_celery_s_about_a_task_has_its_name_and_id(log: Log) -> None:
    lines = log()
    with bound_contextvars(task="other", task_id="other"):
        structlog.get_logger("ours").info("in another task: Task add[one] received")
    logging.getLogger("celery").info("Task add[one] received")
    logging.getLogger("celery").info("no task at all [one]")
    inside, received, other = map(json.loads, lines())
    assert (inside["task"], inside["task_id"]) == ("other", "other")
    assert (received["task"], received["task_id"]) == ("add", "one")
    assert "request_id" not in received
    assert "task" not in other


def test_people_read_the_name_and_id_once(log: Log) -> None:
    lines = log("console")
    logging.getLogger("celery").info("Task add[one] received")
    with bound_contextvars(task="add", task_id="one"):
        logging.getLogger("library").info("working")
    received, working = lines()
    assert received.count("one") == 1
    assert "task_id=one" in working


@pytest.mark.parametrize("ids", [{}, {"task_id": None}, {"task_id": "one"}])
def test_a_line_that_looks_like_that_of_a_task_is_written(log: Log, ids: dict[str, Any]) -> None:
    lines = log("console")
    with bound_contextvars(**ids):
        logging.getLogger("library").info("rows: %s", [None])
        logging.getLogger("library").info("rows: [one]")
    assert ["rows: [None]" in lines()[0], "rows: [one]" in lines()[1]] == [True, True]


def test_a_line_about_a_known_request_has_the_id_of_its_web_request(
    app: Any,
    log: Log,
    take: Take,
) -> None:
    @app.task(name="add")
    def add() -> None:
        pass

    with bound_contextvars(request_id="web-1"):
        result = add.delay()
    request = ReliableRequest(take(app), app=app, task=add)
    lines = log()
    logging.getLogger("celery").info("Task add[%s] received", result.id)
    token = current_request.set(request)
    logging.getLogger("celery").info("Task handler raised error")
    current_request.reset(token)
    for line in map(json.loads, lines()):
        assert line["task"] == "add"
        assert line["task_id"] == result.id
        assert line["request_id"] == "web-1"


def test_a_request_s_id_is_sent_with_a_task_and_only_then(app: Any, take: Take) -> None:
    @app.task
    def noop() -> None:
        pass

    with bound_contextvars(request_id="web-1"):
        noop.delay()
    noop.delay()
    assert take(app).headers["request_id"] == "web-1"
    assert "request_id" not in take(app).headers


def test_lines_within_a_task_carry_its_name_and_id_until_it_ends(app: Any) -> None:
    seen: list[dict[str, Any]] = []

    @app.task(name="inner")
    def inner() -> None:
        seen.append(get_contextvars())

    @app.task(name="outer")
    def outer() -> None:
        inner.apply()
        seen.append(get_contextvars())

    with bound_contextvars(mine="stays"):
        result = outer.apply()
        assert get_contextvars() == {"mine": "stays"}
    within, after = seen
    assert (within["task"], after["task"]) == ("inner", "outer")
    assert after == {"mine": "stays", "task": "outer", "task_id": result.id}


def test_a_worker_s_lines_follow_a_web_request_through_all_its_tasks(
    app: Any,
    monkeypatch: pytest.MonkeyPatch,
    run_worker: StartWorker,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")

    @app.task(name="second")
    def second() -> None:
        logging.getLogger("library").info("by a library")

    @app.task(name="first")
    def first() -> None:
        second.delay()

    path = tmp_path / "log"
    with run_worker(app, logfile=str(path)):
        with bound_contextvars(request_id="web-1"):
            first.delay()
        wait_until(lambda: "Task second" in path.read_text().rpartition("succeeded")[0], "second")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    said = [line for line in lines if line.get("task") == "second"]
    assert [line["event"].partition("[")[0] for line in said[:2]] == ["Task second", "by a library"]
    assert all(line["request_id"] == "web-1" for line in said)
    assert len({line["task_id"] for line in said}) == 1


def test_what_is_printed_in_a_worker_becomes_a_line(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, run_worker: StartWorker, tmp_path: Path
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # to be put back
    monkeypatch.setenv("LOG_FORMAT", "json")
    app = make_app("redis")
    logs.install(app)

    @app.task
    def say() -> None:
        print("printed")  # noqa: T201

    path = tmp_path / "log"
    with run_worker(app, logfile=str(path)):
        say.delay().get(timeout=DEADLINE)
    (line,) = (line for line in path.read_text().splitlines() if '"printed"' in line)
    assert json.loads(line)["level"] == "warning"


def test_what_nobody_handles_is_one_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    done = subprocess.run(
        [sys.executable, "-Bc", UNHANDLED], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["exception"].rpartition(": ")[2] for line in lines] == ["'thread'", "'process'"]
    assert {line["level"] for line in lines} == {"critical"}


@pytest.mark.parametrize(("log_format", "quiet"), [("json", True), ("console", False)])
def test_no_banner_stands_between_objects(
    app: Any,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    log_format: str,
    *,
    quiet: bool,
) -> None:
    say = celery_worker.safe_say
    monkeypatch.setattr(celery_worker, "safe_say", say)  # to be put back
    lines = log(log_format)
    worker = SimpleNamespace(quiet=False)
    logs.begin_worker(instance=worker)
    assert worker.quiet is quiet
    assert app.Beat(loglevel="INFO").quiet is quiet
    assert app.Beat(loglevel="INFO", quiet=True).quiet
    assert (celery_worker.safe_say is say) is not quiet
    if quiet:
        celery_worker.safe_say("\nworker: Warm shutdown (MainProcess)", sys.__stdout__)
        wait_until(lines, "it was not said")
        (line,) = map(json.loads, lines())
        assert line["event"] == "worker: Warm shutdown (MainProcess)"
