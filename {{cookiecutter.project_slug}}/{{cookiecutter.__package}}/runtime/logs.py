"""Logs: one line on standard error for each event, of the service and of its libraries.

LOG_FORMAT is `console`, for people, or `json`, with one object in each line. Lines about a task
carry its name and id, also those of the worker's main process. Where a web request with an id sent
the task, directly or through other tasks, they carry that `request_id` too.
"""

import logging.config
import os
import re
import sys
import threading
from types import TracebackType
from typing import Any

import structlog
from celery import Celery, current_app, signals
from celery.apps import worker
from celery.utils.log import get_logger, get_multiprocessing_logger
from structlog.contextvars import bind_contextvars, get_contextvars, reset_contextvars
from structlog.typing import EventDict

from . import beat
from .worker import current_request, requests

# The password in any URL: `://user:password@`.
PASSWORD = re.compile(r"(://[^\s/:@]*:)\S+@")
# How Celery names a task in its lines.
TASK = re.compile(r"\b[Tt]ask:? (\S+?)\[([^\]\s]+)\]")


def install(app: Celery) -> None:
    """Write the log of the workers and the beat of ``app``, and send request ids with its tasks."""
    app.Beat = app.subclass_with_self(Beat)  # type: ignore[misc]
    signals.celeryd_init.connect(begin_worker)
    signals.setup_logging.connect(configure_celery)
    signals.task_prerun.connect(begin_task)
    signals.task_postrun.connect(end_task)
    signals.before_task_publish.connect(send_request_id)


def is_json() -> bool:
    """Tell whether each line must be a JSON object."""
    return os.environ.get("LOG_FORMAT") == "json"


def configuration(
    level: str | int = "INFO", logfile: str | None = None, *, colors: bool | None = None
) -> dict[str, Any]:
    """Return a log for `logging.config.dictConfig`.

    It has what is logged at ``level`` and above, and goes to ``logfile`` or to standard error;
    ``colors`` is by default whether that is a terminal.
    """
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
    }


def configure(config: dict[str, Any]) -> None:
    """Log what comes through `logging`, `structlog` and `warnings`, as `configuration` says."""
    logging.config.dictConfig(config)
    logging.captureWarnings(capture=True)
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
    """Add the name and the id of the task that a line of Celery's is about."""
    if "task_id" in event:
        return event
    if request := current_request.get():
        event.update(context(request.name, request.id, request.request_dict))
    elif match := TASK.search(str(event["event"])):
        known = requests.get(match[2])
        event.update(context(match[1], match[2], known.request_dict if known else {}))
    return event


def drop_repeated(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Leave out the name and the id of a task where the text has them."""
    if "task_id" in event and f"[{event['task_id']}]" in str(event["event"]):
        event.pop("task", None)
        del event["task_id"]
    return event


def hide_passwords(_logger: Any, _method: str, line: str) -> str:
    """Return the line without the passwords of URLs."""
    return PASSWORD.sub(r"\1***@", line)


def context(name: str, task_id: str, headers: dict[str, Any]) -> dict[str, Any]:
    """Return what lines about a task carry, whose message has these ``headers``."""
    request_id = headers.get("request_id")
    return {"task": name, "task_id": task_id} | ({"request_id": request_id} if request_id else {})


def begin_task(task: Any, **_: Any) -> None:
    """Let all lines carry the name and id of the task, until it ends."""
    values = context(task.name, task.request.id, vars(task.request))
    task.request.log_context = bind_contextvars(**values)


def end_task(task: Any, **_: Any) -> None:
    """Return to what lines carried before."""
    reset_contextvars(**task.request.log_context)


def configure_celery(loglevel: int, logfile: str | None, colorize: bool, **_: Any) -> None:  # noqa: FBT001
    """Replace Celery's own logging, in workers and beat; what is printed becomes a line too."""
    configure(configuration(loglevel, logfile, colors=colorize))
    pool: Any = get_multiprocessing_logger()
    pool.propagate = True
    pool.setLevel(logging.ERROR)
    # In a terminal, `print` stays as it is: a debugger talks that way.
    if current_app.conf.worker_redirect_stdouts and not sys.stdout.isatty():
        current_app.log.redirect_stdouts(current_app.conf.worker_redirect_stdouts_level)
    sys.excepthook = log_uncaught
    threading.excepthook = sys.unraisablehook = log_uncaught_elsewhere


def log_uncaught(
    kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None
) -> None:
    """Log what nobody handles as one event: Python would print it, and each line would be one."""
    logger = get_logger(__name__)
    logger.critical("Nobody handles %r", error, exc_info=(kind, error or kind(), traceback))


def log_uncaught_elsewhere(raised: Any) -> None:
    """Log an error that ended a thread, unless it is `SystemExit`, or that Python ignored."""
    if raised.exc_type is not SystemExit:
        log_uncaught(raised.exc_type, raised.exc_value, raised.exc_traceback)


def begin_log() -> None:
    """Log until Celery says at which level, unless a log is there already."""
    if not logging.getLogger().handlers:
        configure(configuration())


def begin_worker(instance: Any, **_: Any) -> None:
    """Log from the start; where each line is an object, write nothing beside the log."""
    begin_log()
    if is_json():
        instance.quiet = True
        worker.safe_say = say  # type: ignore[attr-defined]


def say(message: str, *_: Any) -> None:
    """Log what Celery says in a signal handler; in a thread, since the log may be locked."""
    logger = get_logger(worker.__name__)
    threading.Thread(target=logger.warning, args=(message.strip(),)).start()


class Beat(beat.Beat):
    """Beat, without its banner where each line is an object."""

    def __init__(self, **options: Any) -> None:
        """Prepare it with the ``options`` of Celery's command."""
        super().__init__(**options)
        begin_log()
        self.quiet: bool = options.get("quiet", False) or is_json()


def send_request_id(headers: dict[str, Any], **_: Any) -> None:
    """Send the id of the web request with a task, also with those that tasks send."""
    if request_id := get_contextvars().get("request_id"):
        headers["request_id"] = request_id
