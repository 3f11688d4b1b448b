"""What a dead letter is: a message as it came, with the reason why it was put aside.

The message is the body of the letter, in the form that the app of its broker gives it (`seal`);
what is known of it is in the letter's header `dead_letter`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from .app import ReliableCelery

HEADER = "dead_letter"
LONGEST = 1000  # characters of a text: RabbitMQ takes no more than 128 KiB of headers in all


@dataclass(eq=False)
class Letter:
    """A message that is put aside, because of a ``reason``; ``origin`` leads back to its queue."""

    message: Any
    reason: str
    origin: dict[str, str]
    cause: str
    buried: Callable[[], None]  # called once the broker has the letter

    @property
    def name(self) -> str:
        """Return what a line of the log calls it."""
        known = known_of(self.message)
        named = known["task"] and known["id"]
        return f"Task {known['task']}[{known['id']}]" if named else "A message"


def known_of(message: Any) -> dict[str, Any]:
    """Return the id and name of the task, if a message has them, and a text of its arguments."""
    headers = message.headers if isinstance(message.headers, dict) else {}
    texts = {key: value for key, value in headers.items() if isinstance(value, str)}
    call = f"{texts.get('argsrepr', '')} {texts.get('kwargsrepr', '')}".strip()
    return {"id": texts.get("id"), "task": texts.get("task"), "call": call[:LONGEST]}


def post(app: ReliableCelery, channel: Any, letter: Letter) -> None:
    """Put a letter into the queue of dead letters; return when the broker has confirmed it."""
    known = known_of(letter.message)
    body, kept = app.seal(letter.message)
    about = known | letter.origin | kept | {"reason": letter.reason[:LONGEST]}
    about["id"] = known["id"] or str(uuid4())  # the command needs one
    publish(app, channel, body, about)


def publish(app: ReliableCelery, channel: Any, body: Any, about: dict[str, Any]) -> None:
    """Publish a letter with this ``body``, and what is known of it."""
    queue = app.dead_letter_queue(channel)
    queue.declare()
    app.amqp.Producer(channel, auto_declare=False).publish(
        body.encode() if isinstance(body, str) else body,  # amqp reads an empty one as text
        exchange="",
        routing_key=queue.name,
        headers={HEADER: about},
        content_type="application/octet-stream",
        content_encoding="binary",
    )
