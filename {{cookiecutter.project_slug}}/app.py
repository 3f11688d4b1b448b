"""Send some tasks, and see them finish: `python app.py`, while a worker runs."""

import sys
#% if cookiecutter.result_backend != "none"
import time
from typing import Any
#% endif

#% if cookiecutter.result_backend != "none"
from celery.exceptions import BackendGetMetaError
from celery.result import AsyncResult
#% endif
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url
#% if cookiecutter.result_backend != "none"
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
#% endif

from celery_app import app
from celery_app.tasks import add, report
#% if cookiecutter.result_backend == "none"


def main() -> None:
    """Send a slow task and several quick ones, and do not wait for them."""
    report.delay(6)
    print("Sent: a report of 6 pages")
    for number in range(5):
        add.delay(number, number)
        print(f"Sent: {number} + {number}")
    print("Nobody waits for them: results are not kept. The worker's log shows them finish.")
#% else


def main() -> None:
    """Send a slow task and several quick ones without waiting, then show them finish."""
    waiting: dict[str, AsyncResult[Any]] = {"a report of 6 pages": report.delay(6)}
    for number in range(5):
        waiting[f"{number} + {number}"] = add.delay(number, number)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    # In a terminal, bars that move; in a file, the lines alone.
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        console.print("Sent, without waiting:", ", ".join(waiting))
        bars = {name: progress.add_task(name, total=None, state="") for name in waiting}
        while waiting:
            for name, result in list(waiting.items()):
                info = result.info
                if isinstance(info, dict) and "done" in info:
                    progress.update(bars[name], completed=info["done"], total=info["total"])
                progress.update(bars[name], state=result.state)
                if result.ready():
                    console.print(f"{name}: {result.result}")
                    progress.remove_task(bars[name])
                    del waiting[name]
            time.sleep(0.05)
#% endif


if __name__ == "__main__":
    try:
        main()
    except OperationalError as error:
#% if cookiecutter.result_backend == "redis"
        if "result backend" in str(error):
            sys.exit(f"Nothing was sent: {error}. Start it: uv run honcho start")
#% endif
        url = maybe_sanitize_url(app.conf.broker_url)
        sys.exit(f"No task can be sent to {url} ({error}). To start a broker: uv run honcho start")
#% if cookiecutter.result_backend != "none"
    except BackendGetMetaError as error:
        sys.exit(f"The results cannot be read: {error.__cause__}. The tasks go on.")
#% endif
    except KeyboardInterrupt:
        sys.exit("Stopped waiting; the tasks go on.")
