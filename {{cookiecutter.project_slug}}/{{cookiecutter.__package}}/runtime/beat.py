"""Beat: of any number of processes, one sends what is due, and another one takes over from it.

The broker keeps the lease of the process that leads, and when it sent each entry: no file is
needed. `redis.py` and `rabbitmq.py` say how. A crontab also holds when clocks change.
"""

import contextlib
import time
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

from celery import platforms
from celery.apps import beat
from celery.beat import ScheduleEntry, Scheduler, SchedulingError
from celery.schedules import crontab
from celery.utils.log import get_logger
from celery.utils.time import maybe_make_aware
from cronsim import CronSim
from kombu import Producer
from kombu.exceptions import OperationalError

from . import checks
from .health import heartbeat_file
from .heartbeat import INTERVAL, touch

WAIT = 1.0  # seconds between two looks at the lease of another process

logger = get_logger(__name__)

HOURS = 24

# When each entry was sent last, or first seen: its name, and seconds since 1970.
Runs = dict[str, float]


class Lease:
    """The right to send what is due, and a connection to do so.

    One process at a time has it. What is published with a `producer` after `keep` has returned is
    published in time.
    """

    connection_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, app: Any) -> None:
        """Prepare the lease of an ``app``; connect to nothing yet."""
        self.app = app
        self.connection = app.connection_for_write(**self.connection_options)
        self.channel: Any = None
        self.producer: Any = None

    def keep(self, runs: Runs) -> Runs | None:
        """Take or keep the lease; return what the broker keeps, or None if another process leads.

        It keeps the ``runs`` of the process that has the lease already. Raises an error of the
        broker's library if the broker cannot be reached.
        """
        if not self.channel:
            self.connection.ensure_connection(max_retries=1)
            self.channel = self.connection.channel()
            self.open()
        if not self.producer:  # on a channel of its own: the broker may close it
            self.producer = Producer(self.connection.channel(), auto_declare=False)
        return self.exchange(runs)

    def open(self) -> None:
        """Prepare the exchange on a new channel."""

    def exchange(self, runs: Runs) -> Runs | None:
        """Do what `keep` says on this broker."""
        raise NotImplementedError

    def give_up_producer(self) -> None:
        """Publish on another channel next time."""
        producer, self.producer = self.producer, None
        self.connection.maybe_close_channel(producer.channel)

    def give_up(self) -> None:
        """Forget the connection after an error."""
        self.channel = self.producer = None
        self.connection.collect()

    def end(self, runs: Runs) -> None:
        """Let another process lead at once; the broker keeps the last ``runs``."""
        if self.channel:
            self.exchange(runs)
        self.connection.release()


class UnsentError(Exception):
    """The broker did not take an entry."""


class Crontab(crontab):
    """Celery's crontab, with the rules of Debian's cron for the days when clocks change.

    A time that is skipped comes right after the change, and one that is repeated comes once. What
    runs in every hour, or at minutes that begin with a star, comes whenever a clock shows the time.
    """

    minute: set[int]
    hour: set[int]
    day_of_month: set[int]
    month_of_year: set[int]
    day_of_week: set[int]
    tz: Any

    def remaining_estimate(self, last_run_at: datetime, *_: Any, **__: Any) -> timedelta:
        """Return the time from now to the first run after ``last_run_at``."""
        last = self.maybe_make_aware(last_run_at).astimezone(UTC)
        _, given, _ = reduced(self)
        days = map(listed, (self.day_of_month, self.month_of_year, self.day_of_week))
        if len(self.hour) == HOURS or str(given[0]).startswith("*"):
            # Every minute: cronsim 2.8 skips some where clocks change by half an hour.
            times = ["0", "*", "*"]
        else:
            times = [listed(self.minute), listed(self.hour)]
        runs = CronSim(" ".join([*times, *days]), last.astimezone(self.tz))
        runs.day_and = True  # as Celery has it
        for run in runs:
            at = run.astimezone(UTC)
            local = at.astimezone(self.tz)
            shown = local.minute in self.minute and local.hour in self.hour
            if at > last and (shown or "*" not in times):
                return at - self.maybe_make_aware(self.now())
        raise ValueError(f"{self} never comes")


def reduced(schedule: crontab) -> Any:
    """Return what a crontab is made of: its class, the fields as they are given, and the rest."""
    return schedule.__reduce__()


def listed(numbers: set[int]) -> str:
    """Return numbers as a field of a crontab."""
    return ",".join(map(str, sorted(numbers)))


