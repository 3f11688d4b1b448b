"""The template in a git repository with releases, and the commands of somebody who uses it."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.projects import TEMPLATE

SCRIPTS = Path(sys.executable).parent
PARTS = (
    ".gitattributes",
    "cookiecutter.json",
    "template_extension.py",
    "hooks",
    "templates",
    "{{cookiecutter.project_slug}}",
)


def newcomer(home: Path) -> dict[str, str]:
    """Return the environment of somebody who never used cookiecutter, with a fresh ``home``."""
    home.mkdir()
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
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


def change(path: Path, old: str, new: str) -> None:
    """Replace ``old``, which is in the file at ``path``, with ``new``."""
    text = path.read_text("utf-8")
    assert old in text, f"{path}: {old}"
    path.write_text(text.replace(old, new, 1), "utf-8")


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
        run("git", "push", "--quiet", "--tags", self.url, "main", cwd=self.tree, env=self.env)


def publish(directory: Path, env: dict[str, str], before: str = "") -> Origin:
    """Return a repository in ``directory`` that holds the template as it is now, as v1.0.0.

    With ``before``, a commit of this repository, that one is there as v0.9.0. The test is skipped
    where the history does not reach back to it.
    """
    tree, bare = directory / "tree", directory / "celery-template.git"
    for options in (["--bare", str(bare)], [str(tree)]):
        run("git", "init", "--quiet", "--initial-branch=main", *options, cwd=directory, env=env)
    origin = Origin(bare.as_uri(), tree, env)
    if before:
        fetch = ["git", "fetch", "--quiet", str(TEMPLATE), before]
        if subprocess.run(fetch, cwd=tree, env=env, capture_output=True, check=False).returncode:
            pytest.skip(f"no commit {before[:9]} here: to have it, git fetch --unshallow")
        run("git", "reset", "--quiet", "--hard", "FETCH_HEAD", cwd=tree, env=env)
        run("git", "tag", "v0.9.0", cwd=tree, env=env)
        run("git", "rm", "--quiet", "-r", ".", cwd=tree, env=env)
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in PARTS:
        if (TEMPLATE / name).is_dir():
            shutil.copytree(TEMPLATE / name, tree / name, ignore=ignored)
        else:
            shutil.copy(TEMPLATE / name, tree / name)
    origin.release("v1.0.0")
    return origin
