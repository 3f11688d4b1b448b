"""Servers that cannot be reached."""

from collections.abc import Iterator
from functools import partial

import pytest
from celery import current_app as app
from django.db import connection


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send sums to a port where nothing listens."""
    add = app.tasks["jobs.tasks.add"]
    #= nowhere = app.connection_for_write("{{ cookiecutter._brokers[cookiecutter.broker].nowhere }}")
    send = partial(add.apply_async, connection=nowhere)  # type: ignore[call-arg]
    monkeypatch.setattr(add, "apply_async", send)


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lead to a database that is not there."""
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "NAME", "/nowhere/at/all")
    yield
    connection.close()
#% if cookiecutter.result_backend == "redis"


@pytest.fixture
def no_results(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read results from a port where nothing listens."""
    #= nowhere = type(app.backend)(app=app, url="{{ cookiecutter._brokers.redis.nowhere }}")
    monkeypatch.setattr(app.backend, "mget", nowhere.mget)  # type: ignore[attr-defined]
#% endif