class Entry(ScheduleEntry):
    """An entry of the schedule."""

    last_run_at: Any
    options: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        """Create an entry with the arguments of Celery's own."""
        super().__init__(*args, **options)
        if type(self.schedule) is crontab:  # not a subclass, which has rules of its own
            _, fields, about = reduced(self.schedule)
            self.schedule = Crontab(*fields, **{**about, "app": self.app})
        # Later, the lease may be another's.
        self.options = {**self.options, "retry": False}


class Beat(beat.Beat):
    """The command `celery beat`."""

    app: Any

    def init_loader(self) -> None:
        """Import the tasks, and check the configuration."""
        super().init_loader()
        checks.stop_if_wrong(self.app)

    def install_sync_handler(self, service: Any) -> None:
        """Let signals end beat, but not in the middle of sending something."""
        super().install_sync_handler(service)
        if isinstance(service.scheduler, BeatScheduler):
            platforms.signals.update(SIGTERM=service.scheduler.stop, SIGINT=service.scheduler.stop)


class BeatScheduler(Scheduler):
    """Beat's scheduler: sends while it has the lease, and touches a file while it has a broker."""

    Entry = Entry
    app: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        """Create a scheduler with the arguments of Celery's own; it reads no schedule file."""
        self.file = heartbeat_file("beat")
        self.file.unlink(missing_ok=True)
        self.runs: Runs = {}
        self.leads: bool | None = None  # not known yet
        self.ticking = self.stopped = False
        super().__init__(*args, **options)
        self.lease: Lease = self.app.lease_cls(self.app)

    def setup_schedule(self) -> None:
        """Read the schedule of the configuration."""
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)

    @property
    def producer(self) -> Any:
        """What entries are sent with."""
        return self.lease.producer

    def stop(self, *_signal: Any) -> None:
        """End beat after its tick: otherwise, what was sent would be sent again."""
        if not self.stopped:
            self.stopped = True
            if not self.ticking:
                raise SystemExit

    def tick(self, *args: Any, **options: Any) -> float:
        """Send what is due, if this process leads; return the seconds to the next tick."""
        self.ticking = True
        try:
            return min(self._tick(*args, **options), self.max_interval or INTERVAL)
        finally:
            self.ticking = False
            if self.stopped:
                raise SystemExit

    def _tick(self, *args: Any, **options: Any) -> float:
        try:
            leads = self.lead()
        except Exception as error:  # noqa: BLE001  # each transport has its own
            self.file.unlink(missing_ok=True)
            refusal = self.app.refusal(error)
            reason = refusal.text if refusal else error
            logger.warning("beat: the broker cannot be reached, nothing is sent: %s", reason)
            self.lease.give_up()
            return INTERVAL
        touch(self.file)
        if not leads:
            return WAIT
        try:
            return min(super().tick(*args, **options) or 0, INTERVAL)
        except UnsentError as error:
            logger.error("beat: %s", error)  # noqa: TRY400  # the text says all
            self.lease.give_up_producer()
            return INTERVAL

    def lead(self) -> bool:
        """Tell whether this process leads; if so, the broker knows what it has sent."""
        while (kept := self.lease.keep(self.runs)) is not None:
            if kept == self.runs and kept.keys() == self.schedule.keys():
                break
            self.go_on(kept)
        leads = kept is not None
        if leads is not self.leads:
            self.leads = leads
            logger.info("beat: this one %s", "leads" if leads else "waits, another one leads")
        return leads

    def go_on(self, kept: Runs) -> None:
        """Go on from the runs that are ``kept``; an entry that is new counts from now.

        So does a run in the future, which a clock that was wrong has left.
        """
        now = time.time()
        self.runs = {
            name: min(max(kept.get(name, 0), self.runs.get(name, 0)) or now, now)
            for name in self.schedule
        }
        for name, entry in self.schedule.items():
            entry.last_run_at = datetime.fromtimestamp(self.runs[name], UTC)
        self.populate_heap()

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send an entry; raise `UnsentError`, and leave it due, if the broker does not take it."""
        logger.info("Scheduler: Sending due task %s (%s)", entry.name, entry.task)
        connection = self.lease.connection
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except SchedulingError as error:
            errors = (OperationalError, *connection.connection_errors, *connection.channel_errors)
            if isinstance(error.__context__, errors):
                # To the end, so that it holds back no other entry.
                del self.schedule[entry.name]
                self.schedule[entry.name] = entry
                self.populate_heap()
                raise UnsentError(*error.args) from None
            logger.exception("beat: an entry is wrong")
        sent: Any = self.schedule[entry.name]
        self.runs[entry.name] = maybe_make_aware(sent.last_run_at).timestamp()

    def close(self) -> None:
        """Let another process lead, and leave no file of a beat that is gone."""
        self.file.unlink(missing_ok=True)
        with contextlib.suppress(Exception):  # the broker may be away
            self.lease.end(self.runs)
        super().close()
