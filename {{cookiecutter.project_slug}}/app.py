"""Send some tasks, and see them finish: `python app.py`, while a worker runs."""

import sys
#% if cookiecutter.result_backend != "none"
import time
from typing import Any
#% endif

#% if cookiecutter.result_backend != "none"
from celery.result import AsyncResult
#% endif
from kombu.exceptions import OperationalError

from celery_app import app
from celery_app.tasks import add, report


def main() -> None:
    """Send a slow task and several quick ones without waiting, then show them finish."""
#% if cookiecutter.result_backend == "none"
    report.delay(6)
    print("Sent: a report of 6 pages")
    for number in range(5):
        add.delay(number, number)
        print(f"Sent: {number} + {number}")
    print("Nobody waits for them: results are not kept. The worker's log shows them finish.")
#% else
    waiting: dict[str, AsyncResult[Any]] = {"a report of 6 pages": report.delay(6)}
    for number in range(5):
        waiting[f"{number} + {number}"] = add.delay(number, number)
    print("Sent, without waiting:", ", ".join(waiting))
    while waiting:
        for name, result in list(waiting.items()):
            if result.ready():
                print(f"{name}: {result.get()}")
                del waiting[name]
        time.sleep(0.05)
#% endif


if __name__ == "__main__":
    try:
        main()
    except OperationalError as error:
        url = app.connection_for_write().as_uri()
        sys.exit(f"No broker answers at {url}: {error}. Start one: python broker.py")
    except KeyboardInterrupt:
        sys.exit("Stopped waiting; the tasks go on.")
