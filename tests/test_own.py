"""The tests of what is generated pass, in every combination and on every Python it is made for."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import COMBINATIONS, Bake, BakedProject

OLDEST = (3, 11)
PASSED = r"=+ \d+ passed in "


@contextlib.contextmanager
def broker_of(answers: dict[str, str]) -> Iterator[dict[str, str]]:
    """Give what the tests of a project need: nothing on Redis, the address of a RabbitMQ."""
    if answers.get("broker") == "rabbitmq":
        with servers.rabbitmq() as url:
            yield {"CELERY_BROKER_URL": url}
    else:
        yield {}


def run_own_tests(project: BakedProject, env: dict[str, str]) -> str:
    """Run a project's own tests and return what they said."""
    return project.run("uv", "run", "pytest", env=env, timeout=300).stdout


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_its_own_tests_pass(synced: Bake, project_type: str, broker: str) -> None:
    """With each result backend, side by side: they mostly wait."""
    given = {"project_type": project_type, "broker": broker}
    combinations = [each for each in COMBINATIONS if each.items() >= given.items()]
    assert len(combinations) == 3
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as threads:
        runs = []
        for answers in combinations:
            env = stack.enter_context(broker_of(answers))
            runs.append(threads.submit(run_own_tests, synced(**answers), env))
        for run in runs:
            # One that is skipped has proven nothing.
            assert re.search(PASSED, run.result()), run.result()


def test_its_own_tests_say_what_they_skip_without_a_rabbitmq(synced: Bake) -> None:
    project = synced(project_type="celery", broker="rabbitmq", result_backend="none")
    said = run_own_tests(project, {"CELERY_BROKER_URL": "amqp://guest:guest@localhost:1//"})
    assert re.search(r"=+ \d+ passed, \d+ skipped in ", said), said
    assert "no RabbitMQ at " in said
    assert "CELERY_BROKER_URL" in said


def interpreters(project: BakedProject) -> dict[tuple[int, int], str]:
    """Return where the Pythons of this machine are that the project is made for."""
    command = ("uv", "python", "list", "--only-installed", "--output-format", "json")
    found = [(each["version"], each["path"]) for each in json.loads(project.run(*command).stdout)]
    # The commands that pyenv puts on the PATH know one version only.
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += [(path.parents[1].name, str(path)) for path in pyenv.glob("3.*/bin/python3")]
    released = [
        ((int(match[1]), int(match[2])), path)
        for version, path in found
        if (match := re.fullmatch(r"(\d+)\.(\d+)\.\d+", version))
    ]
    return {version: path for version, path in released if version >= OLDEST}


@pytest.mark.parametrize("which", ["oldest", "newest"])
@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_its_own_tests_pass_on_the_oldest_and_the_newest_python(
    project: Bake, project_type: str, which: str
) -> None:
    fresh = project(project_type=project_type)
    found = interpreters(fresh)
    if which == "oldest" and OLDEST not in found:
        pytest.skip("no Python 3.11 here: uv python install 3.11 enables this test")
    if which == "newest" and max(found) == OLDEST:
        pytest.skip("no Python newer than 3.11 here: uv python install enables this test")
    version = OLDEST if which == "oldest" else max(found)
    env = {"UV_PYTHON": found[version], "UV_PYTHON_DOWNLOADS": "never"}
    said = run_own_tests(fresh, env)
    assert re.search(PASSED, said), said
    assert f"Python {version[0]}.{version[1]}." in said
    if project_type == "django":
        code = "import django; print(django.VERSION[0])"
        django = fresh.run("uv", "run", "python", "-c", code, env=env).stdout.strip()
        assert django == ("5" if version == OLDEST else "6")
