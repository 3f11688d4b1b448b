"""Beat: the lease that one process has, what is due without a broker, and clocks that change."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab, schedule
from kombu import Exchange, Queue

from runtime import beat
from runtime.beat import WAIT, BeatScheduler, Crontab, Entry
from runtime.health import heartbeat_file
from runtime.heartbeat import INTERVAL
from tests.proxy import Broker, Way, broker
from tests.runtime.conftest import MakeApp, length
from tests.service import wait_until

HOUR = timedelta(hours=1)


def noop() -> None:
    """Do nothing, as a task."""


@pytest.fixture
def server(kind: str) -> Iterator[Broker]:
    """Give a server of each kind that can go away."""
    with broker(kind) as server:
        yield server


@pytest.fixture
def away(make_app: MakeApp, server: Broker, kind: str) -> Any:
    """Return an app on that server, which does not wait long for it."""
    options: dict[str, Any] = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}
    if kind == "rabbitmq":
        options = {"confirm_publish": True, "connect_timeout": 0.5, "read_timeout": 1}
    return make_app(kind, broker_url=server.url, broker_transport_options=options)


MakeBeat = Callable[..., BeatScheduler]


@pytest.fixture
def make_beat() -> Iterator[MakeBeat]:
    """Give a function that makes a scheduler of beat; by default with two entries of an hour."""
    made = []

    def make_beat(app: Any, *names: str, **entry: Any) -> BeatScheduler:
        app.task(noop)
        usual = {"task": f"{__name__}.noop", "schedule": HOUR}
        app.conf.beat_schedule = dict.fromkeys(names or ("one", "two"), usual | entry)
        made.append(BeatScheduler(app))
        return made[-1]

    yield make_beat
    for each in made:
        each.close()


def ring(one: BeatScheduler, *names: str) -> None:
    """Let an hour go by for the entries of the beat that leads."""
    for name in names:
        one.runs[name] -= HOUR.total_seconds()
    one.go_on({})
    assert one.lead()
    assert one.lead()  # its answer comes after the broker has forgotten the runs before


# --- The lease --------------------------------------------------------------------------------


def test_one_beat_leads_and_another_goes_on_where_it_ended(app: Any, make_beat: MakeBeat) -> None:
    first, second = make_beat(app), make_beat(app)
    assert first.tick() > WAIT
    assert second.tick() == WAIT
    assert (first.leads, second.leads) == (True, False)
    ring(first, "one")
    assert first.tick() == 0
    assert length(app) == 1
    ring(first, "two")
    runs = dict(first.runs)
    first.close()

    wait_until(lambda: second.tick() != WAIT, "nobody leads")
    assert second.runs.keys() == runs.keys()
    assert second.runs["one"] == runs["one"]
    wait_until(lambda: length(app) == 2, "what fell due in between is not sent")
    for _ in range(3):
        second.tick()
    assert length(app) == 2


def test_a_run_in_the_future_counts_from_now(app: Any, make_beat: MakeBeat) -> None:
    first = make_beat(app)
    assert first.lead()
    tomorrow = time.time() + 24 * 3600
    first.runs = dict.fromkeys(first.runs, tomorrow)  # its clock was wrong
    assert first.lead()
    first.close()
    second = make_beat(app)
    wait_until(second.lead, "nobody leads")
    assert max(second.runs.values()) <= time.time()


def test_a_new_entry_counts_from_when_it_was_first_seen(app: Any, make_beat: MakeBeat) -> None:
    first = make_beat(app, "old")
    first.tick()
    first.close()
    second = make_beat(app, "old", "new")
    wait_until(second.lead, "nobody leads")
    assert second.runs["old"] == first.runs["old"]
    seen = second.runs["new"]
    assert seen > second.runs["old"]
    second.close()
    third = make_beat(app, "new")
    wait_until(third.lead, "nobody leads")
    assert third.runs == {"new": seen}


def test_a_beat_that_lost_its_lease_sends_nothing(kind: str, app: Any, make_beat: MakeBeat) -> None:
    first, second = make_beat(app), make_beat(app)
    first.tick()
    second.tick()
    ring(first, "one")
    # The server took it away, as from a process that was frozen.
    if kind == "redis":
        with app.connection_for_write() as connection:
            channel = connection.default_channel
            channel.client.execute_command(
                "del", f"{channel.global_keyprefix}{app.main}.beat.lease"
            )
    else:
        first.lease.channel.connection.transport.sock.close()
    wait_until(lambda: second.tick() != WAIT, "nobody leads")
    for _ in range(3):
        first.tick()
    assert (first.leads, second.leads) == (False, True)
    assert length(app) == 1


def test_a_beat_tells_when_it_leads_and_when_it_waits(
    app: Any, make_beat: MakeBeat, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first, second = make_beat(app), make_beat(app)
    for _ in range(2):
        first.tick()
        second.tick()
    said = [each for each in caplog.messages if "this one" in each]
    assert said == ["beat: this one leads", "beat: this one waits, another one leads"]


# --- Sending ----------------------------------------------------------------------------------


def test_beat_touches_its_file_with_each_tick_also_while_it_waits(
    app: Any, make_beat: MakeBeat
) -> None:
    heartbeat_file("beat").touch()
    leader, waiting = make_beat(app), make_beat(app)
    file = leader.file
    assert not file.exists(), "one of an earlier beat"
    for each in (leader, waiting, leader, waiting):
        assert 0 <= each.tick() <= INTERVAL
        assert file.exists()
        file.unlink()
    assert length(app) == 0
    file.touch()
    leader.close()
    assert not file.exists()


@pytest.mark.parametrize("way", [Way.DOWN, Way.SILENT])
def test_what_is_due_without_a_broker_is_sent_once_when_it_is_back(
    away: Any, server: Broker, make_beat: MakeBeat, way: Way
) -> None:
    one = make_beat(away)
    one.tick()
    ring(one, "one")
    server.proxy.set(way)
    for _ in range(2):
        assert one.tick() == INTERVAL
        assert not one.file.exists()
    server.proxy.set(Way.UP)
    wait_until(lambda: one.tick() == 0, "nothing is sent")
    assert one.file.exists()
    assert length(away) == 1
    one.tick()
    assert length(away) == 1


@contextlib.contextmanager
def refused(app: Any, kind: str) -> Iterator[dict[str, Any]]:
    """Give options with which the broker refuses a message, until the end of the context."""
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        if kind == "redis":  # the key of the queue is no list
            key = f"{channel.global_keyprefix}odd"
            channel.client.execute_command("set", key, "odd")
            yield {"queue": Queue("odd")}
            channel.client.execute_command("del", key)
        else:
            yield {"exchange": app.main + ".odd", "routing_key": "odd"}
            Queue("odd", Exchange(app.main + ".odd"), "odd").bind(channel).declare()


def test_an_entry_that_the_broker_refuses_stays_due_and_holds_back_no_other(
    app: Any,
    kind: str,
    make_beat: MakeBeat,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(beat, "INTERVAL", 0.1)
    with refused(app, kind) as options:
        one = make_beat(app, "odd", "good")
        entry: Any = one.schedule["odd"]
        entry.options |= options
        assert one.lead()
        due = one.runs["odd"] - HOUR.total_seconds()
        ring(one, "odd", "good")
        wait_until(lambda: one.tick() >= 0 and length(app) == 1, "the good one is not sent")
        wait_until(lambda: one.tick() >= 0 and len(caplog.messages) > 2, "it is not tried again")
        assert one.runs["odd"] == due
        assert {each[: each.index("odd") + 3] for each in caplog.messages} == {
            "beat: Couldn't apply scheduled task odd"
        }
        assert one.leads
    wait_until(lambda: one.tick() >= 0 and one.runs["odd"] > due, "it is not sent")
    one.tick()
    assert (length(app), length(app, "odd")) == (1, 1)


def test_an_entry_that_is_wrong_is_logged_and_waits_for_its_next_time(
    app: Any, make_beat: MakeBeat, caplog: pytest.LogCaptureFixture
) -> None:
    one = make_beat(app, "wrong", args=(object(),))
    one.tick()
    ring(one, "wrong")
    assert one.tick() == 0
    assert one.tick() > WAIT
    [record] = [each for each in caplog.records if each.levelname == "ERROR"]
    assert "takes 0 positional arguments" in str(record.exc_info)


def test_a_signal_ends_beat_but_not_in_the_middle_of_a_tick(
    app: Any, make_beat: MakeBeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_beat(app), make_beat(app)
    one.tick()
    ring(one, "one")
    send = app.send_task

    def send_task(*args: Any, **options: Any) -> Any:
        one.stop()
        one.stop()
        return send(*args, **options)

    monkeypatch.setattr(app, "send_task", send_task)
    with pytest.raises(SystemExit):
        one.tick()
    one.close()
    wait_until(lambda: two.tick() != WAIT, "nobody leads")
    two.tick()
    assert length(app) == 1
    with pytest.raises(SystemExit):
        two.stop()


# --- Clocks that change -----------------------------------------------------------------------

ZONES = [
    "America/New_York",
    "America/Santiago",  # at midnight
    "Australia/Lord_Howe",  # by half an hour
    "Australia/Sydney",
    "Europe/Paris",
]
AROUND = timedelta(hours=60)
MINUTE = timedelta(minutes=1)


def changes(zone: str) -> list[datetime]:
    """Return when the clocks of a zone change, in two years."""
    tz, half = ZoneInfo(zone), timedelta(minutes=30)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    steps = [start + half * n for n in range(2 * 365 * 48)]
    return [
        after
        for before, after in itertools.pairwise(steps)
        if before.astimezone(tz).utcoffset() != after.astimezone(tz).utcoffset()
    ]


def simulated(zone: str, start: datetime, end: datetime, **fields: Any) -> list[datetime]:
    """Return when beat sends an entry of a crontab, in UTC, always some milliseconds late."""
    now = start
    app = Celery(set_as_current=False, timezone=zone)
    local = ZoneInfo(zone)
    entry: Any = Entry(
        name="one",
        app=app,
        last_run_at=start,
        schedule=crontab(**fields, nowfun=lambda: now.astimezone(local)),
    )
    assert type(entry.schedule) is Crontab
    sent = []
    while now < end:
        is_due, wait = entry.is_due()
        if is_due:
            sent.append(now.replace(microsecond=0))
            entry = next(entry)
        now += timedelta(seconds=wait, milliseconds=7)
    return sent


def shown(zone: str, start: datetime, end: datetime, **fields: set[int]) -> list[datetime]:
    """Return when a clock shows what the fields say, in UTC."""

    def field(local: datetime, name: str) -> int:
        return local.weekday() if name == "weekday" else int(getattr(local, name))

    minutes = [start + MINUTE * n for n in range(1, int((end - start) / MINUTE))]
    tz = ZoneInfo(zone)
    return [
        each
        for each in minutes
        if all(field(each.astimezone(tz), name) in wanted for name, wanted in fields.items())
    ]


def test_the_changes_are_those_of_the_zones() -> None:
    found = {zone: changes(zone) for zone in ZONES}
    assert {len(each) for each in found.values()} == {4}
    assert datetime(2026, 10, 25, 1, tzinfo=UTC) in found["Europe/Paris"]


@pytest.mark.parametrize("zone", ZONES)
def test_a_time_of_day_comes_once_on_each_day(zone: str) -> None:
    tz = ZoneInfo(zone)
    for change in changes(zone):
        days = [change.astimezone(tz).date() + timedelta(days=n) for n in (-1, 0, 1)]
        for hour, minute in itertools.product(range(24), (0, 30)):
            given = {"hour": hour, "minute": minute}
            sent = simulated(zone, change - AROUND, change + AROUND, **given)
            local = [each.astimezone(tz) for each in sent]
            for day in days:
                [run] = [each for each in local if each.date() == day]
                wanted = datetime(day.year, day.month, day.day, hour, minute, tzinfo=tz)
                there = wanted.astimezone(UTC).astimezone(tz)
                # If no clock shows it, with the first minute after the change.
                is_shown = (there.hour, there.minute) == (hour, minute)
                assert run.astimezone(UTC) == (wanted.astimezone(UTC) if is_shown else change)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize(
    "fields",
    [
        {"minute": "*/5"},
        {"minute": "0"},
        {"minute": "30"},
        {"minute": [10, 50]},
        {"minute": "*/15", "hour": "0-4"},
        {"minute": "*/15", "hour": "3"},
        {"minute": "*/15", "hour": "1", "day_of_week": "sun"},
    ],
    ids=str,
)
def test_what_runs_again_and_again_comes_whenever_a_clock_shows_it(
    zone: str, fields: dict[str, Any]
) -> None:
    expanded: Any = crontab(**fields)
    wanted = {"minute": expanded.minute, "hour": expanded.hour}
    if "day_of_week" in fields:
        wanted["weekday"] = {6}
    for change in changes(zone):
        start, end = change - 5 * HOUR, change + 5 * HOUR
        assert simulated(zone, start, end, **fields) == shown(zone, start, end, **wanted)


@pytest.mark.parametrize("zone", ZONES)
def test_an_interval_has_no_gap(zone: str) -> None:
    for change in changes(zone):
        now, tz = change - HOUR, ZoneInfo(zone)
        app = Celery(set_as_current=False, timezone=zone)
        every = schedule(timedelta(minutes=5), nowfun=lambda: now.astimezone(tz))  # noqa: B023
        entry: Any = Entry(name="one", app=app, last_run_at=now, schedule=every)
        sent = []
        while now < change + 2 * HOUR:
            is_due, wait = entry.is_due()
            if is_due:
                sent.append(now)
                entry = next(entry)
            now += timedelta(seconds=wait)
        assert {later - one for one, later in itertools.pairwise(sent)} == {timedelta(minutes=5)}


FIELDS: list[dict[str, Any]] = [
    {"minute": "0", "hour": "6"},
    {"minute": "*/7,3", "hour": "22-2"},
    {"minute": {5, 25}, "hour": [1, 13]},
    {"minute": "30", "hour": "*/5", "day_of_week": "sat,sun"},
    {"minute": "0", "hour": "0", "day_of_week": "fri-mon", "day_of_month": "1-7,15-21"},
    {"minute": "1, 2", "hour": "3", "day_of_month": "31", "month_of_year": "*/2"},
    {"minute": "59", "hour": "23", "day_of_month": "*/10", "day_of_week": "0-6"},
    {"minute": "15", "hour": "12", "day_of_month": "29", "month_of_year": "feb"},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_without_a_change_a_crontab_means_what_it_means_in_celery(fields: dict[str, Any]) -> None:
    app = Celery(set_as_current=False, timezone="UTC")
    now = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC)
    theirs = crontab(**fields, nowfun=lambda: now, app=app)
    ours: Any = Entry(name="one", app=app, schedule=theirs).schedule
    for hours in range(0, 24 * 60, 7):
        now = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC) + HOUR * hours
        assert ours.remaining_estimate(now) == theirs.remaining_estimate(now)
        assert ours.is_due(now - HOUR) == theirs.is_due(now - HOUR)


def test_a_run_that_is_too_late_is_skipped_as_in_celery() -> None:
    app = Celery(set_as_current=False, timezone="Europe/Paris", beat_cron_starting_deadline=600)
    now = datetime(2026, 10, 25, 8, tzinfo=UTC)
    ours: Any = Entry(name="one", app=app, schedule=crontab(minute="0", hour="7")).schedule
    ours.nowfun = lambda: now
    assert not ours.is_due(now - 24 * HOUR)[0]
    now = datetime(2026, 10, 25, 6, 5, tzinfo=UTC)
    assert ours.is_due(now - 24 * HOUR)[0]


class OwnCrontab(crontab):
    """A crontab of the owner's."""


@pytest.mark.parametrize("own", [schedule(60), OwnCrontab(minute="5")], ids=repr)
def test_other_schedules_stay_what_they_are(own: Any) -> None:
    app = Celery(set_as_current=False)
    assert Entry(name="one", app=app, schedule=own).schedule is own


def test_the_entries_of_celery_follow_the_same_rules(
    make_app: MakeApp, make_beat: MakeBeat, tmp_path: Path
) -> None:
    app = make_app("redis", result_backend=f"file://{tmp_path}")
    one = make_beat(app, "one", schedule=crontab(minute="5"))
    assert one.schedule.keys() == {"one", "celery.backend_cleanup"}
    assert {type(each.schedule) for each in one.schedule.values()} == {Crontab}
