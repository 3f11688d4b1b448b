"""`make release` prepares a release, or says in one line what stands in the way."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import release
from tests.projects import TEMPLATE
from tests.releases import Origin, change, newcomer, publish, run

MIGRATION = "{{cookiecutter.project_slug}}/jobs/migrations/0001_initial.py"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """Return a repository with the template, its changelog and the tag v1.0.0."""
    directory = tmp_path_factory.mktemp("published")
    origin = publish(directory, newcomer(directory / "home"))
    for name in ("CHANGELOG.md", "release.py"):
        shutil.copy(TEMPLATE / name, origin.tree / name)
    change(
        origin.tree / "CHANGELOG.md",
        "# Changelog\n",
        f"# Changelog\n\n{release.UNRELEASED}\n- One\n",
    )
    (origin.tree / ".gitignore").write_text("__pycache__/\n")
    commit(origin.tree, origin.env)
    return origin


@pytest.fixture
def repository(published: Origin, tmp_path: Path) -> Path:
    """Return a copy of it, to be changed."""
    return shutil.copytree(published.tree, tmp_path / "copy")


def commit(tree: Path, env: dict[str, str]) -> None:
    """Commit all that is in ``tree``."""
    run("git", "add", "--all", cwd=tree, env=env)
    run("git", "commit", "--quiet", "--allow-empty", "--message", "Change", cwd=tree, env=env)


def prepare(tree: Path, version: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command of `make release` in ``tree``."""
    command = [sys.executable, "release.py", version]
    return subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)


def test_a_release_is_dated_versioned_and_committed(published: Origin, repository: Path) -> None:
    done = prepare(repository, "1.1.0", published.env)
    assert done.returncode == 0, done.stderr
    assert "git tag --annotate v1.1.0" in done.stdout
    assert "Traceback" not in done.stderr
    changelog = (repository / "CHANGELOG.md").read_text("utf-8")
    assert re.search(
        r"## \[Unreleased\]\n\n## \[1\.1\.0\] - 20\d\d-\d\d-\d\d\n\n- One\n", changelog
    )
    changed = run("git", "show", "--format=%s", "--name-only", cwd=repository, env=published.env)
    assert changed.split("\n") == ["Release 1.1.0", "", "CHANGELOG.md", release.PACKAGE, ""]
    assert '\n__version__ = "1.1.0"\n' in (repository / release.PACKAGE).read_text("utf-8")
    assert not run("git", "status", "--porcelain", cwd=repository, env=published.env)
    assert run("git", "tag", cwd=repository, env=published.env) == "v1.0.0\n"  # it is the owner's


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("", "VERSION='' is no version: write three numbers, such as 1.2.0"),
        ("v1.1.0", "VERSION='v1.1.0' is no version"),
        ("1.1", "VERSION='1.1' is no version"),
        ("1.01.0", "VERSION='1.01.0' is no version"),
        ("1.1.0\n", "VERSION='1.1.0\\n' is no version"),
        ("1.0.0", "there is a tag v1.0.0 already"),
        ("0.9.0", "0.9.0 is older than v1.0.0"),
    ],
)
def test_a_bad_version_is_refused(published: Origin, version: str, reason: str) -> None:
    refused(published, published.tree, version, reason)


def refused(published: Origin, tree: Path, version: str, reason: str) -> None:
    """See that the release is refused in one line, and that nothing has changed."""
    state = ("git", "status", "--porcelain", "--branch")
    commits = ("git", "rev-parse", "HEAD")
    before = [run(*command, cwd=tree, env=published.env) for command in (state, commits)]
    done = prepare(tree, version, published.env)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"No release: {reason}")
    assert done.stderr.count("\n") == 1
    assert [run(*command, cwd=tree, env=published.env) for command in (state, commits)] == before


def dirty(tree: Path, _env: dict[str, str]) -> None:
    """Leave a file that is not committed."""
    (tree / "notes.txt").write_text("later\n")


def elsewhere(tree: Path, env: dict[str, str]) -> None:
    """Work on another branch."""
    run("git", "switch", "--quiet", "--create", "next", cwd=tree, env=env)


def nothing_new(tree: Path, env: dict[str, str]) -> None:
    """Have no entry in the changelog."""
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [1.0.0]\n\n- One\n")
    commit(tree, env)


def two_versions(tree: Path, env: dict[str, str]) -> None:
    """Have a version in two places."""
    with (tree / release.PACKAGE).open("a") as file:
        file.write('__version__ = "1.0.0"\n')
    commit(tree, env)


def new_extension(tree: Path, env: dict[str, str]) -> None:
    """Rename the class of the extension."""
    change(tree / "template_extension.py", "class Rendering(", "class Renderer(")
    change(
        tree / "cookiecutter.json", "template_extension.Rendering", "template_extension.Renderer"
    )
    commit(tree, env)


def fewer_choices(tree: Path, env: dict[str, str]) -> None:
    """Take a choice away."""
    change(
        tree / "cookiecutter.json", '"ci": ["github", "gitlab", "none"]', '"ci": ["github", "none"]'
    )
    commit(tree, env)


def moved(tree: Path, env: dict[str, str]) -> None:
    """Rename a file of the owner's."""
    procfile = tree / "{{cookiecutter.project_slug}}" / "Procfile"
    procfile.rename(procfile.with_name("Processes"))
    commit(tree, env)


def migrated(tree: Path, env: dict[str, str]) -> None:
    """Change a migration."""
    change(tree / MIGRATION, "max_length=200", "max_length=100")
    commit(tree, env)


def refusing_hook(tree: Path, _env: dict[str, str]) -> None:
    """Have a hook that lets no commit pass."""
    hook = tree / ".git" / "hooks" / "pre-commit"
    hook.write_text("#!/bin/sh\necho 'not today'\nexit 1\n")
    hook.chmod(0o755)


@pytest.mark.parametrize(
    ("obstacle", "reason"),
    [
        (dirty, "not committed: notes.txt; commit it first"),
        (elsewhere, "this is the branch next: git switch main"),
        (nothing_new, "CHANGELOG.md has no entry that is unreleased"),
        (two_versions, f"{release.PACKAGE} must have one line __version__"),
        (new_extension, "replays of v1.0.0 need template_extension.Rendering: keep its name"),
        (fewer_choices, "ci has no 'gitlab', which v1.0.0 offers: put it back"),
        (moved, "{{cookiecutter.project_slug}}/Procfile is gone since v1.0.0"),
        (migrated, f"{MIGRATION} was changed since v1.0.0: add a new migration instead"),
        (refusing_hook, "git commit: not today"),
    ],
)
def test_what_stands_in_the_way_is_told_in_one_line(
    published: Origin,
    repository: Path,
    obstacle: Callable[[Path, dict[str, str]], None],
    reason: str,
) -> None:
    obstacle(repository, published.env)
    refused(published, repository, "1.1.0", reason)


def test_a_new_major_version_may_ask_something_of_owners(
    published: Origin, repository: Path
) -> None:
    moved(repository, published.env)
    done = prepare(repository, "2.0.0", published.env)
    assert done.returncode == 0, done.stderr


def test_the_changelog_has_the_version_that_the_runtime_has() -> None:
    version = release.VERSION_LINE.findall(release.read(release.PACKAGE))
    newest = re.search(r"^## \[(\d.*?)\]", release.read("CHANGELOG.md"), re.MULTILINE)
    assert version == ([newest[1]] if newest else ["0.1.0"])
