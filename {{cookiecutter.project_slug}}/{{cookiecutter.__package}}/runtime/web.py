"""Django's web requests in the log: each has one line, and an id that travels with its tasks."""

import logging
import re
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponseBase
from structlog.contextvars import bound_contextvars

from . import logs


def log_configuration() -> dict[str, Any]:
    """Return a log for `dictConfig` with one line for each web request, by `log_requests`."""
    return logs.configuration() | {
        "loggers": {
            "gunicorn.error": {"propagate": True},
            "gunicorn.access": {"level": "CRITICAL"},
            "django.server": {"level": "CRITICAL"},
        }
    }


def configure_logs() -> None:
    """Log what the web server and Django say as everything else."""
    logs.configure(log_configuration())
    logging.getLogger("django.request").addFilter(has_traceback)


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
            # A probe asks every few seconds: its line says something only where it fails.
            well = request.path == "/health/" and response.status_code == HTTPStatus.OK
            logger.log(
                logging.DEBUG if well else logging.INFO,
                "request",
                method=request.method,
                path=request.path,
                status=response.status_code,
                milliseconds=round((time.monotonic() - start) * 1000),
            )
        return response

    return respond
