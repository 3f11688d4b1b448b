"""The combinations of answers, and the projects that come of them."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

TEMPLATE = Path(__file__).parents[1]
RUNTIME = TEMPLATE / "{{cookiecutter.project_slug}}" / "{{cookiecutter.__package}}" / "runtime"
TIMEOUT = 300.0

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
