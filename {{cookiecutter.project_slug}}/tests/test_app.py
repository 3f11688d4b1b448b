"""`app.py`, run as a person runs it."""

import os
import subprocess
import sys
from pathlib import Path

from .worker import Worker


def run_app(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [sys.executable, "app.py"],
        cwd=Path(__file__).parent.parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_it_sends_tasks_and_shows_them_finish(worker: Worker) -> None:
    """A slow one and several quick ones."""
    done = run_app()
    assert done.returncode == 0, done.stderr
    #% if cookiecutter.result_backend == "none"
    assert "Sent: 4 + 4" in done.stdout
    worker.wait_for("{'pages': 6}")
    #% else
    assert "4 + 4: 8" in done.stdout
    # The slow one was sent first, and is the last to finish.
    assert done.stdout.splitlines()[-1] == "a report of 6 pages: {'pages': 6}"
    assert "report" in worker.output()
    #% endif


def test_it_says_in_one_line_that_no_broker_answers() -> None:
    """Nothing listens at port 1."""
    #% if cookiecutter.broker == "redis"
    done = run_app(CELERY_BROKER_URL="redis://localhost:1/0")
    #% else
    done = run_app(CELERY_BROKER_URL="amqp://guest:guest@localhost:1//")
    #% endif
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("No task can be sent to ")
    assert done.stderr.count("\n") == 1
