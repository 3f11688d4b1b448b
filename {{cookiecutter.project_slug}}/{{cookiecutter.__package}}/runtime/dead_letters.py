"""Dead letters: messages that killed their worker too often, put aside by `poison.py`.

Run as a module, this lists them; `retry ID …` puts some back on their queues, `retry --all` all.
"""

import argparse
import sys
from typing import Any

from celery.app.utils import find_app
from kombu import Queue
from kombu.exceptions import OperationalError

from .app import ReliableCelery
from .poison import publish_again


def go_through(
    app: ReliableCelery, retry: set[str], *, retry_all: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Take each dead letter of ``app`` once: put it back on its queue, or behind the others.

    Return the headers of those that stay, and the ids of those that are back on their queues.

    A message is acknowledged when its copy is published, so none is lost on the way.
    """
    kept: list[dict[str, Any]] = []
    retried: list[str] = []
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        dead: Any = app.dead_letter_queue(connection.default_channel)
        producer = app.amqp.Producer(connection)
        for _ in range(dead.queue_declare().message_count):
            message = dead.get()
            if message is None:
                break
            headers = dict(message.headers)
            if retry_all or headers["id"] in retry:
                origin = headers.pop("dead_letter")
                target = Queue("", origin["exchange"], origin["routing_key"])
                publish_again(producer, message, headers, target)
                retried.append(headers["id"])
            else:
                publish_again(producer, message, headers, app.dead_letter_queue)
                kept.append(headers)
            message.ack()
    return kept, retried


def main() -> str | None:
    """Run the command; what is returned is an error."""
    parser = argparse.ArgumentParser(description="List dead letters, or put them back.")
    commands = parser.add_subparsers(dest="command")
    command = commands.add_parser("retry", help="put dead letters back on their queue")
    command.add_argument("ids", nargs="*", metavar="ID")
    command.add_argument("--all", action="store_true")
    options = parser.parse_args()
    wanted, everything = set(getattr(options, "ids", ())), getattr(options, "all", False)
    if options.command and bool(wanted) == everything:
        parser.error("retry needs either IDs or --all")
    try:
        app: Any = find_app(str(__package__).rpartition(".")[0])
        kept, retried = go_through(app, wanted, retry_all=everything)
    except OperationalError as error:
        return f"The broker cannot be reached: {error}"
    for task_id in retried:
        print(f"{task_id} is back on its queue")
    if not options.command:
        for headers in kept:
            call = f"{headers['task']}{headers['argsrepr']} {headers['kwargsrepr']}"
            print(f"{headers['id']} {call}: {headers['dead_letter']['reason']}")
        print(f"{len(kept)} dead letters")
    missing = wanted - set(retried)
    return f"No dead letter has the id {', '.join(sorted(missing))}" if missing else None


if __name__ == "__main__":
    sys.exit(main())
