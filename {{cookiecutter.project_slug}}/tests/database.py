"""The database of the tests, for their workers too."""

import os
from urllib.parse import urlsplit

import pytest
from django.db import connection


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the database in a file instead of in memory, so that a worker can open it."""
    if connection.vendor == "sqlite":
        name = tmp_path_factory.mktemp("database") / "test.sqlite3"
        connection.settings_dict["TEST"]["NAME"] = str(name)


@pytest.fixture(scope="session", autouse=True)
def database(django_db_setup: None) -> None:  # noqa: ARG001
    """Lead the workers to the database of the tests."""
    url = urlsplit(os.environ.get("DATABASE_URL", "sqlite:///"))
    name = connection.settings_dict["NAME"]
    os.environ["DATABASE_URL"] = f"{url.scheme}://{url.netloc}/{name}"
