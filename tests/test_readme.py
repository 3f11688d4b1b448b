"""What the READMEs say is so: the template's own, and every command of a generated one."""

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import servers
from tests.projects import TEMPLATE, Bake, BakedProject
from tests.service import Process, Service

README = (TEMPLATE / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


# --- The README of the template ---------------------------------------------------------------


def paths_of(tree: str) -> set[str]:
    """Return the files of a tree drawn with lines, each with its path below the first one."""
    above: list[str] = []
    files = set()
    for line in tree.splitlines()[1:]:
        drawn, name = re.match(r"([│├└─ ]+)(\S+)", line).groups()  # type: ignore[union-attr]
        above = above[: len(drawn) // 4 - 1]
        if name.endswith("/"):
            above.append(name)
        else:
            files.add("".join(above) + name)
    return files


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_the_trees_show_what_is_generated(bake: Bake, project_type: str) -> None:
    trees = dict(zip(["celery", "django"], blocks(README, "text"), strict=True))
    assert paths_of(trees[project_type]) == bake(project_type=project_type).files()


def test_the_table_has_every_question_with_its_choices() -> None:
    questions: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    table = README.split("### The questions")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", table, flags=re.MULTILINE)

    assert [name for name, _ in rows] == [name for name in questions if name[0] != "_"]
    for name, cell in rows:
        value = questions[name]
        if isinstance(value, list):
            assert re.findall(r"`([^`]+)`", cell) == value, name
        elif not value:
            assert cell == "empty", name
        elif "{{" not in value:
            assert cell == f"`{value}`", name


def test_the_makefile_has_every_command_that_the_documents_name() -> None:
    makefile = (TEMPLATE / "Makefile").read_text(encoding="utf-8")
    contributing = (TEMPLATE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for target in re.findall(
        r"(?m)(?:^|`)make ([a-z]+)", "\n".join([*blocks(README, "console"), contributing])
    ):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_every_link_to_a_file_leads_to_one() -> None:
    pages = [*TEMPLATE.glob("*.md"), *TEMPLATE.glob("docs/**/*.md")]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert links
    for page, link in links:
        assert (page.parent / link).is_file(), f"{page.name}: {link}"


# --- The README of a generated project --------------------------------------------------------

# Commands that last until Ctrl-C, and what each has said, in any order, once it is ready.
LASTING = {
    r"dev\.py broker": (r"Broker: ",),
    r"dev\.py worker": (r" ready\.",),
    r"dev\.py flower": (r"Flower: http",),
    r"dev\.py web": (r"Quit the server",),
    r"celery .*\bworker\b": (r" ready\.",),
    r"celery .*\bbeat\b": (r"beat: Starting",),
    r"manage\.py runserver": (r"Quit the server",),
}
# And all of them at once, as many as the Procfile has.
HONCHO = "honcho start"
# What needs a service that no test has: a container engine, a cluster, a repository on GitHub.
# What is for nodes of RabbitMQ is typed in `test_cluster.py`, and updates in `test_updates.py`.
NOT_HERE = r"docker |kubectl |podman |uv(x| run) pre-commit |pre-commit |rabbitmq|uvx cruft |git "
DEADLINE = 120.0


def commands_of(readme: str) -> list[list[str]]:
    """Return the commands of each section, the prompts taken off and continued lines joined."""
    found = []
    for section in re.split(r"^#+ ", readme, flags=re.MULTILINE):
        lines = "\n".join(blocks(section, r"(?:console|sh|bash|shell)")).replace("\\\n", " ")
        commands = [re.sub(r"\s+# .*", "", line).removeprefix("$ ") for line in lines.splitlines()]
        if commands := [command.strip() for command in commands if command.strip()]:
            found.append(commands)
    return found


def kind_of(command: str) -> str | None:
    """Return which of the commands that last this is, if it is one."""
    return next((kind for kind in (HONCHO, *LASTING) if re.search(kind, command)), None)


def signs_of(command: str, procfile: str) -> Iterator[str]:
    """Yield what a command that lasts says when it is ready."""
    for line in procfile.splitlines() if HONCHO in command else [command]:
        yield from LASTING.get(kind_of(line) or "", ())
        if re.search(r"worker .*-B\b", line):
            yield "beat: Starting"


def running_in(project: BakedProject) -> list[psutil.Process]:
    """Return the processes that work in the directory of a project, or below it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(project.path.resolve()):
                found.append(process)
    return found


def wait_for_the_end_of_all(project: BakedProject) -> None:
    """Wait until no process of the project runs any more; end those that stay, and fail."""
    end = time.monotonic() + DEADLINE
    while (left := running_in(project)) and time.monotonic() < end:
        time.sleep(0.1)
    said = []
    for process in left:
        with contextlib.suppress(psutil.Error):
            said.append(" ".join(process.cmdline()))
            process.kill()
    assert not said


class Reader:
    """Somebody who types the commands of a README one after the other."""

    def __init__(self, service: Service) -> None:
        """Sit down before a project."""
        self.service = service
        self.project = service.project
        self.terminals: list[Process] = []

    def types(self, section: list[str]) -> None:
        """Type the commands of a section, those that last each in a terminal of its own."""
        if any(kind_of(command) for command in section):
            self.interrupts()
        for command in section:
            if command.startswith("cd "):
                assert command == f"cd {self.project.path.name}"
            elif kind_of(command):
                for terminal in list(self.terminals):
                    if kind_of(terminal.command[-1]) == kind_of(command):
                        self.interrupt(terminal)  # this command is an alternative to that one
                terminal = self.service.start("bash", "-c", f"exec {command}")
                self.terminals.append(terminal)
                for sign in signs_of(command, self.project.read("Procfile")):
                    terminal.wait_for(sign)
            elif "pytest" in command:
                # test_own.py runs this very command to its end, with no worker beside it.
                collect = {"PYTEST_ADDOPTS": "--collect-only --quiet"}
                self.project.run("bash", "-c", command, env=collect)
            elif not re.match(NOT_HERE, command):
                done = self.service.run("bash", "-euo", "pipefail", "-c", command)
                assert not command.startswith("curl ") or '"id"' in done.stdout, done.stdout

    def interrupts(self) -> None:
        """Press Ctrl-C in each terminal, the last one first, and see that nothing stays."""
        while self.terminals:
            self.interrupt(self.terminals[-1])
        wait_for_the_end_of_all(self.project)

    def interrupt(self, terminal: Process) -> None:
        """Press Ctrl-C in a terminal, which all its processes notice."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.process.wait(DEADLINE)
        self.terminals.remove(terminal)


@pytest.mark.parametrize(
    "answers",
    [
        {"project_type": "celery", "broker": "redis", "result_backend": "redis"},
        {"project_type": "django", "broker": "rabbitmq", "result_backend": "redis"},
    ],
    ids=["celery-redis", "django-rabbitmq"],
)
def test_every_command_of_a_generated_readme_works(project: Bake, answers: dict[str, str]) -> None:
    made = project(**answers)
    # Nothing runs at the address of Redis before the project's own dev.py has started it.
    redis = f"redis://localhost:{servers.free_port()}"
    if answers["project_type"] == "django" and not shutil.which("curl"):
        servers.unavailable("no curl here: to have it, apt-get install curl")
    with contextlib.ExitStack() as stack:
        broker = f"{redis}/0"
        if answers["broker"] == "rabbitmq":
            broker = stack.enter_context(servers.rabbitmq())
        change_addresses(made, broker, redis)
        sections = commands_of(made.read("README.md"))
        assert any(HONCHO in command for section in sections for command in section)
        stack.callback(wait_for_the_end_of_all, made)
        reader = Reader(stack.enter_context(Service(made, broker, f"{redis}/1")))
        for section in sections:
            reader.types(section)
        reader.interrupts()


def change_addresses(project: BakedProject, broker: str, redis: str) -> dict[str, int]:
    """Give a project addresses that nobody else uses on this machine; return its ports."""
    ports = {"8000": servers.free_port(), "5555": servers.free_port()}
    for name in ("README.md", "dev.py", ".env.example"):
        text = project.read(name)
        for usual, port in ports.items():
            text = re.sub(rf"\b{usual}\b", str(port), text)
        text = re.sub(r"(?m)(?<=manage\.py runserver)$", f" {ports['8000']}", text)
        text = re.sub(r"(?<=CELERY_BROKER_URL=)\S+", broker, text)
        text = re.sub(r"(?<=CELERY_RESULT_BACKEND=)redis\S+", f"{redis}/1", text)
        (project.path / name).write_text(text, encoding="utf-8")
    return {"web": ports["8000"], "flower": ports["5555"]}
