"""The tasks by themselves, called as functions."""

import re
import socket
from datetime import datetime

import pytest
from celery import current_app

#= from {{ cookiecutter.__tasks }} import add, reach, report, tell_time


def test_add_returns_the_sum() -> None:
    """A task can be called like any function."""
    assert add(2, 3) == 5


def test_report_writes_every_page() -> None:
    """The result tells how many pages there are."""
    assert report(1) == {"pages": 1}


def test_report_fails_without_a_page() -> None:
    """A task says by an exception that it has failed, and why."""
    with pytest.raises(ValueError, match=r"at least one page"):
        report(0)


def test_reach_returns_the_address_of_a_server() -> None:
    """It connects to a real server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert reach("127.0.0.1", server.getsockname()[1]) == "127.0.0.1"


def test_reach_raises_where_no_server_is() -> None:
    """Its caller sees the error; a worker tries again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError, match=r"refused"):
        reach("127.0.0.1", port)


def test_tell_time_logs_the_time_of_the_zone(caplog: pytest.LogCaptureFixture) -> None:
    """The line has the time with its offset, and what the task was called with."""
    caplog.set_level("INFO")
    tell_time("a test")
    (logged,) = re.findall(r"It is (\S+), a test", caplog.text)
    now = datetime.now(current_app.timezone)
    assert datetime.fromisoformat(logged).utcoffset() == now.utcoffset()
