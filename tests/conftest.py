"""Bakes, cached for the session, and the projects that come of them."""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from cookiecutter.environment import StrictEnvironment
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests import servers

TEMPLATE = Path(__file__).parents[1]
RUNTIME = TEMPLATE / "{{cookiecutter.project_slug}}" / "{{cookiecutter.__package}}" / "runtime"
TIMEOUT = 300.0

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

COMBINATIONS = [
    {"project_type": project_type, "broker": broker, "result_backend": result_backend}
    for project_type, broker, result_backend in itertools.product(
        ["celery", "django"], ["redis", "rabbitmq"], ["redis", "database", "none"]
    )
]
# The other answers of `ci` and `deployment`; those above come with the first ones.
OTHERS = [
    {**COMBINATIONS[index], "ci": ci, "deployment": deployment}
    for index, ci, deployment in [
        *[(0, "none", "none"), (4, "gitlab", "compose")],
        *[(8, "github", "none"), (9, "gitlab", "none")],
        *[(0, "github", "kubernetes"), (4, "none", "kubernetes")],
        *[(7, "github", "kubernetes"), (9, "gitlab", "kubernetes")],
    ]
]
PRESETS: dict[str, dict[str, str]] = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))["default_context"]
    for path in sorted((TEMPLATE / "presets").glob("*.yaml"))
}
# What a generated project reads from the environment, and what would lead its commands astray.
FOREIGN = {
    *("ALLOWED_HOSTS", "CI", "DATABASE_URL", "DEBUG", "DJANGO_SETTINGS_MODULE", "SECRET_KEY"),
    *("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MYPY_CACHE_DIR", "MYPYPATH"),
    *("PYTHONDONTWRITEBYTECODE", "PYTHONHOME", "PYTHONPATH"),  # the first doubles each start
    *("UV", "UV_PROJECT_ENVIRONMENT", "UV_RUN_RECURSION_DEPTH", "VIRTUAL_ENV"),
}
FOREIGN_PREFIXES = ("CELERY_", "COV_", "FLOWER_", "HYPOTHESIS_", "PYTEST_", "TEMPLATE_TESTS_")


def name_of(answers: dict[str, str]) -> str:
    """Return the name of a combination: ``celery-redis-none``."""
    keys = ("project_type", "broker", "result_backend", "ci", "deployment")
    return "-".join(answers[key] for key in keys if key in answers)


def clean_environment() -> dict[str, str]:
    """Return the environment as somebody has it who generated a project and knows nothing of us."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name.removesuffix("_FILE") not in FOREIGN and not name.startswith(FOREIGN_PREFIXES)
    }
    uv = Path(os.environ.get("UV") or shutil.which("uv") or "uv")
    ours = Path(sys.executable).parent
    paths = [path for path in environment["PATH"].split(os.pathsep) if Path(path) != ours]
    if not shutil.which("uv", path=os.pathsep.join(paths)):
        paths.insert(0, str(uv.parent))
    return environment | {"PATH": os.pathsep.join(paths)}


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    """End a command that takes too long, as Ctrl-C does: it can end what it has started."""
    if sys.platform == "win32":
        process.kill()
        return process.communicate()
    for signum in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=60)
    return "", "and it could not be killed"


class BakedProject:
    """A directory that the template wrote."""

    def __init__(self, path: Path, package: str) -> None:
        """Know where it lies, and which package holds its Celery app."""
        self.path = path
        self.package = package

    def files(self) -> set[str]:
        """Return the names of all files, caches and environments left out."""
        tops = {".venv", ".ruff_cache", ".mypy_cache", ".pytest_cache", "uv.lock"}
        return {
            name.as_posix()
            for path in self.path.rglob("*")
            if path.is_file()
            and (name := path.relative_to(self.path)).parts[0] not in tops
            and "__pycache__" not in name.parts
        }

    def read(self, name: str) -> str:
        """Return the text of a file."""
        return (self.path / name).read_text(encoding="utf-8")

    def run(
        self,
        *command: str | Path,
        env: dict[str, str] | None = None,
        timeout: float = TIMEOUT,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, in a clean environment; show what it said if it fails."""
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=self.path,
            env=clean_environment() | (env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        words = " ".join(map(str, command))
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except BaseException as error:
            stdout, stderr = end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                pytest.fail(f"{words}: not done in {timeout} s\n{stdout}\n{stderr}")
            raise
        if check and process.returncode:
            pytest.fail(f"{words}: exit status {process.returncode}\n{stdout}\n{stderr}")
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def sync(self) -> None:
        """Install what the project needs into its own environment."""
        self.run("uv", "sync", "--quiet", env={"UV_HTTP_TIMEOUT": "120"})


Bake: TypeAlias = Callable[..., BakedProject]


def pytest_xdist_auto_num_workers() -> int:
    """Run two tests for each processor: most tests wait, for processes and for delays."""
    return (os.cpu_count() or 2) * 2


def pytest_configure() -> None:
    """Make the directory that all processes of a session share; its first process owns it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shared = Path(tempfile.mkdtemp(prefix="template-tests-"))
        (shared / servers.SESSION).write_text(str(os.getpid()))
        os.environ[servers.SHARED] = str(shared)


def pytest_unconfigure() -> None:
    """Stop the server of the session, and leave nothing behind."""
    if "PYTEST_XDIST_WORKER" not in os.environ and servers.SHARED in os.environ:
        shared = servers.shared_directory()
        del os.environ[servers.SHARED]
        servers.stop_rabbitmq(shared)
        shutil.rmtree(shared, ignore_errors=True)


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
