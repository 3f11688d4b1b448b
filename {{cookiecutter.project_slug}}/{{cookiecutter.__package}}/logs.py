#% set django = cookiecutter.project_type == "django"
"""Logs: what the service and its libraries say, each event in one line on standard error.

LOG_FORMAT is `console`, for people, or `json`, one object in each line. What is said about a task
carries its name and id, also in the worker's main process.
#% if django

Each web request has an id, which travels with the tasks that it sends and is in their lines too.
#% endif
"""

import logging.config
import os
import re
import sys
import threading
#% if django
import time
import uuid
from collections.abc import Callable
#% endif
from contextlib import AbstractContextManager
from typing import Any
#% if django
from weakref import WeakValueDictionary
#% endif

import structlog
from celery import current_app, signals
from celery.apps import beat, worker
from celery.utils.log import get_logger, get_multiprocessing_logger
#% if django
from django.http import HttpRequest, HttpResponseBase
#% endif
#% if django
from structlog.contextvars import (
    bind_contextvars,
    bound_contextvars,
    get_contextvars,
    reset_contextvars,
)
#% else
from structlog.contextvars import bind_contextvars, bound_contextvars, reset_contextvars
#% endif
from structlog.typing import EventDict

# The password in any URL: `://user:password@`.
PASSWORD = re.compile(r"(://[^\s/:@]*:)\S+@")
# How Celery names a task, where nothing else says which one is meant.
TASK = re.compile(r"\b[Tt]ask:? (\S+?)\[([^\]\s]+)\]")
#% if django

# What the worker's main process has in hand, by task id.
requests: WeakValueDictionary[str, Any] = WeakValueDictionary()
#% endif


def is_json() -> bool:
    """Tell whether each line is to be an object."""
    return os.environ.get("LOG_FORMAT") == "json"


def configuration(
    level: str | int = "INFO", logfile: str | None = None, *, colors: bool | None = None
) -> dict[str, Any]:
    """Return a log for `dictConfig`: from ``level`` on, to a file or to standard error."""
    renderer: list[Any]
    if is_json():
        renderer = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        colors = sys.stderr.isatty() if colors is None else colors
        plain = structlog.dev.plain_traceback  # others show the values of variables
        console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)
        renderer = [drop_repeated, console]
    processors = [
        structlog.processors.TimeStamper(fmt="iso", utc=is_json()),
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.contextvars.merge_contextvars,
        add_task,
        structlog.processors.StackInfoRenderer(),
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        *renderer,
        hide_passwords,
    ]
    formatter = {"()": structlog.stdlib.ProcessorFormatter, "processors": processors}
    # The original stream: Celery redirects the other one to the log.
    output = {"class": "logging.StreamHandler", "stream": "ext://sys.__stderr__"}
    if logfile:
        output = {"class": "logging.handlers.WatchedFileHandler", "filename": logfile}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"output": output | {"formatter": "line"}},
        "root": {"level": level, "handlers": ["output"]},
        #% if django
        "loggers": {
            "gunicorn.error": {"propagate": True},
            # A request has its line already.
            "gunicorn.access": {"level": "CRITICAL"},
            "django.server": {"level": "CRITICAL"},
        },
        #% endif
    }


