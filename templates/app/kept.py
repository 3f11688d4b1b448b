"""Send some tasks and see them finish: `python app.py`, while a worker runs."""

import sys
import time
from typing import Any

from celery.exceptions import BackendGetMetaError
from celery.result import AsyncResult
from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from celery_app import app
from celery_app.tasks import add, report


def main() -> None:
    """Send a slow task and several quick ones without waiting, then show them finish."""
    waiting: dict[str, AsyncResult[Any]] = {"a report of 3 pages": report.delay(3)}
    for number in range(5):
        waiting[f"{number} + {number}"] = add.delay(number, number)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    # In a terminal, moving bars; in a file, only the lines.
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


if __name__ == "__main__":
    try:
        main()
    except OperationalError as error:
        url = maybe_sanitize_url(app.conf.broker_url)
        sys.exit(f"Could not send to {url}: {error}. Start the servers: uv run honcho start")
    except BackendGetMetaError as error:
        sys.exit(f"The results cannot be read: {error.__cause__}. The tasks go on.")
    except KeyboardInterrupt:
        sys.exit("Stopped waiting; the tasks go on.")
