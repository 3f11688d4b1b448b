"""The command for dead letters: `python -m <package>.runtime.dead_letters`.

It lists them; `retry ID …` puts some back on their queues, and `delete ID …` throws some away.
Both take `--all` in place of ids.
"""

import argparse
import sys
from typing import Any

from celery.app.utils import find_app
from kombu.exceptions import OperationalError

from .app import BrokerFullError, QueueGoneError, ReliableCelery
from .letters import HEADER, publish

COMMANDS = {"retry": "put dead letters back on their queue", "delete": "throw dead letters away"}


def go_through(
    app: ReliableCelery, ids: set[str], *, everything: bool, delete: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """Take each dead letter of ``app`` once: put it back on its queue, or behind the others.

    Those with one of the ``ids``, or with ``everything`` all of this service, are put back. With
    ``delete`` they are thrown away; with both, so are those of another service. Return what is
    known of those that stay, and the ids of the others. The letters of a queue that is gone stay.
    A letter is acknowledged when its copy is published, so none is lost on the way.
    """
    kept: list[dict[str, Any]] = []
    done: list[str] = []
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
            wanted = everything or about["id"] in ids
            ours = about["id"] != "?"
            if wanted and (delete or (ours and put_back(app, channel, letter.body, about))):
                done.append(about["id"])
            else:
                publish(app, channel, letter.body, about)
                kept.append(about)
            letter.ack()
    return kept, done


def put_back(app: ReliableCelery, channel: Any, body: Any, about: dict[str, Any]) -> bool:
    """Put the message of a letter back on its queue, and tell whether that is there."""
    try:
        app.unseal(channel, body, about)
    except QueueGoneError as error:
        print(f"{about['id']} stays: {error}", file=sys.stderr)
        return False
    return True


def asked() -> tuple[str | None, set[str], bool]:
    """Return the command, the ids it is for, and whether it is for all."""
    parser = argparse.ArgumentParser(description="List, retry or delete dead letters.")
    commands = parser.add_subparsers(dest="command")
    for name, meaning in COMMANDS.items():
        command = commands.add_parser(name, help=meaning)
        command.add_argument("ids", nargs="*", metavar="ID")
        command.add_argument("--all", action="store_true")
    options = parser.parse_args()
    if not options.command:
        return None, set(), False
    if bool(options.ids) == options.all:
        parser.error(f"{options.command} needs either IDs or --all")
    return options.command, set(options.ids), options.all


def main() -> str | None:
    """Run the command; what is returned is an error."""
    command, wanted, everything = asked()
    delete = command == "delete"
    app: Any = find_app(str(__package__).rpartition(".")[0])
    try:
        kept, done = go_through(app, wanted, everything=everything, delete=delete)
    except BrokerFullError as error:
        return str(error)
    except OperationalError as error:
        return f"The broker cannot be reached: {error}"
    except Exception as error:
        if refusal := app.refusal(error):
            return str(refusal.text)
        raise
    for letter_id in done:
        print(f"{letter_id} {'is deleted' if delete else 'is back on its queue'}")
    if not command:
        for about in kept:
            call = f"{about.get('task') or 'no task'}{about.get('call', '')}"
            line = f"{about['id']} {call}: {about['reason']}"
            # Anything can be in a message; a line stays a line.
            print("".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in line))
        print(f"{len(kept)} dead letter{'s' * (len(kept) != 1)}")
    ids = {about["id"] for about in kept}
    if missing := wanted - ids - set(done):
        return f"No dead letter has the id {', '.join(sorted(missing))}"
    stay = ids - {"?"} if everything else ids & wanted
    return f"Not put back: {', '.join(sorted(stay))}" if stay else None


if __name__ == "__main__":
    sys.exit(main())
