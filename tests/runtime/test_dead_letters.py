"""The command for dead letters: it loses none, and puts back what it is told to."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import redis

from runtime import dead_letters, letters
from runtime.app import BrokerFullError
from runtime.dead_letters import go_through
from tests import servers
from tests.projects import BakedProject
from tests.runtime.conftest import MakeApp, StartWorker, Take, length
from tests.service import DEADLINE


@pytest.fixture
def buried(take: Take) -> Callable[..., list[str]]:
    """Give a function that sends tasks and makes dead letters of them; it returns their ids."""

    def buried(app: Any, *calls: Any) -> list[str]:
        results = [call.apply_async(headers={"tenant": "one"}) for call in calls]
        for _ in results:
            message = take(app)
            origin = {"exchange": "", "routing_key": app.main}
            letter = letters.Letter(message, "it is bad", origin, "died", message.ack)
            with app.connection_for_write() as connection:
                letters.post(app, connection.default_channel, letter)
            letter.buried()
        return [result.id for result in results]

    return buried


def listed(app: Any) -> list[str]:
    """Return the ids of the dead letters of an app."""
    kept, retried = go_through(app, set(), everything=False)
    assert retried == []
    return [about["id"] for about in kept]


def test_letters_are_listed_and_stay(app: Any, buried: Callable[..., list[str]]) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    assert listed(app) == []
    ids = buried(app, add.s(1, y=2), add.s(3, 4))
    for _ in range(2):
        assert listed(app) == ids
    (one, _two), _ = go_through(app, set(), everything=False)
    assert one["task"] == "add"
    assert one["call"] == "(1,) {'y': 2}"
    assert one["reason"] == "it is bad"
    assert length(app) == 0


def test_letters_are_deleted(app: Any, buried: Callable[..., list[str]]) -> None:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    one, two, three = buried(app, add.s(1, 2), add.s(3, 4), add.s(5, 6))
    kept, deleted = go_through(app, {two, "absent"}, everything=False, delete=True)
    assert deleted == [two]
    assert [about["id"] for about in kept] == [one, three] == listed(app)
    with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
        producer.publish("of another service", routing_key=app.dead_letter_queue.name)
    assert go_through(app, set(), everything=True, delete=True) == ([], [one, three, "?"])
    assert listed(app) == []
    assert length(app) == 0


def test_a_letter_that_is_put_back_is_the_message_that_it_was(
    app: Any,
    buried: Callable[..., list[str]],
    run_worker: StartWorker,
) -> None:
    tenants: list[str] = []

    @app.task(bind=True)
    def add(self: Any, x: int, y: int) -> int:
        tenants.append(self.request.tenant)
        return x + y

    one, two, three = buried(app, add.s(1, y=2), add.s(3, 4), add.s(5, 6))
    kept, retried = go_through(app, {two, "absent"}, everything=False)
    assert retried == [two]
    assert [about["id"] for about in kept] == [one, three]
    assert length(app) == 1
    assert listed(app) == [one, three]
    assert go_through(app, set(), everything=True) == ([], [one, three])
    assert listed(app) == []
    with run_worker(app):
        results = [app.AsyncResult(each).get(timeout=DEADLINE) for each in (one, two, three)]
    assert results == [3, 7, 11]
    assert tenants == ["one"] * 3


def test_letters_of_a_queue_that_is_gone_stay_and_hold_back_no_other(
    make_app: MakeApp,
    buried: Callable[..., list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = make_app("rabbitmq")
    one, two = buried(app, app.signature("add", (1, 2)), app.signature("add", (3, 4)))
    with app.connection_for_write() as connection:
        queue = app.dead_letter_queue(connection.default_channel)
        letter = queue.get()
        about = letter.headers[letters.HEADER] | {"routing_key": "absent"}
        letters.publish(app, connection.default_channel, letter.body, about)
        letter.ack()
    assert listed(app) == [two, one]
    for _ in range(2):
        (stays,), retried = go_through(app, set(), everything=True)
        assert stays["id"] == one
        assert capsys.readouterr().err == f"{one} stays: The queue absent is gone\n"
    assert retried == []
    assert length(app) == 1
    monkeypatch.setattr(dead_letters, "find_app", lambda _: app)
    for words in (["--all"], [one]):
        monkeypatch.setattr(sys, "argv", ["dead_letters", "retry", *words])
        assert dead_letters.main() == f"Not put back: {one}"


def test_none_is_lost_while_redis_is_full(
    make_app: MakeApp, buried: Callable[..., list[str]]
) -> None:
    with servers.valkey() as url, redis.Redis.from_url(url) as client:
        app = make_app("redis", broker_url=f"{url}/0")
        ids = buried(app, app.signature("add", (1, 2)), app.signature("add", (3, 4)))
        client.config_set("maxmemory", 1)
        for everything in (False, True):
            with pytest.raises(BrokerFullError, match=r"^Redis is full"):
                go_through(app, set(), everything=everything)
        client.config_set("maxmemory", 0)
        assert go_through(app, set(), everything=True)[1] == ids


def test_a_message_that_somebody_else_put_there_stays(app: Any) -> None:
    queue = app.dead_letter_queue
    with app.connection_for_write() as connection:
        app.amqp.Producer(connection).publish("odd", routing_key=queue.name, declare=[queue])
    for everything in (False, True):
        (about,), retried = go_through(app, set(), everything=everything)
        assert about["reason"] == "it is not from this service"
        assert retried == []


def test_the_command_says_what_it_did_in_lines(
    make_app: MakeApp, buried: Callable[..., list[str]], small_project: BakedProject
) -> None:
    app = make_app("redis")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    one, two = buried(app, add.s(1, 2), add.s(3, 4))
    settings = app.conf.table(with_defaults=False, censored=False)
    (small_project.path / "service" / "__init__.py").write_text(
        "import json, os\n"
        "from .runtime.redis import ReliableCelery\n"
        f"app = ReliableCelery({app.main!r})\n"
        "app.config_from_object(json.loads(os.environ['SETTINGS']))\n"
    )

    def run(*arguments: str) -> tuple[int, list[str], list[str]]:
        env = {"SETTINGS": json.dumps(settings), "PYTHONDONTWRITEBYTECODE": "1"}
        command = (sys.executable, "-m", "service.runtime.dead_letters", *arguments)
        done = small_project.run(*command, env=env, check=False)
        return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()

    lines = [f"{one} add(1, 2) {{}}: it is bad", f"{two} add(3, 4) {{}}: it is bad"]
    assert run() == (0, [*lines, "2 dead letters"], [])
    assert run("retry", one, "absent") == (
        1,
        [f"{one} is back on its queue"],
        ["No dead letter has the id absent"],
    )
    assert run() == (0, [lines[1], "1 dead letter"], [])
    status, said, errors = run("retry", "--all", two)
    assert (status, said) == (2, [])
    assert "retry needs either IDs or --all" in errors[-1]
    assert length(app) == 1
