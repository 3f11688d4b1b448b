"""The tasks themselves, called as the functions that they are."""

import socket

import pytest
#% if cookiecutter.project_type == "django"

from jobs import tasks
#% else

from celery_app import tasks
#% endif


def test_add_returns_the_sum() -> None:
    """A task can be called like any function."""
    assert tasks.add(2, 3) == 5


def test_report_writes_every_page() -> None:
    """The result tells how many pages there are."""
    assert tasks.report(1) == {"pages": 1}


def test_report_fails_without_a_page() -> None:
    """An exception is how a task says that it has failed, and why."""
    with pytest.raises(ValueError, match=r"at least one page"):
        tasks.report(0)


def test_reach_returns_the_address_of_a_server() -> None:
    """It connects for real."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert tasks.reach("127.0.0.1", server.getsockname()[1]) == "127.0.0.1"


def test_reach_asks_for_another_try_where_no_server_is() -> None:
    """What may pass by itself is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match=r"refused"):
        tasks.reach("127.0.0.1", port)


def test_tell_time_logs_the_time_of_the_zone(caplog: pytest.LogCaptureFixture) -> None:
    """The line holds the offset of the schedule's time zone."""
    caplog.set_level("INFO")
    tasks.tell_time("a test")
    assert "a test" in caplog.text
