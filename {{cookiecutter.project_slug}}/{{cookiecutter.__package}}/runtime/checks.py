"""Stops a worker or beat whose configuration is wrong before it starts, with a line for each error.

Celery says nothing of a setting that it does not know, and fails over a wrong value when it uses
it. Senders are not stopped. The exit status is 78: a restart does not help.
"""

import difflib
import logging
import os
from collections.abc import Iterator
from datetime import timedelta
from types import NoneType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from celery.app.defaults import _OLD_SETTING_KEYS  # type: ignore[attr-defined]
from celery.exceptions import ImproperlyConfigured

from .health import heartbeat_file

# The exit status of a process that no restart helps; systemd reads it in RestartPreventExitStatus.
EX_CONFIG = 78
# The types of settings. What is imported into a module of settings, or only helps, has another.
DATA = (NoneType, str, int, float, list, tuple, set, dict, timedelta)
# The settings that Celery 5.7 reads and gives no default.
WITHOUT_DEFAULT = {
    "cassandra_secure_bundle_path",
    "db_reuse_max",
    "dynamodb_endpoint_url",
    "firestore_project",
    "gcs_threadpool_maxsize",
    "redis_backend_credential_provider",
    "redis_backend_health_check_interval",
    "redis_client_name",
    "result_backend_thread_safe",
}
# The highest value of each number, and whether it can be None. The lowest is 0.
LONGEST = 1e9  # seconds; a timer of the system does not take much more
NUMBERS: dict[str, tuple[float, bool]] = {
    "metrics_port": (65535, True),
    "redelivery_limit": (1_000_000, False),
    "shutdown_grace_period": (LONGEST, False),
    "task_soft_time_limit": (LONGEST, True),
    "task_time_limit": (LONGEST, True),
}

logger = logging.getLogger(__name__)


def stop_if_wrong(app: Any) -> None:
    """Log what is wrong with the configuration of ``app``; if anything is, raise SystemExit."""
    found = errors(app)
    for error in found:
        logger.critical(error)
    if found:
        raise SystemExit(EX_CONFIG)


def errors(app: Any) -> list[str]:
    """Return what is wrong with the configuration of ``app``, each error in one line."""
    found = [*wrong_numbers(app), *wrong_addresses(app)]
    found = found or [*app.wrong_settings(), *wrong_sentinels(app)]
    values = (f"{spelled(app, name)} {' '.join(error.split())}" for name, error in found)
    return [*unknown_settings(app), *values, *wrong_directory()]


def wrong_directory() -> Iterator[str]:
    """Yield an error if no heartbeat file can be written."""
    directory = heartbeat_file("worker").parent
    if not os.access(directory, os.W_OK):
        yield f"{directory} cannot be written to; set HEARTBEAT_DIR to a directory that can"


def spelled(app: Any, name: str) -> str:
    """Return the name of a setting as the configuration has it, in Django with CELERY_."""
    prefix = app.conf.prefix
    return f"{prefix}{name.upper()}" if prefix else name


def unknown_settings(app: Any) -> Iterator[str]:
    """Yield an error for each setting that nobody reads.

    Known are the names that have a default in Celery, `WITHOUT_DEFAULT`, and `known_settings`.
    """
    conf, source = app.conf.finalize(), app.loader.conf or {}
    known = {"deprecated_settings", *WITHOUT_DEFAULT, *conf["known_settings"]}
    known.update(*(names for names in conf.maps[1:] if names is not source))
    if prefix := conf.prefix:
        given = {name for name in source if name.startswith(prefix)}
    else:
        given = {name for name in source if name[0] != "_" and isinstance(source[name], DATA)}
    for name in sorted((given | set(conf.changes)) - known - _OLD_SETTING_KEYS):
        plain = name.upper().removeprefix("CELERY_").lower()
        if prefix and plain in known:
            continue
        if close := difflib.get_close_matches(plain, known, n=1, cutoff=0.7):
            hint = f"did you mean {spelled(app, close[0])}?"
        else:
            hint = f"if something else reads it, add it to {spelled(app, 'known_settings')}"
        yield f"Celery has no setting {name}; {hint}"


def wrong_numbers(app: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of numbers that the runtime cannot work with, each with the error."""
    for name, (highest, optional) in NUMBERS.items():
        value, whole = app.conf[name], isinstance(highest, int)
        if value is None and optional:
            continue
        if not (isinstance(value, int if whole else int | float) and 0 <= value <= highest):
            number = "a whole number" if whole else "a number"
            none = ", or None" if optional else ""
            yield name, f"is {value!r}; it must be {number} from 0 to {highest:.0f}{none}"
    soft, hard = app.conf.task_soft_time_limit, app.conf.task_time_limit
    if is_number(soft) and is_number(hard) and 0 < hard <= soft:
        yield "task_soft_time_limit", f"is {soft}; it must be less than the time limit, {hard}"


def is_number(value: Any) -> bool:
    """Tell whether a value is a number."""
    return isinstance(value, int | float)


def wrong_addresses(app: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of settings that lead to no server, each with the error; show no password."""
    wanted = " or ".join(f"{scheme}://" for scheme in app.schemes)
    for name in ("broker_read_url", "broker_write_url"):
        try:
            schemes = {url.scheme for url in split_urls(getattr(app.conf, name))}
        except ValueError:
            schemes = set()
        if len(schemes) != 1 or not schemes.issubset(app.schemes):
            yield (
                name if app.conf[name] else "broker_url",
                f"is not a valid URL that begins with {wanted}, or not the same for each server",
            )
            break
    if not isinstance(app.conf.broker_transport_options, dict):
        yield "broker_transport_options", "must be a dictionary"
    try:
        _ = app.backend
    except (ImportError, ImproperlyConfigured) as error:
        yield "result_backend", f"cannot be loaded: {error}"
    except ValueError:
        yield "result_backend", "is not a valid URL"


def wrong_sentinels(app: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of settings that disagree on whether Sentinel names the server."""
    options_of = {
        "broker_url": "broker_transport_options",
        "result_backend": "result_backend_transport_options",
    }
    used = [url for url in options_of if "sentinel://" in str(app.conf[url])]
    named = [url for url, options in options_of.items() if app.conf[options].get("master_name")]
    for url in used:
        if url not in named:
            text = "has no master_name, which sentinels need: set CELERY_SENTINEL_MASTER"
            yield options_of[url], text
    if named and not used:
        yield named[0], "must begin with sentinel://, since CELERY_SENTINEL_MASTER is set"


def split_urls(urls: Any) -> list[SplitResult]:
    """Return the parts of the URLs of a broker; raise ValueError if one of them is not valid."""
    servers = urls.split(";") if isinstance(urls, str) else list(urls or ())
    parts = [urlsplit(url) for url in servers]
    _ = [part.port for part in parts]
    return parts
