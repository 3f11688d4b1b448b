"""The command for dead letters: `python -m <package>.runtime.dead_letters`.

It lists them; `retry ID …` puts some back on their queues, `retry --all` puts back all.
"""

import argparse
import sys
from typing import Any

from celery.app.utils import find_app
from kombu.exceptions import OperationalError

from .app import BrokerFullError, QueueGoneError, ReliableCelery
from .letters import HEADER, publish


def go_through(
    app: ReliableCelery, retry: set[str], *, retry_all: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Take each dead letter of ``app`` once: put it back on its queue, or behind the others.

    Return what is known of those that stay, and the ids of those that are back on their queues. The
    letters of a queue that is gone stay. A letter is acknowledged when its copy is published, so
    none is lost on the way.
    """
    kept: list[dict[str, Any]] = []
    retried: list[str] = []
    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        channel = connection.default_channel
        dead: Any = app.dead_letter_queue(channel)
        dead.queue_declare()
        for _ in range(app.queue_length(connection, dead.name)):
            letter = dead.get()
            if letter is None:
                break
            unknown = {"id": "?", "reason": "it is not from this service"}
            about = unknown | letter.headers.get(HEADER, {})
            wanted = about["id"] != "?" and (retry_all or about["id"] in retry)
            if wanted and put_back(app, channel, letter.body, about):
                retried.append(about["id"])
            else:
                publish(app, channel, letter.body, about)
                kept.append(about)
            letter.ack()
    return kept, retried


def put_back(app: ReliableCelery, channel: Any, body: Any, about: dict[str, Any]) -> bool:
    """Put the message of a letter back on its queue, and tell whether that is there."""
    try:
        app.unseal(channel, body, about)
    except QueueGoneError as error:
        print(f"{about['id']} stays: {error}", file=sys.stderr)
        return False
    return True


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
    app: Any = find_app(str(__package__).rpartition(".")[0])
    try:
        kept, retried = go_through(app, wanted, retry_all=everything)
    except BrokerFullError as error:
        return str(error)
    except OperationalError as error:
        return f"The broker cannot be reached: {error}"
    except Exception as error:
        if refusal := app.refusal(error):
            return str(refusal.text)
        raise
    for letter_id in retried:
        print(f"{letter_id} is back on its queue")
    if not options.command:
        for about in kept:
            call = f"{about.get('task') or 'no task'}{about.get('call', '')}"
            line = f"{about['id']} {call}: {about['reason']}"
            # Anything can be in a message; a line stays a line.
            print("".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in line))
        print(f"{len(kept)} dead letter{'s' * (len(kept) != 1)}")
    ids = {about["id"] for about in kept}
    if missing := wanted - ids - set(retried):
        return f"No dead letter has the id {', '.join(sorted(missing))}"
    stay = ids - {"?"} if everything else ids & wanted
    return f"Not put back: {', '.join(sorted(stay))}" if stay else None


if __name__ == "__main__":
    sys.exit(main())
