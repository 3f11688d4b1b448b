"""A new version is deployed while the old one is at work, as the README says: nothing is lost."""

import contextlib
import re
import shutil
import threading
from pathlib import Path

import pytest
import redis

from tests import servers
from tests.projects import Bake, BakedProject
from tests.service import Process, Service, wait_until
from tests.test_jobs import ask, start_web, succeeded

# The next version of `add` and its neighbours: renamed, and new.
NEXT_TASKS = '''\
@shared_task
def total(x: int, y: int, plus: int = 0) -> int:
    """Return a sum, as ``add`` did."""
    return x + y + plus


@shared_task(name="{tasks}.add")  # for one release: what is sent under the old name
def add(x: int, y: int) -> int:
    """Return the sum of ``x`` and ``y``."""
    return total(x, y)


@shared_task
def greet(name: str) -> str:
    """Return a greeting."""
    return f"Hello, {{name}}!"
'''
SENT = "    sent = models."
OLD_COLUMN = '    color = models.CharField(max_length=9, default="red", db_default="red")\n'
NEW_COLUMN = '    note = models.CharField(max_length=9, default="", db_default="")\n'
NEXT_MIGRATION = """\
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]
    operations = [
        migrations.AddField(
            "job", "note", models.CharField(max_length=9, default="", db_default="")
        ),
        # The next migration drops the column.
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.RemoveField("job", "color")]
        ),
    ]
"""
# Sends without an end, as the senders of a plain project do.
LOAD = """\
import time
from itertools import count
from celery_app.tasks import {task}

for number in count():
    print("sent", {task}.delay(number, number).id)
    time.sleep(0.02)
"""
SEND_OLD = "from {tasks} import report; print(*[report.delay(3).id for _ in range(6)])"
SEND_NEW = """\
from {tasks} import greet, total

print(*[total.delay(2, 3, plus=4).id for _ in range(10)], *[greet.delay("Ada").id])
"""
SEND_CHANGED = "from {tasks} import report; print(report.delay(1, title='Sums').id)"


def edit(project: BakedProject, name: str, *changes: tuple[str, str]) -> None:
    """Change a file of a project: each pattern is found once, and replaced."""
    text = project.read(name)
    for pattern, new in changes:
        text, count = re.subn(pattern, lambda _, new=new: new, text, flags=re.DOTALL)  # type: ignore[misc]
        assert count == 1, (name, pattern)
    (project.path / name).write_text(text, encoding="utf-8")


class Versions:
    """Two versions of a project, in one environment, and what was sent to them."""

    def __init__(self, project: Bake, synced: Bake, chosen: dict[str, str]) -> None:
        """Write both."""
        self.django = chosen["project_type"] == "django"
        self.tasks = "jobs.tasks" if self.django else "celery_app.tasks"
        self.old, self.new = project(**chosen), project(**chosen)
        for version in (self.old, self.new):
            shutil.copy(synced(**chosen).path / "uv.lock", version.path)
            (version.path / ".venv").symlink_to(synced(**chosen).path / ".venv")
        edit(
            self.new,
            f"{self.tasks.replace('.', '/')}.py",
            (
                r"@shared_task\ndef add\(.*?return x \+ y\n",
                NEXT_TASKS.format(tasks=self.tasks),
            ),
            (r"def report\(pages: int\)", 'def report(pages: int, title: str = "")'),
        )
        if self.django:
            edit(self.old, "jobs/models.py", (SENT, OLD_COLUMN + SENT))
            migration = "jobs/migrations/0001_initial.py"
            for version in (self.old, self.new):
                column = OLD_COLUMN.strip().replace("color = ", '("color", ') + "),\n"
                edit(version, migration, (r'(?=\("created", )', column))
            edit(self.new, "jobs/models.py", (SENT, NEW_COLUMN + SENT))
            (self.new.path / "jobs/migrations/0002_job_note.py").write_text(NEXT_MIGRATION)
            edit(self.new, "jobs/views.py", (r"tasks\.add, \*numbers", "tasks.total, *numbers, 1"))

    def migrate(self, service: Service) -> None:
        """Change the database for a version, if there is one."""
        if self.django:
            service.run("uv", "run", "python", "manage.py", "migrate")

    def run(self, service: Service, code: str) -> list[str]:
        """Run code in a version, and return the words that it printed."""
        shell = ("manage.py", "shell", "-v0") if self.django else ()
        words = ("uv", "run", "python", *shell, "-c", code.format(tasks=self.tasks))
        return service.run(*words).stdout.split()