def configure(
    level: str | int = "INFO", logfile: str | None = None, *, colors: bool | None = None
) -> None:
    """Log what comes through `logging`, `structlog` and `warnings`, as `configuration` says."""
    logging.config.dictConfig(configuration(level, logfile, colors=colors))
    logging.captureWarnings(capture=True)
    #% if django
    logging.getLogger("django.request").addFilter(has_traceback)
    #% endif
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def add_task(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Add the name and the id of the task that a line of Celery's names."""
    if "task_id" not in event and (match := TASK.search(str(event["event"]))):
        #% if django
        request = requests.get(match[2])
        event.update(context(match[1], match[2], request.request_dict if request else {}))
        #% else
        event.update(context(match[1], match[2]))
        #% endif
    return event


def drop_repeated(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Leave out the name and the id of a task where the text has them."""
    if f"[{event.get('task_id')}]" in str(event["event"]):
        del event["task"], event["task_id"]
    return event


def hide_passwords(_logger: Any, _method: str, line: str) -> str:
    """Return the line without the passwords of URLs."""
    return PASSWORD.sub(r"\1***@", line)


#% if django
def context(name: str, task_id: str, headers: dict[str, Any]) -> dict[str, Any]:
    """Return what lines about a task carry; its message has the ``headers``."""
    request_id = headers.get("request_id")
    return {"task": name, "task_id": task_id} | ({"request_id": request_id} if request_id else {})


def about(request: Any) -> AbstractContextManager[None]:
    """Return a context in which all lines are about the task of Celery's ``request``."""
    return bound_contextvars(**context(request.name, request.id, request.request_dict))
#% else
def context(name: str, task_id: str) -> dict[str, Any]:
    """Return what lines about a task carry."""
    return {"task": name, "task_id": task_id}


def about(request: Any) -> AbstractContextManager[None]:
    """Return a context in which all lines are about the task of Celery's ``request``."""
    return bound_contextvars(**context(request.name, request.id))
#% endif


@signals.task_prerun.connect
def begin_task(task: Any, **_: Any) -> None:
    """Let the lines of a task carry its name and id, whoever writes them."""
    #% if django
    values = context(task.name, task.request.id, vars(task.request))
    #% else
    values = context(task.name, task.request.id)
    #% endif
    task.request.log_context = bind_contextvars(**values)


@signals.task_postrun.connect
def end_task(task: Any, **_: Any) -> None:
    """Return to what lines carried before."""
    reset_contextvars(**task.request.log_context)


@signals.setup_logging.connect
def configure_celery(loglevel: int, logfile: str | None, colorize: bool, **_: Any) -> None:  # noqa: FBT001
    """Take the place of Celery's own logging, in workers and beat; `print` becomes a line too."""
    configure(loglevel, logfile, colors=colorize)
    pool: Any = get_multiprocessing_logger()
    pool.propagate = True
    pool.setLevel(logging.ERROR)
    # In a terminal, `print` stays as it is: a debugger talks that way.
    if current_app.conf.worker_redirect_stdouts and not sys.stdout.isatty():
        current_app.log.redirect_stdouts(current_app.conf.worker_redirect_stdouts_level)


@signals.celeryd_init.connect
def keep_to_lines(instance: Any, **_: Any) -> None:
#% if django
    """Write nothing beside the log where each line is an object."""
#% else
    """Log from the start, and write nothing beside the log where each line is an object."""
#% endif
#% if not django
    configure()  # until the level is known
#% endif
    if is_json():
        instance.quiet = True
        worker.safe_say = say  # type: ignore[attr-defined]


def say(message: str, *_: Any) -> None:
    """Log what Celery says in a signal handler; from a thread, as the log may be in use."""
    logger = get_logger(worker.__name__)
    threading.Thread(target=logger.warning, args=(message.strip(),)).start()


class Beat(beat.Beat):
    """Beat, without its banner where each line is an object."""

    def __init__(self, **options: Any) -> None:
        """Prepare it with the ``options`` of Celery's command."""
        super().__init__(**options)
#% if not django
        configure()  # until the level is known
#% endif
        self.quiet: bool = options.get("quiet", False) or is_json()
#% if django


@signals.before_task_publish.connect
def send_request_id(headers: dict[str, Any], **_: Any) -> None:
    """Send the id of the request with a task, also with those that tasks send."""
    if request_id := get_contextvars().get("request_id"):
        headers["request_id"] = request_id


def has_traceback(record: logging.LogRecord) -> bool:
    """Keep Django's own lines about a request where they say more than its status."""
    return bool(record.exc_info)


def log_requests(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Give each request an id, that of `X-Request-ID` if it has one, and log it when answered."""
    logger = structlog.get_logger(__name__)

    def respond(request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if re.fullmatch(r"[A-Za-z0-9-]{1,64}", given) else str(uuid.uuid4())
        start = time.monotonic()
        with bound_contextvars(request_id=request_id):
            response = get_response(request)
            response["X-Request-ID"] = request_id
            logger.info(
                "request",
                method=request.method,
                path=request.path,
                status=response.status_code,
                milliseconds=round((time.monotonic() - start) * 1000),
            )
        return response

    return respond
#% endif
