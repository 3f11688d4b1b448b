"""A project comes from a file of answers, and from wherever the template lies."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.projects import COMBINATIONS, OTHERS, TEMPLATE, Bake, clean_environment
from tests.releases import Origin, newcomer, publish, run


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a person who has never used cookiecutter, in a fresh home."""
    return newcomer(tmp_path / "home")


@pytest.fixture
def origin(tmp_path: Path, home: dict[str, str]) -> Origin:
    """Return a bare repository that holds the template as it is now under the tag v1.0.0."""
    return publish(tmp_path, home)


def test_a_project_comes_from_a_tag_of_a_git_repository(
    origin: Origin, tmp_path: Path, home: dict[str, str]
) -> None:
    inside = origin.tree / "{{cookiecutter.project_slug}}"
    (inside / "of_the_second_release.txt").write_text("new\n", "utf-8")
    origin.release("v2.0.0")
    made = {}
    for tag in ("v1.0.0", "v2.0.0"):
        out = tmp_path / tag
        command = ["cookiecutter", "--no-input", origin.url, "--checkout", tag, "-o", str(out)]
        run(*command, "project_name=Night Shop", "project_type=django", cwd=tmp_path, env=home)
        made[tag] = {file.relative_to(out) for file in out.rglob("*") if file.is_file()}

    assert Path("night_shop/night_shop/celery.py") in made["v1.0.0"]
    assert made["v2.0.0"] - made["v1.0.0"] == {Path("night_shop/of_the_second_release.txt")}


def test_a_project_comes_from_a_file_of_answers(tmp_path: Path, home: dict[str, str]) -> None:
    answers = {"project_name": "Night Shop", "broker": "rabbitmq", "result_backend": "none"}
    file = tmp_path / "answers.yaml"
    file.write_text(yaml.safe_dump({"default_context": answers}), "utf-8")
    command = ["cookiecutter", "--no-input", "--config-file", str(file), str(TEMPLATE)]
    run(*command, cwd=tmp_path, env=home)
    first = (tmp_path / "night_shop" / ".env.example").read_text("utf-8")
    assert "amqp://" in first

    # And once more from what cookiecutter has kept of the last run.
    shutil.rmtree(tmp_path / "night_shop")
    run("cookiecutter", "--replay", str(TEMPLATE), cwd=tmp_path, env=home)
    assert (tmp_path / "night_shop" / ".env.example").read_text("utf-8") == first


# --- The same answers give the same bytes -----------------------------------------------------

# As many files as one project can have.
MOST = {
    "project_type": "django",
    "result_backend": "database",
    "deployment": "kubernetes",
    "project_name": 'Zoë\'s "Night" 日本',
    "project_slug": "night",
    "author_name": "Zoë",
}


def contents(project: Path) -> dict[str, tuple[int, bytes]]:
    """Return the mode and the bytes of each file of a project, by its name."""
    return {
        path.relative_to(project).as_posix(): (path.stat().st_mode, path.read_bytes())
        for path in project.rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"  # of another test
    }


def test_wherever_the_template_lies_the_bytes_are_the_same(
    origin: Origin, bake: Bake, tmp_path: Path
) -> None:
    # A person on Windows has git write CRLF wherever a repository does not forbid it.
    env = origin.env | {"GIT_CONFIG_KEY_2": "core.autocrlf", "GIT_CONFIG_VALUE_2": "true"}
    env["GIT_CONFIG_COUNT"] = "3"
    archive = ("git", "archive", "--prefix=celery-template-1.0.0/", "--output", "template.zip")
    run(*archive, "v1.0.0", cwd=origin.tree, env=env)
    places = {
        "path": [str(TEMPLATE)],
        "tag": [origin.url, "--checkout", "v1.0.0"],
        "zip": [str(origin.tree / "template.zip")],
    }
    expected = contents(bake(**MOST).path)
    assert len(expected) > 80
    assert {mode & 0o111 for mode, _ in expected.values()} == {0}  # a zip would not keep them
    for name, place in places.items():
        words = ["cookiecutter", "--no-input", *place, "--output-dir", str(tmp_path / name)]
        answers = [f"{question}={answer}" for question, answer in MOST.items()]
        run(*words, *answers, cwd=tmp_path, env=env)
        assert contents(tmp_path / name / "night") == expected, name


BAKE_ALL = """
import json, sys
from cookiecutter.main import cookiecutter
template, out, *projects = sys.argv[1:]
for number, answers in enumerate(map(json.loads, projects)):
    cookiecutter(template, no_input=True, output_dir=f"{out}/{number}", extra_context=answers)
"""


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_each_python_writes_the_same_bytes(bake: Bake, tmp_path: Path, python: str) -> None:
    # In the locale of nobody, where Python does not write UTF-8 unless it is told to.
    env = clean_environment() | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    uv = ("uv", "run", "--quiet", "--no-project", "--python", python)
    if subprocess.run([*uv, "python", "-V"], env=env, capture_output=True, check=False).returncode:
        pytest.skip(f"no Python {python} here: to have it, uv python install {python}")
    projects = [MOST, COMBINATIONS[0], COMBINATIONS[5], OTHERS[3]]
    command = (*uv, "--with", "cookiecutter>=2.7,<3", "python", "-c", BAKE_ALL)
    run(*command, str(TEMPLATE), str(tmp_path), *map(json.dumps, projects), cwd=tmp_path, env=env)
    for number, answers in enumerate(projects):
        expected = bake(**answers).path
        assert contents(tmp_path / str(number) / expected.name) == contents(expected), answers
