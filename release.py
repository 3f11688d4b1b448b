"""Prepare a release: `make release VERSION=1.2.0` dates the changelog, sets the version, commits.

What stands in the way is told in one line, and nothing is changed. The tag is left to you.
"""

import datetime as dt
import json
import re
import subprocess
import sys
from pathlib import Path

from jinja2.utils import import_string

ROOT = Path(__file__).parent
PROJECT = "{{cookiecutter.project_slug}}"
PACKAGE = f"{PROJECT}/{{{{cookiecutter.__package}}}}/runtime/__init__.py"
CHANGELOG = "CHANGELOG.md"
UNRELEASED = "## [Unreleased]\n"
VERSION_LINE = re.compile(r'^__version__ = "(.*)"$', re.MULTILINE)


class ReleaseError(Exception):
    """What stands in the way of a release, in one line."""


def git(*words: str) -> str:
    """Run git in the repository and return what it printed; raise ReleaseError if it fails."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise ReleaseError(f"git {words[0]}: {said}")
    return done.stdout


def read(name: str) -> str:
    """Return the text of a file of the repository."""
    return (ROOT / name).read_text("utf-8")


def numbers(version: str) -> tuple[int, ...]:
    """Return the three numbers of ``version``; raise ReleaseError if it has none."""
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        raise ReleaseError(f"VERSION={version!r} is no version: write three numbers, such as 1.2.0")
    return tuple(map(int, version.split(".")))


def check_repository() -> None:
    """Raise ReleaseError unless all is committed, on the branch main."""
    if (branch := git("branch", "--show-current").strip()) != "main":
        raise ReleaseError(f"this is the branch {branch or 'of no name'}: git switch main")
    if changed := git("status", "--porcelain").splitlines():
        raise ReleaseError(
            f"not committed: {', '.join(line[3:] for line in changed[:3])}; commit it first"
        )


def check_number(version: str, released: list[str]) -> None:
    """Raise ReleaseError unless ``version`` is newer than all that were released."""
    if version in released:
        raise ReleaseError(f"there is a tag v{version} already: choose a newer version")
    if released and numbers(version) < numbers(released[0]):
        raise ReleaseError(f"{version} is older than v{released[0]}: choose a newer version")


def check_answers(released: list[str]) -> None:
    """Raise ReleaseError if the answers of a release cannot be used any more.

    Updates give its choices again. A replay also gives the names of its extensions.
    """
    now = json.loads(read("cookiecutter.json"))
    for version in released:
        for question, kept in json.loads(git("show", f"v{version}:cookiecutter.json")).items():
            if question == "_extensions":
                check_extensions(kept, version)
            elif isinstance(kept, list) and not question.startswith("_"):
                for choice in set(kept) - set(now.get(question, kept)):
                    why = f"has no {choice!r}, which v{version} offers: put it back"
                    raise ReleaseError(f"{question} {why}")


def check_extensions(names: list[str], version: str) -> None:
    """Raise ReleaseError if one of the extensions cannot be imported under its name."""
    for name in names:
        try:
            import_string(name)
        except (AttributeError, ImportError):
            raise ReleaseError(f"replays of v{version} need {name}: keep its name") from None


def check_updates(version: str, released: list[str]) -> None:
    """Raise ReleaseError if an update asks something of owners and the major version is the same.

    An owner may have edited a file that is gone, and has applied the migrations.
    """
    if not released or numbers(version)[0] > numbers(released[0])[0]:
        return
    tag = f"v{released[0]}"
    lost = git("diff", "--name-only", "--no-renames", "--diff-filter=D", tag, "--", PROJECT)
    gone = [name for name in lost.splitlines() if "/runtime/" not in name]
    if gone:
        raise ReleaseError(f"{gone[0]} is gone since {tag}: keep it, or raise the major version")
    migrations = f"{PROJECT}/*/migrations/*.py"
    if changed := git("diff", "--name-only", "--diff-filter=M", tag, "--", migrations):
        name = changed.splitlines()[0]
        raise ReleaseError(f"{name} was changed since {tag}: add a new migration instead")


def dated(changelog: str, version: str) -> str:
    """Return ``changelog`` with its unreleased entries under ``version`` and the day of today."""
    if f"\n## [{version}]" in changelog:
        raise ReleaseError(f"{CHANGELOG} has {version} already; choose a newer version")
    before, found, after = changelog.partition(UNRELEASED)
    entries = re.split(r"^## ", after, maxsplit=1, flags=re.MULTILINE)[0]
    if not found or not re.search(r"^- \S", entries, re.MULTILINE):
        raise ReleaseError(f"{CHANGELOG} has no entry that is unreleased: write what is new")
    today = dt.datetime.now(dt.UTC).date()
    return f"{before}{UNRELEASED}\n## [{version}] - {today}\n{after}"


def versioned(module: str, version: str) -> str:
    """Return the source of the runtime's package with ``version`` in its one place."""
    if len(VERSION_LINE.findall(module)) != 1:
        raise ReleaseError(f'{PACKAGE} must have one line __version__ = "…"')
    return VERSION_LINE.sub(f'__version__ = "{version}"', module)


def prepare(version: str) -> None:
    """Commit the release ``version``, or raise ReleaseError and leave everything as it was."""
    numbers(version)
    check_repository()
    tags = git("tag", "--list", "v*", "--sort=-version:refname").split()
    released = [tag[1:] for tag in tags if re.fullmatch(r"v\d+\.\d+\.\d+", tag)]
    check_number(version, released)
    check_answers(released)
    check_updates(version, released)
    new = {
        CHANGELOG: dated(read(CHANGELOG), version),
        PACKAGE: versioned(read(PACKAGE), version),
    }
    for name, text in new.items():
        (ROOT / name).write_text(text, "utf-8", newline="\n")
    try:
        git("commit", "--quiet", "--message", f"Release {version}", "--", *new)
    except ReleaseError:
        git("checkout", "--quiet", "HEAD", "--", *new)
        raise


def main() -> None:
    """Prepare the version that the command line names, and say what is left to do."""
    version = " ".join(sys.argv[1:])
    try:
        prepare(version)
    except ReleaseError as error:
        sys.exit(f"No release: {error}")
    print("Committed. When the tests of this commit have passed:\n")
    print(f'    git tag --annotate v{version} --message "Release {version}"')
    print(f"    git push origin main v{version}")


if __name__ == "__main__":
    main()
