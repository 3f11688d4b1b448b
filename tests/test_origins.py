"""A project comes from a git repository, from a file, or from an update of the template."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent
TEMPLATE = (
    "cookiecutter.json",
    "template_extension.py",
    "hooks",
    "templates",
    "{{cookiecutter.project_slug}}",
)


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a person who has never used cookiecutter, in a fresh home."""
    directory = tmp_path / "home"
    directory.mkdir()
    return {
        "HOME": str(directory),
        "XDG_CONFIG_HOME": str(directory),
        "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "Ada",
        "GIT_CONFIG_KEY_1": "user.email",
        "GIT_CONFIG_VALUE_1": "ada@example.org",
    }


def run(*command: str, cwd: Path, env: dict[str, str]) -> str:
    """Run ``command`` and return what it printed; its failure is the test's."""
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass
class Origin:
    """A bare git repository of the template, and the work tree that is pushed to it."""

    url: str
    tree: Path
    env: dict[str, str]

    def release(self, tag: str) -> None:
        """Commit what is in the work tree, and publish it under ``tag``."""
        run("git", "add", "--all", "--force", cwd=self.tree, env=self.env)
        run("git", "commit", "--quiet", "-m", tag, cwd=self.tree, env=self.env)
        run("git", "tag", tag, cwd=self.tree, env=self.env)
        run("git", "push", "--quiet", self.url, "main", tag, cwd=self.tree, env=self.env)


@pytest.fixture
def origin(tmp_path: Path, home: dict[str, str]) -> Origin:
    """Return a bare repository that holds the template as it is now under the tag v1.0.0."""
    tree, bare = tmp_path / "tree", tmp_path / "celery-template.git"
    tree.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache", ".venv", "uv.lock")
    for name in TEMPLATE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tree / name)
    for command in (
        ("git", "init", "--quiet", "--bare", "--initial-branch=main", str(bare)),
        ("git", "init", "--quiet", "--initial-branch=main", str(tree)),
    ):
        run(*command, cwd=tmp_path, env=home)
    made = Origin(bare.as_uri(), tree, home)
    made.release("v1.0.0")
    return made


def change(path: Path, old: str, new: str) -> None:
    """Replace ``old``, which is in the file at ``path``, with ``new``."""
    text = path.read_text("utf-8")
    assert old in text, path
    path.write_text(text.replace(old, new), "utf-8")


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
    command = ["cookiecutter", "--no-input", "--config-file", str(file), str(ROOT)]
    run(*command, cwd=tmp_path, env=home)
    first = (tmp_path / "night_shop" / ".env.example").read_text("utf-8")
    assert "amqp://" in first

    # And once more from what cookiecutter has kept of the last run.
    shutil.rmtree(tmp_path / "night_shop")
    run("cookiecutter", "--replay", str(ROOT), cwd=tmp_path, env=home)
    assert (tmp_path / "night_shop" / ".env.example").read_text("utf-8") == first


def test_an_update_keeps_what_the_owner_wrote(
    origin: Origin, tmp_path: Path, home: dict[str, str]
) -> None:
    answers = json.dumps({"project_name": "Night Shop", "result_backend": "none"})
    command = ["cruft", "create", origin.url, "--checkout", "v1.0.0", "--no-input"]
    run(*command, "--extra-context", answers, cwd=tmp_path, env=home)
    project = tmp_path / "night_shop"
    files = {file for file in project.rglob("*") if file.is_file()}
    for command in (["git", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "Begin"]):
        run(*command, cwd=project, env=home)

    owners = "\n\ndef owned() -> str:\n    return 'by its owner'\n"
    tasks = project / "celery_app" / "tasks.py"
    tasks.write_text(tasks.read_text("utf-8") + owners, "utf-8")
    run("git", "commit", "--quiet", "--all", "-m", "Mine", cwd=project, env=home)

    inside = origin.tree / "{{cookiecutter.project_slug}}"
    change(inside / ".gitignore", ".env*\n", ".env*\nof-the-second-release/\n")
    (inside / "SECURITY.md").write_text("Write to {{cookiecutter.project_name}}.\n", "utf-8")
    origin.release("v2.0.0")
    run("cruft", "update", "--skip-apply-ask", "--checkout", "v2.0.0", cwd=project, env=home)

    assert tasks.read_text("utf-8").endswith(owners)
    assert "of-the-second-release/" in (project / ".gitignore").read_text("utf-8")
    assert (project / "SECURITY.md").read_text("utf-8") == "Write to Night Shop.\n"
    now = {file for file in project.rglob("*") if file.is_file() and ".git" not in file.parts}
    assert now == files | {project / "SECURITY.md"}  # nothing rejected, nothing that was dropped
    run("cruft", "check", "--checkout", "v2.0.0", cwd=project, env=home)
