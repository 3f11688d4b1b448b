"""The tests of what is generated pass, in every combination and on every Python it is made for."""

import contextlib
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import servers
from tests.projects import COMBINATIONS, Bake, BakedProject, name_of

OLDEST = (3, 11)


def run_own_tests(project: BakedProject, env: dict[str, str], *options: str) -> str:
    """Run a project's own tests and return what they said."""
    return project.run("uv", "run", "pytest", *options, env=env, timeout=300).stdout


def pass_side_by_side(*runs: tuple[BakedProject, dict[str, str]], options: str = "") -> list[str]:
    """Run the tests of several projects at once, since they mostly wait; each of them passes."""
    with ThreadPoolExecutor(len(runs)) as threads:
        everything = list(threads.map(lambda run: run_own_tests(*run, *options.split()), runs))
    for said in everything:
        # One that is skipped has proven nothing.
        assert re.search(r"=+ \d+ passed, \d+ deselected in ", said), said
    return everything


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_its_own_tests_pass_without_any_server(synced: Bake, project_type: str) -> None:
    given = {"project_type": project_type, "broker": "redis"}
    combinations = [each for each in COMBINATIONS if each.items() >= given.items()]
    with contextlib.ExitStack() as stack:
        runs = []
        for answers in combinations:
            here = servers.addresses("redis", answers["result_backend"])
            env = stack.enter_context(here) if servers.OTHERS else {}
            runs.append((synced(**answers), env))
        pass_side_by_side(*runs)


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_its_own_tests_pass_on_rabbitmq(synced: Bake, project_type: str) -> None:
    given = {"project_type": project_type, "broker": "rabbitmq"}
    combinations = [each for each in COMBINATIONS if each.items() >= given.items()]
    with contextlib.ExitStack() as stack:
        runs = []
        for answers in combinations:
            url = stack.enter_context(servers.rabbitmq())
            runs.append((synced(**answers), {"CELERY_BROKER_URL": url}))
            if url == servers.USUAL_RABBITMQ:
                # There is only one: its virtual host is for one project at a time.
                pass_side_by_side(runs.pop())
                stack.close()
        if runs:
            pass_side_by_side(*runs)


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_its_own_tests_say_what_they_skip_without_a_rabbitmq(
    synced: Bake, project_type: str
) -> None:
    project = synced(project_type=project_type, broker="rabbitmq", result_backend="none")
    said = run_own_tests(project, {"CELERY_BROKER_URL": "amqp://guest:guest@localhost:1//"})
    assert re.search(r"=+ \d+ passed, \d+ skipped, \d+ deselected in ", said), said
    assert "name a RabbitMQ in CELERY_BROKER_URL" in said


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_its_own_tests_do_not_read_the_env_file(project: Bake, project_type: str) -> None:
    made = project(project_type=project_type, broker="redis", result_backend="redis")
    nowhere = (
        "CELERY_BROKER_URL=redis://localhost:1/0\nCELERY_RESULT_BACKEND=redis://localhost:1/1\n"
    )
    (made.path / ".env").write_text(f"{nowhere}CELERY_SENTINEL_MASTER=mymaster\nLOG_FORMAT=json\n")
    # Of another project, in which this one lies.
    (made.path.parent / ".env").write_text("CELERY_TASK_TIME_LIMIT=1\n")
    said = run_own_tests(made, {}, "tests/test_results.py", "tests/test_settings.py")
    assert re.search(r"=+ \d+ passed in ", said), said
    module = f"{made.package}.{'settings' if project_type == 'django' else 'celeryconfig'}"
    names = ["broker_url", "task_time_limit"]
    if project_type == "django":
        names = [f"CELERY_{name.upper()}" for name in names]
    code = f"from {module} import {', '.join(names)}; print({', '.join(names)})"
    assert made.run("uv", "run", "python", "-c", code).stdout == "redis://localhost:1/0 300\n"
    # What the settings do not read is in the environment, too.
    app = "celery_app" if project_type == "celery" else f"{made.package}.celery"
    code = f"from {app} import app; app.log.setup(); app.log.get_default_logger().warning('there')"
    assert json.loads(made.run("uv", "run", "python", "-c", code).stderr)["event"] == "there"


# Between them, they have every dependency.
@pytest.mark.parametrize("answers", [COMBINATIONS[4], COMBINATIONS[7]], ids=name_of)
def test_the_lowest_versions_that_are_allowed_are_enough(
    project: Bake, addresses: Callable[[dict[str, str]], dict[str, str]], answers: dict[str, str]
) -> None:
    made = project(**answers)
    found = interpreters(made)
    env = {"UV_PYTHON": found[min(found)], "UV_PYTHON_DOWNLOADS": "never"}
    lowest = ("--quiet", "--all-extras", "--resolution", "lowest-direct")
    made.run("uv", "sync", *lowest, env=env)
    env |= addresses(answers) | {"UV_NO_SYNC": "1"}
    pass_side_by_side((made, env))
    made.run("uv", "run", "mypy", ".", env=env)
    made.run("uv", "run", "ruff", "check", env=env)
    made.run("uv", "run", "ruff", "format", "--check", env=env)


def test_workers_hold_with_processes_that_are_started_afresh(project: Bake) -> None:
    made = project(project_type="django", broker="redis", result_backend="database")
    settings = made.path / made.package / "settings.py"
    # As on macOS; what else differs there, no other system shows.
    text = settings.read_text(encoding="utf-8")
    text, changes = re.subn(r'"spawn" if .+ else "fork"', '"spawn"', text)
    assert changes == 1
    settings.write_text(text, encoding="utf-8")
    pass_side_by_side((made, {}), options="-m faults")


def version_of(project: BakedProject) -> tuple[int, int]:
    """Return the version of Python in a project's environment."""
    config = project.read(".venv/pyvenv.cfg")
    match = re.search(r"^version_info = (\d+)\.(\d+)", config, re.MULTILINE)
    assert match, config
    return int(match[1]), int(match[2])


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
def test_its_own_tests_pass_on_the_oldest_and_the_newest_python(
    synced: Bake, project: Bake, which: str
) -> None:
    usual = [synced(**COMBINATIONS[0]), synced(**COMBINATIONS[6])]
    found = interpreters(usual[0])
    if which == "oldest" and OLDEST not in found:
        pytest.skip("no Python 3.11 here: uv python install 3.11 enables this test")
    if which == "newest" and max(found) == OLDEST:
        pytest.skip("no Python newer than 3.11 here: uv python install enables this test")
    version = OLDEST if which == "oldest" else max(found)
    env = {"UV_PYTHON": found[version], "UV_PYTHON_DOWNLOADS": "never"}
    if version_of(usual[0]) == version:
        # The tests of each combination have run on it already.
        fresh = usual
    else:
        fresh = [project(**COMBINATIONS[0]), project(**COMBINATIONS[6])]
        for said in pass_side_by_side(*[(each, env) for each in fresh]):
            assert f"Python {version[0]}.{version[1]}." in said
    plain, django = fresh
    assert version_of(plain) == version_of(django) == version
    code = "import django; print(django.VERSION[0])"
    major = django.run("uv", "run", "--no-sync", "python", "-c", code).stdout.strip()
    assert major == ("5" if version == OLDEST else "6")
