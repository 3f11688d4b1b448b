"""The recipes of a generated project, put into it as its reader does, at work."""

import ast
import contextlib
import json
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests import servers
from tests.collector import Collector, collector
from tests.projects import Bake, BakedProject, clean_environment, name_of
from tests.service import Process, Service, wait_until
from tests.test_quality import check_types
from tests.test_readme import blocks

KITCHENS = [
    {"project_type": "celery", "broker": "redis", "result_backend": "redis"},
    {"project_type": "django", "broker": "rabbitmq", "result_backend": "database"},
    {"project_type": "celery", "broker": "rabbitmq", "result_backend": "none"},
]
# Kills a process of the worker in the middle of a payment, between its row and its commit.
CRASH = """\
import logging
import os
import signal
from pathlib import Path


class Crash(logging.Filter):
    def filter(self, record):
        mark = Path(__file__).with_name("crashed")
        if record.getMessage() == "payment crash" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return True


logging.getLogger("{tasks}").addFilter(Crash())
"""

# A shell that stays open: takes code as lines of JSON, answers with what the code printed.
SHELL = """\
import contextlib, io, json, sys

for line in sys.stdin:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(json.loads(line), {})
    print(json.dumps(printed.getvalue()), flush=True)
"""


@contextlib.contextmanager
def open_shell(service: Service) -> Iterator[subprocess.Popen[str]]:
    """Keep Python open in the project, or Django's shell."""
    django = ("manage.py", "shell", "--verbosity", "0", "--command", SHELL)
    is_django = (service.project.path / "manage.py").exists()
    with subprocess.Popen(
        [".venv/bin/python", *(django if is_django else ("-c", SHELL))],
        cwd=service.project.path,
        env=clean_environment() | service.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as shell:
        yield shell


def tell(shell: subprocess.Popen[str], code: str) -> list[str]:
    """Have a shell run some code; return the words that it printed."""
    assert shell.stdin
    assert shell.stdout
    print(json.dumps(code), file=shell.stdin, flush=True)
    printed: str = json.loads(shell.stdout.readline())
    return printed.split()


def put(project: BakedProject, name: str, code: str, above: str | None = None) -> None:
    """Put code into a file as a reader does: its imports to the top, the rest to the end.

    If it belongs ``above`` something, it gets there; a file that does not exist is a new one.
    """
    if not (project.path / name).exists():
        (project.path / name).write_text(code, encoding="utf-8")
        return
    imported = [
        node.end_lineno or 0
        for node in ast.parse(code).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    lines = code.splitlines()
    imports, rest = lines[: max(imported, default=0)], lines[max(imported, default=0) :]
    there = project.read(name).rstrip().splitlines()
    top = ast.parse("\n".join(there)).body[0].end_lineno or 0  # the docstring of the module
    if imports:
        there[top:top] = ["", *imports]
    rest = "\n".join(rest).strip().splitlines()
    if above:
        [place] = [number for number, line in enumerate(there) if line.startswith(above)]
        text = [*there[:place], *rest, "", *there[place:]]
    else:
        text = [*there, "", "", *rest]
    (project.path / name).write_text("\n".join(text) + "\n", encoding="utf-8")


def recipes_of(project: BakedProject) -> dict[str, str]:
    """Return the recipes of a project by their titles."""
    texts = project.read("docs/recipes.md").split("\n## ")[1:]
    return {text.splitlines()[0]: text for text in texts}


class Kitchen:
    """A project with all its recipes in it, its workers running."""

    shell: subprocess.Popen[str]  # in the project

    def __init__(
        self, project: BakedProject, directory: Path, collector: Collector, *, keeps_results: bool
    ) -> None:
        """Put every recipe into the project, and keep what the senders do."""
        self.collector = collector
        self.project = project
        self.keeps_results = keeps_results
        self.directory = directory
        self.tasks = "jobs.tasks" if (project.path / "manage.py").exists() else "celery_app.tasks"
        self.senders: dict[str, str] = {}
        self.commands: list[str] = []
        for title, recipe in recipes_of(project).items():
            for block in blocks(recipe, "python"):
                if file := re.match(r"# (\S+\.py)(?:, above `(\w+)`)?\n", block):
                    put(project, file[1], block[file.end() :], file[2])
                else:
                    self.senders[title] = block
            # Lines of the Procfile: a name, and what honcho gives to a shell.
            self.commands += [line.partition(": ")[2] for line in blocks(recipe, "text")]
            for block in blocks(recipe, "console"):
                project.run("bash", "-euc", block)
        self.lint("check", "--fix", "--select", "I")

    def lint(self, *words: str) -> None:
        """Run Ruff in the project."""
        self.project.run("uv", "run", "ruff", *words)

    def serve(self, service: Service) -> None:
        """Start the worker of the default queue, and the one that the recipe names."""
        self.service = service
        if self.django:
            service.run("uv", "run", "python", "manage.py", "makemigrations", "jobs")
            service.run("uv", "run", "python", "manage.py", "migrate")
        (self.directory / "crash.py").write_text(CRASH.format(tasks=self.tasks))
        (command,) = self.commands
        self.slow = service.start("uv", "run", "bash", "-c", f"exec env {command}")
        self.worker = self.start_worker()
        self.slow.wait_for(r"slow@\S+ ready\.")

    @property
    def django(self) -> bool:
        """Tell the flavour."""
        return self.tasks == "jobs.tasks"

    def start_worker(self) -> Process:
        """Start the worker of the default queue."""
        return self.service.worker("--include", "crash", env={"PYTHONPATH": str(self.directory)})

    def send(self, title: str, more: str = "", *, change: tuple[str, str] = ("", "")) -> list[str]:
        """Do what the sender of a recipe does, and more; return the words that were printed."""
        (recipe,) = (code for name, code in self.senders.items() if name.startswith(title))
        assert change[0] in recipe
        return tell(self.shell, f"{recipe.replace(*change, 1) if change[0] else recipe}\n{more}")

    def task_id(self, title: str, **options: tuple[str, str]) -> str:
        """Do what the sender of a recipe does; return the id of the task."""
        (task,) = self.send(title, "print(result.id)", **options)
        return task

    def moments(self, process: Process, pattern: str) -> list[float]:
        """Return when the log of a process has a pattern: seconds."""
        lines = re.findall(rf"^(\d[\dT:.-]+) .*{pattern}", process.output, re.MULTILINE)
        return [datetime.fromisoformat(line).timestamp() for line in lines]


@pytest.fixture(scope="module", params=KITCHENS, ids=name_of)
def kitchen(
    request: pytest.FixtureRequest, bake: Bake, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kitchen]:
    """Give each project in turn, its recipes in it and its workers running."""
    answers: dict[str, str] = request.param
    directory = tmp_path_factory.mktemp("kitchen")
    baked = bake(**answers)
    project = BakedProject(directory / baked.path.name, baked.package)
    shutil.copytree(baked.path, project.path, symlinks=True)
    project.sync()
    keeps_results = answers["result_backend"] != "none"
    with (
        collector() as traces,
        servers.addresses(answers["broker"], answers["result_backend"]) as env,
        Service(project, env["CELERY_BROKER_URL"], env.get("CELERY_RESULT_BACKEND")) as service,
    ):
        kitchen = Kitchen(project, directory, traces, keeps_results=keeps_results)
        # What is not sent at the end of a process is not sent at all.
        service.env |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": traces.url,
            "OTEL_BSP_SCHEDULE_DELAY": "999999",
        }
        kitchen.serve(service)
        with open_shell(service) as kitchen.shell:
            yield kitchen


def test_what_a_reader_pastes_is_formatted_and_typed(
    kitchen: Kitchen, workshop: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for number, code in enumerate(kitchen.senders.values()):
        (kitchen.project.path / f"sender_{number}.py").write_text(f'"""A sender."""\n\n{code}')
    if kitchen.django:
        kitchen.lint("format", "jobs/migrations")  # what Django writes
    kitchen.lint("check")
    kitchen.lint("format", "--check", "--diff")
    check_types(kitchen.project, workshop, tmp_path_factory.getbasetemp() / "mypy-recipes")


def test_a_retry_backs_off_with_jitter_and_ends(kitchen: Kitchen) -> None:
    many = "print(result.id, *[count_lines.delay(f'missing-{n}').id for n in range(20)])"
    found, *missing = kitchen.send("Retry", many)
    kitchen.worker.wait_for(rf"{found}\] retry: Retry in")
    (kitchen.project.path / "orders.csv").write_text("1\n2\n3\n")
    kitchen.worker.wait_for(rf"{found}\] succeeded in \S+s: 3")

    last = set()
    for task in missing:
        kitchen.worker.wait_for(rf"{task}\] raised unexpected: NotThereYetError")
        retry = rf"{task}\] retry: Retry in (\d+)s"
        kitchen.worker.wait_for(retry, times=3)
        # A run without a delay can be over before the one before it is logged.
        delays = sorted(int(delay) for delay in re.findall(retry, kitchen.worker.output))
        assert len(delays) == 3
        assert all(delay <= 2**number for number, delay in enumerate(delays))
        # From its first arrival on: the line of a retry is written some time after its delay began.
        moments = kitchen.moments(kitchen.worker, rf"{task}\] ")
        assert moments[-1] - moments[0] > sum(delays) - 0.5
        last.add(delays[-1])
    assert max(last) > 1
    assert len(last) > 1


def test_a_key_makes_a_second_run_harmless(kitchen: Kitchen) -> None:
    for _ in range(2):
        task = kitchen.task_id("Run once")
        kitchen.worker.wait_for(rf"{task}\] succeeded")
    assert len(re.findall(r"payment order-1\b", kitchen.worker.output)) == 1

    # Its process is killed half-way; the next run does everything.
    task = kitchen.task_id("Run once", change=("order-1", "crash"))
    kitchen.worker.wait_for(rf"{task}\] succeeded")
    assert (kitchen.directory / "crashed").exists()
    again = kitchen.task_id("Run once", change=("order-1", "crash"))
    kitchen.worker.wait_for(rf"{again}\] succeeded")
    assert len(re.findall(r"payment crash\b", kitchen.worker.output)) == 1


def test_a_chain_hands_on_and_a_chord_adds_up(kitchen: Kitchen) -> None:
    if kitchen.keeps_results:
        get = "print(chained.get(timeout=100), together.get(timeout=100))"
        assert kitchen.send("Chains and chords", get) == ["9", "12"]
    else:
        task = kitchen.task_id("Chains")
        kitchen.worker.wait_for(rf"{task}\] succeeded in \S+s: 9")


def test_ten_thousand_calls_are_a_hundred_messages(kitchen: Kitchen) -> None:
    get = "print(len(result.results))"
    if kitchen.keeps_results:
        get += "; print(sum(sum(chunk) for chunk in result.get(timeout=100)))"
    messages, *total = kitchen.send("Ten thousand", get)
    assert messages == "100"
    assert total == (["99990000"] if kitchen.keeps_results else [])
    kitchen.worker.wait_for(r"celery\.starmap\[\S+ succeeded", times=100)


def test_a_rate_limit_is_kept(kitchen: Kitchen) -> None:
    kitchen.send("Limit the rate")
    kitchen.worker.wait_for("Hello, reader", times=10)
    moments = kitchen.moments(kitchen.worker, "Hello, reader")
    assert moments[-1] - moments[0] > 9 / 5 - 0.3


def test_the_second_worker_alone_takes_a_routed_task(kitchen: Kitchen) -> None:
    task = kitchen.task_id("A separate queue")
    kitchen.slow.wait_for(rf"{task}\] succeeded in \S+s: 'ADA'")
    assert task not in kitchen.worker.output
    assert set(re.findall(r"Task (\S+)\[\S+ received", kitchen.slow.output)) == {
        f"{kitchen.tasks}.render"
    }


def test_a_task_cleans_up_at_its_time_limit(kitchen: Kitchen) -> None:
    task = kitchen.task_id("A time limit")
    kitchen.worker.wait_for(rf"{task}\] raised unexpected: SoftTimeLimitExceeded")
    assert "long.csv takes too long" in kitchen.worker.output
    assert not list(kitchen.project.path.glob("long.csv*"))

    task = kitchen.task_id("A time limit", change=('"long.csv", 1000', '"short.csv", 3'))
    kitchen.worker.wait_for(rf"{task}\] succeeded")
    assert kitchen.project.read("short.csv") == "0\n1\n2\n"


WATCH = """
import json, time

seen = []
while (info := result.info) != 300:  # of one look: between two, it may be done
    if info and (not seen or seen[-1] != info):
        seen.append(info)
    time.sleep(0.02)
print(json.dumps(seen))
"""


def test_progress_moves_and_is_told_no_more_often_than_it_says(kitchen: Kitchen) -> None:
    if not kitchen.keeps_results:
        assert "PROGRESS" not in kitchen.project.read("docs/recipes.md")
        return
    if kitchen.django:
        url = kitchen.service.web()
        (job,) = kitchen.send("Report progress", "print(job.id)")
        seen = list(progress(f"{url}/jobs/{job}/"))
    else:
        seen = json.loads(" ".join(kitchen.send("Report progress", WATCH)))
    done = [each["done"] for each in seen]
    assert done == sorted(set(done))
    assert {each["total"] for each in seen} == {300}
    # Three seconds, on a busy machine more.
    succeeded = rf"{kitchen.tasks}\.measure\[\S+ succeeded in ([\d.]+)s"
    kitchen.worker.wait_for(succeeded)
    (seconds,) = re.findall(succeeded, kitchen.worker.output)
    assert 3 <= len(done) <= float(seconds) / 0.5 + 1


def progress(url: str) -> Iterator[dict[str, int]]:
    """Ask a service for a job, until it is done; yield each progress that is new."""
    last = None
    while (answer := json.load(urllib.request.urlopen(url, timeout=60)))["state"] != "SUCCESS":  # noqa: S310
        assert answer["state"] in {"UNSENT", "PENDING", "PROGRESS"}
        if answer["state"] == "PROGRESS" and answer["result"] != last:
            yield (last := answer["result"])
        time.sleep(0.02)


def test_a_cancelled_task_stops_cleans_up_and_does_not_come_back(kitchen: Kitchen) -> None:
    started = """
import pathlib, time
while not pathlib.Path("cancelled.csv.part").exists():
    time.sleep(0.05)
"""
    task = kitchen.task_id("Cancel", change=("result.revoke", f"{started}result.revoke"))
    kitchen.worker.wait_for(rf"Terminating {task} \(15\)")
    files = kitchen.project.path.glob
    wait_until(lambda: not list(files("cancelled.csv*")), "the file is still there")
    if kitchen.keeps_results:
        ask = f"print(result.app.AsyncResult({task!r}).state)"
        wait_until(lambda: kitchen.send("Run once", ask) == ["REVOKED"], "it is not revoked")

    # What was not acknowledged is given to the next worker at once, when this one leaves.
    kitchen.worker.stop()
    kitchen.worker = kitchen.start_worker()
    after = kitchen.task_id("Run once")
    kitchen.worker.wait_for(rf"{after}\] succeeded")
    assert task not in kitchen.worker.output


LATE = """
from django.http import HttpRequest, HttpResponse
from django.urls import path

from jobs.services import start
from jobs.tasks import count_lines


def late(request: HttpRequest) -> HttpResponse:
    return HttpResponse(start(count_lines, "traced.csv").pk)


urlpatterns = [path("late/", late)]
"""


def test_a_trace_leads_from_the_sender_to_the_last_retry(kitchen: Kitchen) -> None:
    if kitchen.django:
        (kitchen.directory / "late_urls.py").write_text(LATE)
        settings = f"from {kitchen.project.package}.settings import *\nROOT_URLCONF = 'late_urls'"
        (kitchen.directory / "late_settings.py").write_text(settings)
        place = {"PYTHONPATH": str(kitchen.directory), "DJANGO_SETTINGS_MODULE": "late_settings"}
        url = kitchen.service.web(env=place)
        with urllib.request.urlopen(f"{url}/late/", timeout=60) as answer:  # noqa: S310
            task = answer.read().decode()
        first = "GET late/"
    else:
        delayed = ('delay("orders.csv")', 'apply_async(("traced.csv",), countdown=1)')
        task = kitchen.task_id("Trace a task", change=delayed)
        first = "import"
    kitchen.worker.wait_for(rf"{task}\] retry: Retry in")
    (kitchen.project.path / "traced.csv").write_text("1\n")
    kitchen.worker.wait_for(rf"{task}\] succeeded")
    assert not kitchen.collector.spans_of(task)
    # Each process sends its spans when it ends.
    if kitchen.django:
        kitchen.service.processes[-1].stop(signal.SIGINT)
    else:
        tell(kitchen.shell, "from celery_app import tracing; tracing.stop()")
    kitchen.worker.stop()
    # Only now are all lines there: a run can be over before the one before it is logged.
    runs = 1 + len(re.findall(rf"{task}\] retry: Retry in", kitchen.worker.output))
    kitchen.worker = kitchen.start_worker()

    ended = kitchen.collector.spans_of(task)
    [last] = [each for each in ended if each.attributes.get("celery.state") == "SUCCESS"]
    spans = {span.id: span for span in kitchen.collector.spans}
    path = [last]
    while path[-1].parent:
        path.append(spans[path[-1].parent])
    assert len({span.trace for span in path}) == 1
    names = [span.name for span in reversed(path)]
    print(last.trace, *names, sep="\n    ")  # noqa: T201
    sent_and_run = [f"{step}/{kitchen.tasks}.count_lines" for step in ("apply_async", "run")]
    assert names == [first, *sent_and_run * runs]
