"""Send some tasks: `python app.py`."""

import sys

from kombu.exceptions import OperationalError
from kombu.utils.url import maybe_sanitize_url

from celery_app import app
from celery_app.tasks import add, report


def main() -> None:
    """Send a slow task and several quick ones without waiting."""
    report.delay(3)
    for number in range(5):
        add.delay(number, number)
    sums = ", ".join(f"{number} + {number}" for number in range(5))
    print(f"Sent, without waiting: a report of 3 pages, {sums}")
    print("Results are not kept; the worker's log shows the tasks finish.")


if __name__ == "__main__":
    try:
        main()
    except OperationalError as error:
        url = maybe_sanitize_url(app.conf.broker_url)
        sys.exit(f"Could not send to {url}: {error}. Start the servers: uv run honcho start")
