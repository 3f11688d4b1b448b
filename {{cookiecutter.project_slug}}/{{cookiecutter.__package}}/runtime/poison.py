"""Puts messages aside that no worker can do: they become dead letters, see `dead_letters.py`.

There are two kinds. One is a message that is no task for this worker: nobody can read it, or no
task of its name is registered. The other keeps killing the whole worker, for example by using up
the memory: it is never acknowledged, so the broker delivers it again and again. After
`redelivery_limit` deaths it is put aside.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from celery.app.task import Context
from celery.bootsteps import StartStopStep
from celery.exceptions import NotRegistered
from celery.utils.log import get_logger
from celery.worker import state
from kombu import Queue

from .app import BrokerFullError, ReliableCelery
from .letters import Letter, known_of, post
from .worker import STATE, Errands, Line, message_buried, store

# Seconds. A count outlives any queue; it is removed when the task ends, however it ends.
STARTS_EXPIRE = 7 * 24 * 3600.0
# Seconds between looks at the pool and at slow calls, while something waits for them.
RECHECK = 0.05
LONGEST_ID = 60  # characters of an id in the name of a queue, which has at most 255 bytes
FULL_FOR = 60.0  # seconds after which a broker that was full is asked to count again
RETRY = 5.0  # seconds after which a letter that could not be posted is tried again
PATIENCE = 10.0  # seconds in which a worker that leaves removes the counts of its tasks

logger = get_logger(__name__)


class WorkerKilledError(Exception):
    """The failure of a task that killed its worker too often."""


class UnreadableMessageError(Exception):
    """The failure of a task whose message could not be read."""


def install(app: ReliableCelery) -> None:
    """Let the workers of ``app`` put such messages aside."""
    app.steps["consumer"].add(Guard)


class Ledger:
    """What the guard keeps in the broker, on a connection: counts of starts, or dead letters.

    The count of a task is a queue of its own, with one empty message more than there were starts.
    So it works with every broker and every result backend. Without a message, or without the queue,
    the task is not counted.
    """

    def __init__(self, app: ReliableCelery, connect: Callable[[], Any] | None = None) -> None:
        """Keep them in the broker of ``app``, on a connection that ``connect`` returns."""
        self.app = app
        self._do = Line(connect or app.connection_for_write).do

    def starts(self, task_id: str) -> int:
        """Return how often a redelivered task was started: once, if that was not counted."""
        counted: int = self._do(lambda channel: self._length(self._count(channel, task_id)))
        return counted - 1 if counted else 1

    def note(self, task_id: str, starts: int) -> bool:
        """Set how often a task was started; return True when the broker has confirmed it."""

        def note(channel: Any) -> bool:
            queue = self._count(channel, task_id)
            missing = starts + 1 - self._length(queue)
            producer = self.app.amqp.Producer(channel, auto_declare=False)
            for _ in range(missing):
                producer.publish("", exchange="", routing_key=queue.name)
            return True

        return bool(self._do(note))

    def clear(self, task_id: str) -> None:
        """Forget how often a task was started."""

        def clear(channel: Any) -> None:
            queue = self._count(channel, task_id)
            queue.queue_declare()
            queue.purge()

        self._do(clear)

    def remove(self, task_id: str) -> None:
        """Remove a count that was cleared. While a node of RabbitMQ is down, it takes 5 seconds."""

        def remove(channel: Any) -> None:
            queue = self._count(channel, task_id)
            if not self._length(queue):
                queue.delete()

        self._do(remove)

    def post(self, letter: Letter) -> bool:
        """Put a letter into the queue of dead letters; return True when the broker has it."""
        self._do(lambda channel: post(self.app, channel, letter))
        return True

    def _count(self, channel: Any, task_id: str) -> Any:
        if len(task_id) > LONGEST_ID:
            task_id = hashlib.sha256(task_id.encode()).hexdigest()
        name = f"{self.app.main}.starts.{task_id}"
        arguments = self.app.queue_arguments
        return Queue(name, expires=STARTS_EXPIRE, queue_arguments=arguments)(channel)

    def _length(self, queue: Any) -> int:
        queue.queue_declare()
        return self.app.queue_length(queue.channel.connection.client, queue.name)


class Guard(StartStopStep):
    """Stands between the broker and the pool, and looks at every message that comes again.

    It counts the starts of a redelivered message, and forgets them when the message leaves this
    worker in any way but by the worker's death. One that two workers did not survive starts only in
    an idle worker and has it to itself, so the next death is its own doing and not a neighbour's.
    After `redelivery_limit` redeliveries it becomes a dead letter. Meanwhile other messages wait
    behind it, and are counted too, since they may be lost with it. What waits only behind them is
    not counted: else one death would slow its worker down for as long as there are messages.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """Take the place of the pool, where the ``consumer`` hands over its requests."""
        super().__init__(consumer, **options)
        self.consumer, self.timer, self.app = consumer, consumer.timer, consumer.app
        self.counts, self.spent = Ledger(self.app), Ledger(self.app)
        # A letter must not be posted twice: it waits as long as the broker is full.
        self.mail = Ledger(self.app, self.app.patient_connection)
        # Nothing waits for another: each has its own thread.
        self.counting, self.removing = Errands("guard-counts"), Errands("guard-spent")
        self.posting = Errands("guard-letters")
        self.limit: int = self.app.conf["redelivery_limit"]
        self.run: Callable[[Any], None] = consumer.on_task_request
        consumer.on_task_request = self.receive
        consumer.on_unreadable = self.put_aside
        consumer.on_taken_back = self.keep_count
        self.held: deque[Any] = deque()  # requests that wait for their turn
        self.watched: set[Any] = set()  # running requests whose starts are counted
        self.taken_back: set[str] = set()  # the ids of those that the broker took back
        self.letters: dict[Letter, Future[Any]] = {}  # on their way to the dead letters
        self.delayed: dict[Letter, Any] = {}  # that could not be posted, with their timer's entries
        self.alone = self.ticking = False
        self.full_until = 0.0
        self.lock = threading.RLock()  # without an event loop, the timer has a thread of its own

    def start(self, consumer: Any) -> None:  # noqa: ARG002
        """After a (re)connect: what was held will be delivered again, what ran was cancelled."""
        self.stop(self.consumer)
        self.tick()

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        """Let go of what has not started; the broker delivers it again."""
        with self.lock:
            self.held.clear()
            # What was posted now would become a second letter when its message comes again.
            for future in self.letters.values():
                future.cancel()
            for entry in self.delayed.values():
                self.timer.cancel(entry)
            self.letters.clear()
            self.delayed.clear()

    def shutdown(self, consumer: Any) -> None:  # noqa: ARG002
        """Give back unfinished tasks without a count: this worker did not die of them."""
        for future in [self.clear(request.id) for request in self.watched]:
            try:
                future.exception(PATIENCE)
            except TimeoutError:
                logger.warning("Could not remove the counts of unfinished tasks in time")
                return

    # --- Messages that come again ---

    def receive(self, request: Any) -> None:
        """Take a request that is ready to run, in place of the pool."""
        redelivered = request.delivery_info["redelivered"]
        if not (self.held or self.alone or redelivered):
            self.run(request)
            return
        request.starts, request.call = (None if redelivered else 0), None
        behind = self.alone or any(each.delivery_info["redelivered"] for each in self.held)
        request.counted = redelivered or behind
        if behind and not redelivered and not self.is_full():
            self.counting.do(self.counts.note, request.id, 0)
        self.held.append(request)
        self.tick()

    def tick(self) -> None:
        """Start and finish what may be, and look again soon while anything is left."""
        with self.lock:
            try:
                self.forget()
                self.alone = self.alone and self.running() > 0
                while self.held and STATE.should_stop is None and self.start_first():
                    pass
                self.finish_letters()
            except Exception:
                # Nothing is lost: what is held is not acknowledged, and its turn comes again.
                logger.warning("Cannot judge a redelivered task yet", exc_info=True)
            if (self.held or self.watched or self.alone or self.letters) and not self.ticking:
                self.ticking = True
                self.timer.call_after(RECHECK, self.tock)

    def tock(self) -> None:
        """Run the timer's tick."""
        self.ticking = False
        self.tick()

    def running(self) -> int:
        """Return how many tasks the pool has; Celery counts held requests as reserved."""
        return len(state.reserved_requests) - len(self.held)

    def is_full(self) -> bool:
        """Tell whether the broker was full a moment ago, and cannot count."""
        return time.monotonic() < self.full_until

    def start_first(self) -> bool:
        """Start or bury the first of the held requests; return False when it has to wait."""
        if self.alone:
            return False
        counted = self.held[0].counted
        # A count is of starts: a request that waits in the pool has not started.
        if counted and self.running() >= self.consumer.pool.num_processes:
            return False
        if not counted or self.is_full():
            self.run(self.held.popleft())
            return True
        try:
            return self.judge(self.held[0])
        except BrokerFullError:  # it can only be emptied if tasks run
            self.full_until = time.monotonic() + FULL_FOR
            logger.warning("The broker is full: tasks start uncounted for %.0f s", FULL_FOR)
            return True

    def judge(self, request: Any) -> bool:
        """Start or bury a request by its count; return False while that is not known."""
        if request.starts is None:
            request.starts = self.outcome(request, self.counts.starts, request.id)
        if request.starts is None:
            return False
        if request.starts > self.limit:
            self.held.popleft()
            state.task_ready(request)
            self.bury_killer(request)
            return True
        suspect = request.starts > 1
        if suspect and self.running():
            return False
        if not self.outcome(request, self.counts.note, request.id, request.starts + 1):
            return False
        self.watched.add(request)
        self.alone = suspect
        self.held.popleft()
        self.run(request)
        return True

    def outcome(self, request: Any, call: Callable[..., Any], *args: Any) -> Any:
        """Return what a slow call about a request returned, or None while it is not done."""
        if request.call is None:
            request.call = self.counting.do(call, *args)
        if not request.call.done():
            return None
        future, request.call = request.call, None
        return future.result()

    def forget(self) -> None:
        """Forget the starts of requests that this worker has outlived."""
        for request in [each for each in self.watched if each not in state.reserved_requests]:
            self.watched.discard(request)
            self.clear(request.id)

    def clear(self, task_id: str) -> Future[Any]:
        """Forget a count; what is left of it goes later, and nothing waits for that."""
        cleared = self.counting.do(self.counts.clear, task_id)
        cleared.add_done_callback(lambda _: self.removing.do(self.spent.remove, task_id))
        return cleared

    def keep_count(self, request: Any) -> None:
        """Count a run that the broker did not wait for as one that the worker did not survive."""
        with self.lock:
            self.watched.discard(request)
            self.taken_back.add(request.id)

    # --- Dead letters ---

    def bury_killer(self, request: Any) -> None:
        """Put a message aside that killed its worker too often."""
        reason = f"the worker died {request.starts} times while it ran"
        if request.id in self.taken_back:
            reason = f"the broker took it back after each of {request.starts} runs"
        error = WorkerKilledError(self.about(reason))

        def buried() -> None:
            request.acknowledge()
            self.clear(request.id)
            context, store = request._context, request.store_errors  # noqa: SLF001
            self.fail(request.task.backend, request.id, error, context, store)

        self.bury(self.letter(request.message, reason, "died", buried))

    def put_aside(self, message: Any, error: Exception) -> None:
        """Put a message aside that is no task for this worker, because of ``error``."""
        with self.lock:
            cause, reason = "unreadable", f"{type(error).__name__}: {error}"
            if isinstance(error, NotRegistered):
                cause, reason = "unregistered", f"no task is registered as {error}"
            failure = UnreadableMessageError(self.about(reason))
            known, properties = known_of(message), message.properties
            context = Context(
                task=known["task"],
                correlation_id=properties.get("correlation_id"),
                reply_to=properties.get("reply_to"),
            )

            def buried() -> None:
                message.ack()
                if known["id"]:
                    kept = not message.headers.get("ignore_result")
                    self.fail(self.app.backend, known["id"], failure, context, kept)

            self.bury(self.letter(message, reason, cause, buried))
            self.tick()

    def letter(self, message: Any, reason: str, cause: str, buried: Callable[[], None]) -> Letter:
        """Return the letter that a message becomes."""
        return Letter(message, reason, self.app.origin(message, self.consumer), cause, buried)

    def about(self, reason: str) -> str:
        """Return the text of the failure that is the task's result."""
        return f"{reason}; its message is in the queue {self.app.dead_letter_queue.name}"

    def fail(self, backend: Any, task_id: str, error: Exception, context: Any, kept: bool) -> None:  # noqa: FBT001
        """Let FAILURE become the result of a task, however long its store is away."""
        store(backend.mark_as_failure, task_id, error, request=context, store_result=kept)

    def bury(self, letter: Letter) -> None:
        """Post a letter; its message is acknowledged once the broker has it."""
        self.letters[letter] = self.posting.do(self.mail.post, letter)

    def bury_again(self, letter: Letter) -> None:
        """Post a letter that could not be posted, and look at it until it is."""
        with self.lock:
            if self.delayed.pop(letter, None) is not None:  # `stop` may have come in between
                self.bury(letter)
        self.tick()

    def finish_letters(self) -> None:
        """Finish the letters that were posted, and post again those that could not be."""
        for letter, future in [each for each in self.letters.items() if each[1].done()]:
            del self.letters[letter]
            if error := future.exception():
                logger.warning("Cannot put a message aside yet (%s): %r", letter.reason, error)
                self.delayed[letter] = self.timer.call_after(RETRY, self.bury_again, (letter,))
                continue
            logger.critical("%s is a dead letter: %s", letter.name, letter.reason)
            message_buried.send(sender=self, cause=letter.cause)
            letter.buried()
