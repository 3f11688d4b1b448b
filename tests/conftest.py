"""Bakes, cached for the session, and the servers that a test needs."""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.environment import StrictEnvironment
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests import servers
from tests.projects import COMBINATIONS, OTHERS, Bake, BakedProject, name_of

# The same examples every day: a run tells about the change, and not about its luck.
settings.register_profile(
    "template",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=170,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("fast", settings.get_profile("template"), max_examples=10)
settings.load_profile("template")  # and `make test-fast` another one


def pytest_xdist_auto_num_workers() -> int:
    """Run two tests for each processor: most tests wait, for processes and for delays."""
    return (os.cpu_count() or 2) * 2


def pytest_configure(config: pytest.Config) -> None:
    """Begin the session that all processes share; the first one ends it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        session = contextlib.ExitStack()
        session.enter_context(servers.session())
        config.add_cleanup(session.close)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """End with what was skipped, and how to enable it, and with what tests have measured."""
    skipped: dict[str, list[str]] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skipped.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)
    for reason, names in skipped.items():
        terminalreporter.section(f"skipped, {reason}")
        for name in sorted(names):
            terminalreporter.write_line(name)
    for report in terminalreporter.stats.get("passed", []):
        if report.when == "call" and report.user_properties:
            measured = ", ".join(f"{name}: {value}" for name, value in report.user_properties)
            terminalreporter.write_line(f"{report.nodeid.partition('::')[2]}: {measured}")


@pytest.fixture(params=[*COMBINATIONS, *OTHERS], ids=name_of)
def answers(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return each of the combinations in turn."""
    return dict(request.param)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    """Compile each template once for all bakes of a process; it takes most of their time."""
    compile_, compiled = StrictEnvironment.compile, dict[tuple[Any, ...], Any]()

    def look_up(self: StrictEnvironment, *key: Any) -> Any:  # noqa: ANN401
        if key not in compiled:
            compiled[key] = compile_(self, *key)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StrictEnvironment, "compile", look_up)
        yield


@pytest.fixture(scope="session")
def bake(cookies_session: Any) -> Bake:  # noqa: ANN401
    """Bake a project, once for the same answers; a refusal is raised. Not to be changed."""
    cache: dict[tuple[tuple[str, str], ...], BakedProject] = {}

    def bake(**answers: str) -> BakedProject:
        key = tuple(sorted(answers.items()))
        if key not in cache:
            result = cookies_session.bake(extra_context=answers)
            if result.exception:
                raise result.exception
            cache[key] = BakedProject(result.project_path, result.context["__package"])
        return cache[key]

    return bake


@pytest.fixture
def project(bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Bake:
    """Give a fresh copy of a bake, for a test that changes it."""

    def project(**answers: str) -> BakedProject:
        baked = bake(**answers)
        path = tmp_path_factory.mktemp("project") / baked.path.name
        shutil.copytree(baked.path, path, symlinks=True)
        return BakedProject(path, baked.package)

    return project


@pytest.fixture(scope="session")
def synced(bake: Bake) -> Bake:
    """Give an installed project, one for all processes of the session. Its files stay as they are.

    Several tests can run in it at once: what they write (results, a database) belongs elsewhere.
    """

    def synced(**answers: str) -> BakedProject:
        baked = bake(**answers)
        key = json.dumps(answers, sort_keys=True).encode()
        home = servers.shared_directory() / "synced" / hashlib.sha256(key).hexdigest()[:16]
        shared = BakedProject(home / baked.path.name, baked.package)
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / "lock"):
            if not (home / "done").exists():
                shutil.rmtree(shared.path, ignore_errors=True)
                shutil.copytree(baked.path, shared.path, symlinks=True)
                shared.sync()
                (home / "done").touch()
        return shared

    return synced


@pytest.fixture(scope="session")
def workshop(bake: Bake) -> Path:
    """Give the commands of one environment with all that any combination needs, to look on."""
    baked = bake(project_type="django", broker="redis", result_backend="database")
    plain = bake(project_type="celery", broker="redis", result_backend="database")
    home = servers.shared_directory() / "workshop"
    home.mkdir(exist_ok=True)
    with FileLock(home / "lock"):
        if not (home / "done").exists():
            shutil.copy(baked.path / "pyproject.toml", home)
            project = BakedProject(home, "")
            project.sync()
            # What a recipe adds.
            added = re.findall(r"(?m)^uv add ((?:.*\\\n)*.*)", baked.read("docs/recipes.md"))
            words = [word for each in added for word in each.replace("\\\n", "").split()]
            options = ("--quiet", "-r", str(plain.path / "pyproject.toml"))
            project.run("uv", "pip", "install", *options, *words)
            (home / "done").touch()
    return home / ".venv" / ("Scripts" if os.name == "nt" else "bin")


@pytest.fixture
def addresses() -> Iterator[Callable[[dict[str, str]], dict[str, str]]]:
    """Start the servers that answers need, for one test; give the variables that point to them."""
    with contextlib.ExitStack() as stack:

        def addresses(answers: dict[str, str]) -> dict[str, str]:
            broker = answers.get("broker", "redis")
            result_backend = answers.get("result_backend", "redis")
            return stack.enter_context(servers.addresses(broker, result_backend))

        yield addresses
