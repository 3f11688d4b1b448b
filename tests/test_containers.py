"""The image and `compose.yaml` in a Docker engine, unchanged, by the commands of the README."""

import base64
import contextlib
import json
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest
from filelock import FileLock

from tests import servers
from tests.projects import Bake, BakedProject
from tests.service import wait_until
from tests.stack import Stack, engine_answers

pytestmark = pytest.mark.containers

WEB = "http://localhost:8000"
FLOWER = "http://localhost:5555"
# Such a report lasts longer than the grace period.
LONG = 70
EAT = '''

@shared_task
def eat() -> int:
    """Take more memory than the container has."""
    return len(b"x" * (2 << 30))
'''
# Tasks of a killed worker come back after the visibility timeout: not in ten minutes.
SOON = """\
services:
  worker:
    environment: {CELERY_TASK_TIME_LIMIT: "35", CELERY_VISIBILITY_TIMEOUT: "40"}
"""

Record = Callable[[str, object], None]


def status(url: str, login: str = "") -> int:
    """Return the status that a server answers; 0 if there is none."""
    headers = {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    try:
        asked = urllib.request.Request(url, headers=headers if login else {})  # noqa: S310
        with urllib.request.urlopen(asked, timeout=20) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@contextlib.contextmanager
def watched(url: str) -> Iterator[list[tuple[int, float]]]:
    """Ask a server all the time; give the list of what it answers, and when."""
    answers: list[tuple[int, float]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(0.1):
            answers.append((status(url), time.monotonic()))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


def wait_for_its_start(stack: Stack, task: str) -> None:
    """Wait until a worker has a task."""
    wait_until(lambda: f"{task}] received" in stack.compose("logs", "worker"), "no worker has it")


@pytest.fixture(scope="class")
def stack(
    request: pytest.FixtureRequest, bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """Give a project in containers that are all healthy."""
    if not engine_answers():
        text = "no Docker engine with Compose 2 here: start one, or, as root on Debian, run "
        servers.unavailable(f"{text}make test-containers, which brings one")
    baked = bake(**request.cls.answers)
    path = tmp_path_factory.mktemp("stack") / baked.path.name
    shutil.copytree(baked.path, path)
    stack = Stack(BakedProject(path, baked.package))
    stack.remove()  # what a run that was killed has left
    failed = request.session.testsfailed
    try:
        stack.start()
        yield stack
    finally:
        if request.session.testsfailed > failed:
            print(stack.compose("logs", "--tail", "100", check=False))  # noqa: T201
        stack.remove()


def expect_all(stack: Stack, ids: list[str], record: Record) -> None:
    """Wait until each of the tasks is done; none may be lost."""
    lost = stack.lost(ids)
    record("lost", len(lost))
    assert not lost


class Deployed:
    """The tests, in order, on the same containers; all but the last two leave them well."""

    answers: ClassVar[dict[str, str]]

    def test_every_process_is_healthy_and_may_do_no_more_than_it_needs(self, stack: Stack) -> None:
        look = (
            "id -u; touch x 2>/dev/null || echo read-only; "
            "python -m pip 2>/dev/null || echo no-pip; "
            "sed -nE 's/^(CapBnd|NoNewPrivs):\\s*//p' /proc/self/status; ls -A /home"
        )
        containers = stack.containers()
        always = {name for name, each in stack.services.items() if "profiles" not in each}
        assert {each["Service"] for each in containers} == always
        for each in containers:
            if each["Service"] == "migrate":
                assert (each["State"], each["ExitCode"]) == ("exited", 0)
                continue
            assert each["Health"] == "healthy", each
            limit = stack.services[each["Service"]]["mem_limit"]
            given = stack.about(each)["HostConfig"]["Memory"]
            assert given == int(limit[:-1]) << {"m": 20, "g": 30}[limit[-1]]
            if each["Image"] == stack.image:
                said = stack.execute(each["Service"], "sh", "-c", look).split()
                assert said == ["10001", "read-only", "no-pip", "0" * 16, "1"]
        built = stack.project.run(
            *("docker", "image", "ls", "--quiet", "--filter", "dangling=true"),
            *("--filter", f"label=com.docker.compose.project={stack.project.path.name}"),
        )
        assert not built.stdout

    def test_tasks_are_done(self, stack: Stack) -> None:
        if not stack.django:
            assert "a report of 3 pages: {'pages': 3}" in stack.execute(
                "worker", "python", "app.py"
            )
            return
        body = json.dumps({"x": 2, "y": 3}).encode()
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{WEB}/jobs/add/", body, headers)  # noqa: S310
        with urllib.request.urlopen(asked, timeout=60) as answer:  # noqa: S310
            job = json.load(answer)

        def result() -> object:
            with urllib.request.urlopen(WEB + job["url"], timeout=60) as answer:  # noqa: S310
                return json.load(answer)["result"]

        wait_until(lambda: result() == 5, "the sum")

    def test_workers_scale(self, stack: Stack) -> None:
        stack.configure(WORKERS="4")
        stack.start()
        assert len(stack.containers("worker")) == 4
        inspect = ("celery", "-A", stack.project.package, "inspect", "active")
        assert stack.execute("worker", *inspect).count(": OK") == 4
        assert not stack.lost(stack.send(16, pages=1))
        stack.configure()
        stack.start()
        assert len(stack.containers("worker")) == 1

    def test_flower_asks_for_a_login_and_stops_with_the_others(self, stack: Stack) -> None:
        with FileLock(servers.shared_directory() / "flower.lock"):  # both projects use its port
            stack.configure(COMPOSE_PROFILES="flower")
            stack.start()
            page = f"{FLOWER}/api/tasks"
            assert (status(page), status(page, "admin:admin")) == (401, 401)
            assert status(page, f"admin:{stack.variables['FLOWER_PASSWORD']}") == 200
            stack.types("docker compose stop")
            assert stack.exits()["flower"] == 0
            stack.configure()
            stack.types("docker compose rm --stop --force flower")
        stack.start()
        assert not stack.containers("flower")

    def test_stop_ends_all_in_time_and_loses_no_task(
        self, stack: Stack, record_property: Record
    ) -> None:
        ids = [*stack.send(2, pages=LONG), *stack.send(20, pages=2)]
        for task in ids[:2]:
            wait_for_its_start(stack, task)
        begin = time.monotonic()
        stack.types("docker compose stop")
        record_property("seconds", round(time.monotonic() - begin))
        exits = stack.exits()
        record_property("exit codes", exits)
        # None was killed at the end of its grace period.
        for name, code in exits.items():
            assert code == 0 or (stack.services[name]["image"] != stack.image and code != 137), name
        stack.start()
        expect_all(stack, ids, record_property)

    def test_a_broker_that_is_killed_loses_no_task(
        self, stack: Stack, record_property: Record
    ) -> None:
        """Tasks that ran meanwhile come back long before the visibility timeout of Redis."""
        ids = stack.send(12, pages=4)
        wait_for_its_start(stack, ids[1])
        stack.compose("kill", "rabbitmq" if stack.django else "redis")
        begin = time.monotonic()
        stack.start()
        expect_all(stack, ids, record_property)
        record_property("seconds", round(time.monotonic() - begin))

    def test_a_new_version_loses_no_task(self, stack: Stack, record_property: Record) -> None:
        tasks = stack.project.path / ("jobs" if stack.django else "celery_app") / "tasks.py"
        tasks.write_text(tasks.read_text() + EAT)
        if not stack.django:
            (stack.project.path / "compose.override.yaml").write_text(SOON)
        ids = stack.send(12, pages=4)
        wait_for_its_start(stack, ids[1])
        if stack.django:
            with watched(f"{WEB}/health/") as answers:
                stack.types("docker compose build")
                stack.types("docker compose run --rm migrate")
                stack.types("docker compose up --detach worker beat")
                stack.wait()
            # The web server is there while the workers are replaced.
            assert {answer for answer, _ in answers} == {200}
            with watched(f"{WEB}/health/") as answers:
                stack.types("docker compose up --detach")
                stack.wait()
            away = [when for answer, when in answers if answer != 200]
            record_property("seconds without a web server", round(max(away) - min(away)))
        else:
            stack.start()
        expect_all(stack, ids, record_property)

    def test_memory_above_the_limit_ends_one_task_only(
        self, stack: Stack, record_property: Record
    ) -> None:
        """The kernel kills the process; the task is tried again some times, then it has failed."""
        tasks = "jobs.tasks" if stack.django else "celery_app.tasks"
        beside = stack.send(4, pages=2)
        code = f"from {tasks} import eat; e = eat.delay().get(timeout=120, propagate=False)"
        error = stack.python(f"{code}; print(type(e).__name__)").strip()
        record_property("the task", error)
        assert error == "WorkerLostError"
        [worker] = stack.containers("worker")
        about = stack.about(worker)
        assert (about["State"]["OOMKilled"], about["RestartCount"]) == (True, 0)
        assert not stack.lost(beside)

    def test_whoever_is_killed_no_task_is_lost(self, stack: Stack, record_property: Record) -> None:
        """First the worker, and then all of the containers at once."""
        ids = stack.send(10, pages=4)
        for killed in (["worker"], []):
            wait_for_its_start(stack, ids[-10])
            stack.compose("kill", *killed)
            begin = time.monotonic()
            stack.start()
            ids += stack.send(10, pages=2)
        expect_all(stack, ids, record_property)
        record_property("seconds", round(time.monotonic() - begin))

    def test_a_process_that_has_just_started_ends_at_once(
        self, stack: Stack, record_property: Record
    ) -> None:
        names = ["beat", "worker", *(["web"] if stack.django else [])]
        stack.compose("rm", "--stop", "--force", *names)
        stack.compose("up", "--detach", "--no-deps", *names)
        begin = time.monotonic()
        stack.compose("stop", *names)
        record_property("seconds", round(time.monotonic() - begin, 1))
        exits = {each["Service"]: each["ExitCode"] for each in stack.containers(*names)}
        record_property("exit codes", exits)
        # By the signal or by their handler of it; 137 is a kill after the grace period.
        assert set(exits.values()) <= {0, 143}

    def test_down_leaves_no_container(self, stack: Stack) -> None:
        stack.types("docker compose down")
        assert not stack.containers()


class TestPlain(Deployed):
    """A plain project on Redis."""

    answers: ClassVar = {"project_slug": "containers_plain"}


class TestDjango(Deployed):
    """A Django project on RabbitMQ, with its results in PostgreSQL."""

    answers: ClassVar = {
        "project_slug": "containers_django",
        "project_type": "django",
        "broker": "rabbitmq",
        "result_backend": "database",
    }
