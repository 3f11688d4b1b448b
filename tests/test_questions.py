"""A person answers the questions at a terminal, with cookiecutter or cruft, and mistypes some."""

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.projects import TEMPLATE, clean_environment
from tests.releases import SCRIPTS, newcomer, publish


class Person:
    """Somebody who has just typed a command, in an empty directory."""

    def __init__(self, command: list[str], directory: Path, env: dict[str, str]) -> None:
        """Start ``command`` in a terminal of its own."""
        self.directory = directory
        self.terminal = pexpect.spawn(
            str(SCRIPTS / command[0]),
            command[1:],
            cwd=str(directory),
            env=env,
            encoding="utf-8",
            dimensions=(50, 200),
            timeout=120,
        )

    def is_asked(self, question: str) -> str:
        """Wait until ``question`` is asked, with a default; return what was said before."""
        self.terminal.expect(rf"{question}[^\n]*(?:\n[^\[][^\n]*)*\([^)\n]*\): ")
        return str(self.terminal.before)

    def answers(self, question: str, *answers: str) -> str:
        """Type ``answers``, each when ``question`` is asked; return what was said of the others."""
        said = ""
        for number, answer in enumerate(answers):
            before = self.is_asked(question)
            said += before if number else ""
            self.terminal.sendline(answer)
        return said

    def reads_on(self) -> list[str]:
        """Return the lines that are printed up to the end."""
        self.terminal.expect(pexpect.EOF)
        self.terminal.close()
        return str(self.terminal.before).strip().splitlines()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the address of a git repository that holds the template, for cruft."""
    directory = tmp_path_factory.mktemp("repository")
    return publish(directory, newcomer(directory / "home")).url


@pytest.fixture(params=["cookiecutter", "cruft"])
def person(request: pytest.FixtureRequest, tmp_path: Path, repository: str) -> Iterator[Person]:
    """Return a person who starts either command for the first time."""
    home, out = tmp_path / "home", tmp_path / "out"
    home.mkdir()
    out.mkdir()
    env = clean_environment() | {"HOME": str(home), "TERM": "dumb", "LANG": "C.UTF-8"}
    template = {"cookiecutter": [str(TEMPLATE)], "cruft": ["create", repository]}
    person = Person([request.param, *template[request.param]], out, env)
    yield person
    person.terminal.close(force=True)


def test_a_typo_costs_one_question(person: Person) -> None:
    person.answers("Name of the service", "Night Shop")
    said = person.answers("Name of its directory", "../shop", "celery", "com1", "")
    assert 'project_slug: "../shop" is not a valid package name; use lowercase' in said
    assert 'project_slug: "celery" would shadow the module of that name; try celery_service' in said
    assert 'project_slug: "com1" is the name of a device on Windows' in said
    said = person.answers("What it does", "x" * 201, "Sells {{ 7*7 }} at night")
    assert "has 201 characters; the maximum is 200" in said
    person.answers("Your name", "Zoë O'Neil")
    said = person.answers("Email address", "zoe", "zoe@example.org")
    assert 'author_email: "zoe" is not a valid email address, such as me@example.org' in said
    person.answers("What kind of project", "7", "2")  # cookiecutter's own refusal
    person.answers("Which broker", "2")
    person.answers("Where to store", "1")
    said = person.answers("Time zone", "Europe/Berln", "Berlin", "Europe/Berlin")
    assert said.count("is not an IANA time zone; did you mean Europe/Berlin") == 2
    person.answers("License", "3")
    person.answers("Where to run the tests", "2")
    person.answers("How to deploy", "1")
    last = person.reads_on()

    assert person.terminal.exitstatus == 0, last
    assert not re.search("Traceback|project_slug", "\n".join(last))
    project = person.directory / "night_shop"
    assert list(person.directory.iterdir()) == [project]
    metadata = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))["project"]
    assert metadata["description"] == "Sells {{ 7*7 }} at night"
    assert metadata["authors"] == [{"name": "Zoë O'Neil", "email": "zoe@example.org"}]
    assert 'TIME_ZONE = "Europe/Berlin"' in (project / "night_shop/settings.py").read_text("utf-8")
    assert (project / ".gitlab-ci.yml").is_file()


@pytest.mark.parametrize("key", ["Ctrl-C", "Ctrl-D"])
@pytest.mark.parametrize("typo", ["", "night-shop"], ids=["asked once", "asked again"])
def test_a_person_can_stop_at_a_question(person: Person, key: str, typo: str) -> None:
    person.answers("Name of the service", "Night Shop")
    person.answers("Name of its directory", *([typo] if typo else []))
    person.is_asked("Name of its directory")
    person.terminal.sendcontrol(key[-1].lower())
    said = person.reads_on()
    assert person.terminal.exitstatus in (1, 130), said
    assert len(said) <= 2, said  # the echo of the key, and one line
    assert not list(person.directory.iterdir())


def test_cruft_without_questions_refuses_in_one_line(repository: str, tmp_path: Path) -> None:
    """Cruft shows a traceback of every other exception, be it from cookiecutter or click."""
    answers = ("--extra-context", '{"project_slug": "../shop"}')
    done = subprocess.run(
        [str(SCRIPTS / "cruft"), "create", "--no-input", repository, *answers],
        cwd=tmp_path,
        env=clean_environment() | {"HOME": str(tmp_path)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 1
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith('project_slug: "../shop" is not a valid package name; use ')
    assert not list(tmp_path.iterdir())
