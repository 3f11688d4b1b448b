"""The optional parts of the runtime, taken out as the docstring of `runtime` says."""

import ast
import re
import urllib.request
from pathlib import Path

import pytest

from tests import servers
from tests.projects import RUNTIME, Bake, BakedProject
from tests.service import Service, answers, wait_until

PARTS = ("logs", "metrics", "poison")
CALL = "from celery_app import tasks; print(tasks.add.delay(2, 3).get(timeout=100))"


def instructions(part: str) -> tuple[list[str], str]:
    """Return the modules of a part, and how the docstring says to take it out."""
    docstring = ast.get_docstring(ast.parse((RUNTIME / "__init__.py").read_text())) or ""
    (entry,) = re.findall(rf"^(`{part}`.*)\n((?:    .*\n?)+)", docstring, re.MULTILINE)
    head, text = entry
    told = " ".join(text.split()).partition("To take ")[2]
    assert f"remove `{part}.install(app)`" in told
    return re.findall(r"`(\w+)`", head), told


def without(text: str, pattern: str) -> str:
    """Return a text without the lines that match a pattern; there is at least one."""
    rest, count = re.subn(rf"^.*(?:{pattern}).*\n", "", text, flags=re.MULTILINE)
    assert count, pattern
    return rest


def take_out(project: BakedProject, part: str) -> None:
    """Do what the docstring says."""
    modules, told = instructions(part)
    package = project.path / project.package
    django = (package / "settings.py").exists()
    front = package / ("celery.py" if django else "__init__.py")
    text = without(front.read_text(), rf"^{part}\.install\(app\)")
    imported = re.search(r"^from \.runtime import (.*)\n", text, re.MULTILINE)
    assert imported
    left = ", ".join(name for name in imported[1].split(", ") if name != part)
    line = f"from .runtime import {left}\n" if left else ""
    front.write_text(text.replace(imported[0], line))
    for module in modules:
        (package / "runtime" / f"{module}.py").unlink(missing_ok=module == "web" and not django)
    for dependency in re.findall(r"`([\w-]+)` from `pyproject.toml`", told):
        metadata = project.path / "pyproject.toml"
        metadata.write_text(without(metadata.read_text(), rf'^  "{dependency}\b'))
    if "web" in modules and django:
        assert "`LOGGING_CONFIG` in `settings.py`" in told
        assert "each line that names `web` there and in `gunicorn.conf.py`" in told
        for path in (package / "settings.py", project.path / "gunicorn.conf.py"):
            path.write_text(without(path.read_text(), r"import web$|\bweb\.\w"))
        path = package / "settings.py"
        path.write_text(without(path.read_text(), "^LOGGING_CONFIG"))


def install(project: BakedProject, out: tuple[str, ...]) -> None:
    """Install what is left, and check that nothing else names what is gone."""
    project.sync()
    project.run("uv", "run", "ruff", "check", "--no-cache", "--extend-ignore=I001")  # a gap
    needed = project.run("uv", "export", "--quiet", "--no-dev", "--no-hashes").stdout
    assert "celery==" in needed
    for part, dependency in {"logs": "structlog", "metrics": "prometheus-client"}.items():
        assert (f"{dependency}==" in needed) is (part not in out)


@pytest.mark.parametrize("part", PARTS)
def test_a_plain_service_works_without(project: Bake, tmp_path: Path, part: str) -> None:
    made = project()
    take_out(made, part)
    install(made, (part,))
    port = servers.free_port()
    env = {"HEARTBEAT_DIR": str(tmp_path), "METRICS_PORT": str(port)}
    with servers.valkey() as url, Service(made, f"{url}/0", f"{url}/1", env) as service:
        worker = service.worker()
        beat = service.beat()
        assert service.python(CALL) == "5"
        worker.wait_for(r"Task celery_app\.tasks\.add\[\S+\] succeeded")
        wait_until((tmp_path / "worker.heartbeat").exists, worker.output)
        wait_until((tmp_path / "beat.heartbeat").exists, beat.output)
        assert answers(f"http://127.0.0.1:{port}/") is (part != "metrics")
        # Celery's own format, or ours.
        own = re.search(r"^\[\S+ \S+: INFO/MainProcess\] Task ", worker.output, re.MULTILINE)
        assert bool(own) is (part == "logs")
        for process in (worker, beat):
            assert "Traceback" not in process.output
            assert process.stop() == 0


def test_a_django_project_works_without_any_of_them(project: Bake, tmp_path: Path) -> None:
    made = project(project_type="django")
    for part in PARTS:
        take_out(made, part)
    install(made, PARTS)
    port = servers.free_port()
    env = {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "HEARTBEAT_DIR": str(tmp_path),
        "PORT": str(port),
    }
    with servers.valkey() as url, Service(made, f"{url}/0", f"{url}/1", env) as service:
        service.run("uv", "run", "python", "manage.py", "migrate", "--verbosity", "0")
        worker = service.worker()
        beat = service.beat()
        development = service.web()
        service.start("uv", "run", "gunicorn", ready="Booting worker")
        production = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(production), "gunicorn does not answer")
        for number, address in enumerate((development, production), start=1):
            request = urllib.request.Request(  # noqa: S310
                f"{address}/jobs/add/", b'{"x": 2, "y": 3}', {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                assert answer.status == 202
            worker.wait_for(r"Task \S+add\[\S+\] succeeded", times=number)
        for process in (worker, beat):
            assert "Traceback" not in process.output
            assert process.stop() == 0
