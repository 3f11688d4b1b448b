"""What the tests share: real servers, and a real worker."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

#= from {{ cookiecutter.__app }} import app

#% if cookiecutter.project_type == "django"
#= from .away import no_broker, no_database{{ ", no_results" if cookiecutter.result_backend == "redis" }}  # noqa: F401
from .database import database, django_db_modify_db_settings  # noqa: F401
#% endif
from .lab import Lab
#% if cookiecutter.__redis
from .valkey import ADDRESS, valkey  # noqa: F401
#% endif
from .worker import Worker

# The servers that the environment names, else the tests' own; never those that `.env` names.
#= os.environ.setdefault("CELERY_BROKER_URL", {{ 'f"{ADDRESS}/0"' if cookiecutter.broker == "redis" else cookiecutter._brokers[cookiecutter.broker].url | quoted }})
#% if cookiecutter.result_backend == "redis"
os.environ.setdefault("CELERY_RESULT_BACKEND", f"{ADDRESS}/1")
#% endif
# Some tests look at every task.
#= app.{{ "autodiscover_tasks(force=True)" if cookiecutter.project_type == "django" else "loader.import_default_modules()" }}


@pytest.fixture(scope="session")
def broker() -> None:
    """Skip the tests that need the broker if it is down; fail them in CI."""
    in_ci = "CI" in os.environ
    with app.connection_for_write(connect_timeout=5) as connection:
        try:
            connection.ensure_connection(max_retries=10 if in_ci else 1)
        except OperationalError as error:
            if in_ci:
                raise
            #= wanted = "name a {{ cookiecutter._brokers[cookiecutter.broker].label }} in CELERY_BROKER_URL"
            pytest.skip(f"{wanted}; at {connection.as_uri()}: {error}")


@pytest.fixture(scope="session")
def worker(broker: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:  # noqa: ARG001
    """Run one worker for all tests that leave it alive."""
    with Worker(tmp_path_factory.mktemp("worker") / "worker.log") as worker:
        yield worker


@pytest.fixture
def lab(broker: None, tmp_path: Path) -> Iterator[Lab]:  # noqa: ARG001
    """Return a lab, and end what it has started."""
    lab = Lab(tmp_path)
    yield lab
    for worker in lab.workers:
        worker.kill()