class Load:
    """What sends without an end: the senders of a plain project, or clients of a web server."""

    def __init__(self, *, django: bool) -> None:
        """Send nothing yet."""
        self.django = django
        self.senders: list[Process] = []
        self.url = ""
        self.accepted: set[str] = set()
        self.over = threading.Event()
        self.client = threading.Thread(target=self.post, daemon=True)

    def post(self) -> None:
        """Ask the web server for one job after the other."""
        while not self.over.is_set():
            self.accepted.add(ask(self.url))

    def move(self, service: Service, task: str) -> None:
        """Start the sender or web server of a version, then stop that of the one before."""
        if self.django:
            port = servers.free_port()
            self.senders.append(start_web(service, port))
            self.url = f"http://127.0.0.1:{port}/jobs/add/"
            if not self.client.is_alive():
                self.client.start()
        else:
            command = ("uv", "run", "python", "-c", LOAD.format(task=task))
            self.senders.append(service.start(*command, ready="sent "))
        for sender in self.senders[:-1]:
            sender.stop()

    def end(self) -> set[str]:
        """Stop all, and return the ids of what was sent."""
        self.over.set()
        if self.django:
            self.client.join()
        for sender in self.senders:
            sender.stop()
            self.accepted.update(re.findall(r"sent (\S+)\n", sender.output))
        return self.accepted


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
@pytest.mark.parametrize("project_type", ["django", "celery"])
def test_a_new_version_replaces_the_old_one_under_load(
    project: Bake, synced: Bake, tmp_path: Path, project_type: str, kind: str
) -> None:
    chosen = {"project_type": project_type, "broker": kind, "result_backend": "none"}
    versions = Versions(project, synced, chosen)
    with servers.addresses(kind, "none") as env, contextlib.ExitStack() as stack:
        env |= {"DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}", "UV_NO_SYNC": "1"}
        url = env["CELERY_BROKER_URL"]
        old = stack.enter_context(Service(versions.old, url, env=env))
        new = stack.enter_context(Service(versions.new, url, env=env))
        load = Load(django=versions.django)
        stack.callback(load.over.set)
        versions.migrate(old)
        before = old.worker(name="old")
        load.move(old, "add")

        versions.migrate(new)
        # Sent too early: the old worker does not know them.
        early = versions.run(new, SEND_NEW)
        before.wait_for("is a dead letter: no task is registered", times=len(early))
        after = new.worker(name="new")
        sent = versions.run(old, SEND_OLD)
        assert before.stop() == 0
        load.move(new, "total")
        sent += versions.run(new, SEND_CHANGED)
        retry = ("python", "-m", f"{versions.new.package}.runtime.dead_letters", "retry", "--all")
        said = new.run("uv", "run", *retry).stdout
        assert set(re.findall(r"(\S+) is back on its queue", said)) == set(early)
        accepted = load.end()
        assert len(accepted) > 100
        wait_until(lambda: {*accepted, *sent, *early} <= succeeded(before, after), "every task")
        for worker in (before, after):
            assert re.search(r"\.(add|total)\[\S+ succeeded", worker.output)
            assert " raised " not in worker.output


# A service as it was before: Celery alone, with kombu's transport.
PLAIN = """\
import os
import time

from celery import Celery

app = Celery("plain", broker=os.environ["CELERY_BROKER_URL"])
app.conf.update(
    task_default_queue="my_service",
    task_default_exchange="my_service",
    task_default_routing_key="my_service",
    task_acks_late=True,
    task_ignore_result=True,
    broker_transport_options={
        "global_keyprefix": "my_service:",
        "visibility_timeout": 12,
        "unacked_restore_interval": 2,
        "unacked_restore_throttle": 1,
    },
)


@app.task(name="celery_app.tasks.add")
def add(x, y):
    return x + y


@app.task(name="celery_app.tasks.report")
def report(pages):
    time.sleep(pages / 2)
"""
SEND_DELAYED = """\
from {module} import add, report
print(*[add.apply_async((1, 1), countdown=3).id for _ in range(5)])
"""
SEND_BOTH = """\
from {module} import add, report

for number in range(50):
    print(add.delay(number, number).id, add.apply_async((1, 1), countdown=2).id)
print(*[report.delay(2).id for _ in range(8)])
"""


def test_workers_with_the_transport_of_kombu_are_replaced(synced: Bake, tmp_path: Path) -> None:
    made = synced(project_type="celery", broker="redis", result_backend="none")
    (tmp_path / "plain.py").write_text(PLAIN)
    env = {
        "PYTHONPATH": str(tmp_path),
        "CELERY_TASK_TIME_LIMIT": "10",
        "CELERY_VISIBILITY_TIMEOUT": "12",
    }
    ours, plain = {"module": "celery_app.tasks"}, {"module": "plain"}
    with servers.valkey() as url, Service(made, f"{url}/0", env=env) as service:
        python = made.path / ".venv" / "bin" / "python"

        def old_worker(name: str) -> Process:
            options = ("--loglevel", "INFO", "--concurrency", "2", "--hostname", f"{name}@%h")
            command = (python, "-m", "celery", "-A", "plain", "worker", *options)
            return service.start(*command, ready=rf"{name}@\S+ ready\.")

        # A new sender comes first: an old worker does not see a delayed task of it.
        killed = old_worker("killed")
        delayed = service.python(SEND_DELAYED.format(**ours)).split()
        sent = service.python(SEND_DELAYED.format(**plain)).split()
        wait_until(lambda: set(sent) <= succeeded(killed), "its own delayed tasks")
        with redis.Redis.from_url(f"{url}/0") as client:
            assert client.zcard("my_service:my_service.delayed") == len(delayed)

        # Both at work, on what both have sent.
        terminated = old_worker("terminated")
        workers = [killed, terminated, service.worker(name="new")]
        for module in (ours, plain):
            sent += service.python(SEND_BOTH.format(**module)).split()
        killed.wait_for(r"report\[\S+ received")
        killed.kill()
        assert terminated.stop() == 0
        wait_until(lambda: {*delayed, *sent} <= succeeded(*workers), "every task")
        assert set(delayed) <= succeeded(workers[-1])
