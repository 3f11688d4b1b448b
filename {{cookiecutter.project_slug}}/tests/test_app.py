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
    """It sends a slow task and several quick ones."""
    done = run_app()
    assert done.returncode == 0, done.stderr
    sums = "0 + 0, 1 + 1, 2 + 2, 3 + 3, 4 + 4"
    assert f"Sent, without waiting: a report of 3 pages, {sums}\n" in done.stdout
    worker.wait_for("{'pages': 3}")
    #% if cookiecutter.result_backend != "none"
    assert "4 + 4: 8" in done.stdout
    # The slow task was sent first, and finishes last.
    assert done.stdout.splitlines()[-1] == "a report of 3 pages: {'pages': 3}"
    #% endif


def test_it_says_in_one_line_that_the_broker_is_down() -> None:
    """Nothing listens on port 1."""
    #= url = "{{ cookiecutter._brokers[cookiecutter.broker].nowhere }}"
    done = run_app(CELERY_BROKER_URL=url)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Could not send to ")
    assert done.stderr.count("\n") == 1
