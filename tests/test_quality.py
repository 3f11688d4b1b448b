"""Ruff, mypy and Django have nothing to say about what is generated."""

import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.projects import COMBINATIONS, OTHERS, TEMPLATE, Bake, BakedProject, name_of

# The longest slug, and texts as long and as odd as they may be.
AWKWARD = {
    "project_name": """The "Ünusual" Service's \\ name: 100 % of it, """ + "very " * 30,
    "project_slug": "a_service_with_the_longest_slug_",
    "description": 'It is """long""", \\N, {odd} and ' + "長い " * 40,
    "author_name": "Zoë O'Brien \\ Søn & Co",
    "author_email": "zoe+jobs@example.org",
    "timezone": "America/Argentina/ComodRivadavia",
    "license": "Proprietary",
}
assert len(AWKWARD["project_slug"]) == 32


def variants(flavour: str) -> list[object]:
    """Return the combinations of a flavour, and one with awkward answers."""
    mine = [each for each in COMBINATIONS if each["project_type"] == flavour]
    others = [each for each in OTHERS if each["project_type"] == flavour]
    return [
        *[pytest.param(each, id=name_of(each)) for each in [*mine, *others]],
        *[pytest.param(each | AWKWARD, id=f"awkward-{name_of(each)}") for each in mine[::3]],
    ]


BOTH = [*variants("celery"), *variants("django")]


@pytest.mark.parametrize("answers", BOTH)
def test_ruff_finds_nothing_to_say(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    ruff = (sys.executable, "-m", "ruff")
    project.run(*ruff, "check", "--no-cache")
    project.run(*ruff, "format", "--check", "--diff", "--no-cache")


def test_djlint_finds_nothing_to_say(bake: Bake) -> None:
    templates = [
        path
        for answers in [each for each in [*COMBINATIONS, *OTHERS] if "django" in name_of(each)]
        for path in bake(**answers).path.glob("*/templates/**/*.html")
    ]
    assert templates
    options = ("--profile", "django", "--indent", "2", "--max-line-length", "100")
    for said in ("--lint", "--check"):
        bake().run(sys.executable, "-m", "djlint", *options, said, *templates)


def test_rumdl_finds_nothing_to_say(bake: Bake) -> None:
    projects = [bake(**each) for each in [*COMBINATIONS, *OTHERS]]
    pages = [path for project in projects for path in project.path.rglob("*.md")]
    assert len(pages) == 2 * len(projects)
    rumdl = (Path(sys.executable).with_name("rumdl"), "check", "--no-cache", "--isolated")
    bake().run(*rumdl, "--disable", "MD013", *pages)  # a sentence is a line


# What sp-repo-review asks for, and why it is not there.
NOT_ASKED = {
    "PC": "the hooks run the tools of the project, in its versions",
    "PP002": "nothing is built",
    "PP003": "nothing is built",
    "PP304": "what is logged is for a test to say",
    "PY007": "uv and the Makefile run what there is",
    "SEC001": "the tests of the template run zizmor",
}
NOT_ASKED_HERE = {
    "PP308": "our own summary says how to enable what was skipped",
    "PP309": "the tests of each project turn warnings into errors",
}


def test_sp_repo_review_asks_for_nothing_more(bake: Bake) -> None:
    review = (Path(sys.executable).with_name("repo-review"), "--ignore")
    made = [bake(project_type=flavour).path for flavour in ("celery", "django")]
    bake().run(*review, ",".join(NOT_ASKED), *made)
    bake().run(*review, ",".join(NOT_ASKED | NOT_ASKED_HERE), TEMPLATE)


def check_types(project: BakedProject, workshop: Path, desk: Path) -> None:
    """Run mypy as the project configures it.

    All projects of a flavour lie on one desk in turn: what mypy knows of a file serves the next
    project that has the same file there, as all have the runtime.
    """
    copy = BakedProject(desk / "project", project.package)
    shutil.rmtree(copy.path, ignore_errors=True)
    shutil.copytree(project.path, copy.path, ignore=shutil.ignore_patterns(".venv"))
    mypy = (workshop / "mypy", "--cache-dir", desk / "cache")
    said = copy.run(*mypy, ".").stdout
    assert said.startswith("Success: no issues found in "), said


@pytest.mark.parametrize("answers", BOTH)
def test_the_types_of_a_project_hold(
    bake: Bake, workshop: Path, desk: Path, answers: dict[str, str]
) -> None:
    check_types(bake(**answers), workshop, desk / answers["project_type"])


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory for mypy; each process of the tests has its own."""
    return tmp_path_factory.mktemp("mypy")


@pytest.fixture
def manage(workshop: Path, project: Bake) -> Callable[..., str]:
    """Return a function that runs a command of Django's in a fresh project."""

    def manage(answers: dict[str, str], *words: str, **env: str) -> str:
        fresh = project(**answers)
        python = (workshop / "python", "-W", "error")
        done = fresh.run(*python, "manage.py", *words, env=env)
        return done.stdout + done.stderr

    return manage


@pytest.mark.parametrize("answers", variants("django"))
def test_django_deploys_without_a_warning(
    manage: Callable[..., str], answers: dict[str, str]
) -> None:
    said = manage(
        answers,
        *("check", "--deploy", "--fail-level", "WARNING"),
        DEBUG="0",
        SECRET_KEY="a long and random key: " + "0123456789abcdef" * 4,
        ALLOWED_HOSTS="jobs.example.org",
    )
    assert "no issues" in said


@pytest.mark.parametrize("answers", variants("django"))
def test_no_migration_is_missing(manage: Callable[..., str], answers: dict[str, str]) -> None:
    assert "No changes detected" in manage(answers, "makemigrations", "--check", "--dry-run")


def test_production_without_a_secret_key_does_not_start(workshop: Path, bake: Bake) -> None:
    project = bake(project_type="django")
    command = (workshop / "python", "manage.py", "check")
    done = project.run(*command, env={"DEBUG": "0", "ALLOWED_HOSTS": "example.org"}, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("SECRET_KEY is not set")
    assert len(done.stderr.splitlines()) == 1


def test_every_dependency_is_imported_and_every_import_is_a_dependency(
    bake: Bake, answers: dict[str, str]
) -> None:
    project = bake(**answers)
    project.run(Path(sys.executable).with_name("deptry"), ".")
    # An exception for a package that is not a dependency would go unnoticed.
    settings = tomllib.loads(project.read("pyproject.toml"))
    exceptions = settings["tool"]["deptry"]["per_rule_ignores"]
    known = settings["project"]["dependencies"] + settings["dependency-groups"]["dev"]
    known += settings["project"].get("optional-dependencies", {}).get("postgres", [])
    names = {re.split(r"[^\w-]", each)[0] for each in known if isinstance(each, str)}
    assert {*exceptions["DEP002"], *exceptions["DEP004"]} <= names


def test_the_awkward_answers_reach_the_readme(bake: Bake) -> None:
    assert "Ünusual" in bake(**AWKWARD).read("README.md").splitlines()[0]
