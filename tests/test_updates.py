"""An update of the template keeps what the owner of a project wrote."""

import json
from pathlib import Path

import pytest

from tests.projects import name_of
from tests.releases import Origin, change, newcomer, publish, run
from tests.test_readme import blocks

INSIDE = "{{cookiecutter.project_slug}}"
PACKAGE = f"{INSIDE}/{{{{cookiecutter.__package}}}}"

PAIRS = [
    {"project_type": "celery", "broker": "redis", "result_backend": "redis"},
    {"project_type": "celery", "broker": "rabbitmq", "result_backend": "none", "ci": "gitlab"},
    {"project_type": "django", "broker": "redis", "ci": "gitlab", "deployment": "kubernetes"},
    {"project_type": "django", "broker": "rabbitmq", "result_backend": "database"},
]

DAILY = "    # A time of day"
REPORT = "\n\n@shared_task\ndef report"
COUNT = "\n\n@shared_task\ndef count() -> int:\n    return 3\n"
SETTINGS = [
    ("9 // 10", "8 // 10"),
    (DAILY, f'    "nightly": {{"task": "count", "schedule": 60}},\n{DAILY}'),
]
# What an owner writes into the files that the README calls theirs, where a project has them.
EDITS = {
    "celery_app/celeryconfig.py": SETTINGS,
    "night_shop/settings.py": [*SETTINGS, ('    "jobs",\n', '    "jobs",\n    "shop",\n')],
    "celery_app/__init__.py": [("metrics.install(app)\n", "")],
    "night_shop/celery.py": [("metrics.install(app)\n", "")],
    "night_shop/urls.py": [('    path("jobs/"', '    path("shop/", view),\n    path("jobs/"')],
    "celery_app/tasks.py": [(REPORT, COUNT + REPORT)],
    "jobs/tasks.py": [(REPORT, COUNT + REPORT)],
    "Procfile": [("beat:", "mail: python dev.py worker -Q mail\nbeat:")],
    ".env.example": [("CELERY_TASK_TIME_LIMIT=300", "CELERY_TASK_TIME_LIMIT=60")],
    "pyproject.toml": [
        ('version = "0.1.0"', 'version = "3.2.0"'),
        ("\ndependencies = [\n", '\ndependencies = [\n  "boto3",\n'),
        ('  "ruff', '  "respx",\n  "ruff'),
    ],
    "compose.yaml": [("stop_grace_period: 40s", "stop_grace_period: 90s")],
    "Dockerfile": [("WORKDIR", "RUN apt-get update\nWORKDIR")],
    "README.md": [("## Run it", "Ask the night shift.\n\n## Run it")],
    ".github/workflows/ci.yml": [("timeout-minutes: 20", "timeout-minutes: 45")],
    ".gitlab-ci.yml": [("timeout: 20m", "timeout: 45m")],
    "deploy/kubernetes/production/kustomization.yaml": [('newTag: "1"', 'newTag: "7"')],
}

# The last version before 1.0.0 in which the runtime was not yet a package of its own.
BEFORE_RUNTIME = "5787fd767002c4395a0d416d2068c21a55b80cc1"
# What an owner has written there, in lines that 1.0.0 did not touch.
SETTINGS_BEFORE = [("= 400_000\n", "= 800_000\n"), ('hour="6"', 'hour="5"')]
EDITS_BEFORE = {
    **EDITS,
    "celery_app/celeryconfig.py": SETTINGS_BEFORE,
    "night_shop/settings.py": [*SETTINGS_BEFORE, ('    "jobs",\n', '    "jobs",\n    "shop",\n')],
    "celery_app/__init__.py": [("The service's", "The night shift's")],
    "night_shop/celery.py": [('settings")\n', 'settings")\nos.environ.setdefault("TZ", "UTC")\n')],
    "celery_app/tasks.py": [("(__name__)\n", f"(__name__)\n{COUNT}")],
    "jobs/tasks.py": [("(__name__)\n", f"(__name__)\n{COUNT}")],
    ".env.example": [("localhost", "broker.internal")],
    "pyproject.toml": [
        ('version = "0.1.0"', 'version = "3.2.0"'),
        ('  "mypy', '  "moto",\n  "mypy'),
    ],
    "deploy/kubernetes/production/kustomization.yaml": [("newName: registry", "newName: images")],
}

# What the next release of the template changes, some of it close to that.
MOVES = {
    f"{PACKAGE}/celeryconfig.py": [
        ("worker_max_tasks_per_child = 1000", "worker_max_tasks_per_child = 2000"),
        ('        "options": {"expires": 300},', '        "options": {"expires": 200},'),
    ],
    f"{PACKAGE}/settings.py": [("    # A server that does not", "    # One that does not")],
    f"{PACKAGE}/__init__.py": [("The service's", "A service's")],
    f"{PACKAGE}/celery.py": [("# The `tasks.py` of", "# Every `tasks.py` of")],
    f"{PACKAGE}/urls.py": [("The health probe", "This health probe")],
    f"{PACKAGE}/tasks.py": [("so many pages", "as many pages")],
    f"{INSIDE}/Procfile": [("broker: python", "broker: exec python")],
    f"{INSIDE}/.env.example": [("LOG_FORMAT=console", "LOG_FORMAT=json")],
    f"{INSIDE}/pyproject.toml": [
        ("requires-python", 'classifiers = ["Private :: Do Not Upload"]\nrequires-python'),
        ('  "cronsim>=2.8,<3",', '  "cronsim>=2.9,<3",\n  "dateparser",'),
        ('  "mypy>=1.18",', '  "mypy>=1.19",'),
    ],
    f"{INSIDE}/compose.yaml": [("restart: unless-stopped", "restart: always")],
    f"{INSIDE}/Dockerfile": [("UV_LINK_MODE=copy", "UV_LINK_MODE=hardlink")],
    f"{INSIDE}/README.md": [("## Test it", "## Try it")],
    f"{INSIDE}/docs/recipes.md": [("# ", "# More ")],
    f"{INSIDE}/.github/workflows/ci.yml": [("name: Python", "name: On Python")],
    f"{INSIDE}/.gitlab-ci.yml": [("uv sync --all-extras", "uv sync --all-extras --all-groups")],
    f"{INSIDE}/deploy/kubernetes/production/kustomization.yaml": [("- auto", "- ./auto")],
    # The extension learns something that a template of this release needs.
    "template_extension.py": [
        ("quoted, markdown,", "quoted, louder, markdown,"),
        ("class Rendering", "def louder(text):\n    return text.upper()\n\n\nclass Rendering"),
    ],
}


def move_on(origin: Origin) -> None:
    """Release v1.1.0: other lines in many files, and a new first line in each of all files."""
    for name, pairs in MOVES.items():
        for old, new in pairs:
            change(origin.tree / name, old, new)
    begin_all(origin, "# moved on\n")
    loud = "{{ cookiecutter.project_name | louder }}\n"
    (origin.tree / INSIDE / "SECURITY.md").write_text(loud, "utf-8")
    (origin.tree / PACKAGE / "runtime" / "fresh.py").write_text('"""New."""\n', "utf-8")
    origin.release("v1.1.0")


def move_back(origin: Origin) -> None:
    """Release v1.2.0: the same lines again."""
    for name, pairs in MOVES.items():
        for old, new in pairs if name.startswith(INSIDE) else ():
            change(origin.tree / name, new, old)
    begin_all(origin, "# and on\n")
    origin.release("v1.2.0")


def begin_all(origin: Origin, line: str) -> None:
    """Begin each file that a project gets with ``line``."""
    for path in (origin.tree / INSIDE).rglob("*"):
        if path.is_file() and path.stat().st_size:
            path.write_text(line + path.read_text("utf-8"), "utf-8")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """Return a repository of the template as it is now, v1.0.0, and of two later releases."""
    directory = tmp_path_factory.mktemp("origin")
    origin = publish(directory, newcomer(directory / "home"))
    move_on(origin)
    move_back(origin)
    return origin


class Project:
    """A project that came from a release through cruft."""

    def __init__(self, origin: Origin, out: Path, tag: str, answers: dict[str, str]) -> None:
        """Create it in the directory ``out``."""
        context = json.dumps({"project_name": "Night Shop", **answers})
        command = ["cruft", "create", origin.url, "--checkout", tag, "--no-input"]
        command += ["--extra-context", context, "--output-dir", str(out)]
        run(*command, cwd=origin.tree, env=origin.env)
        self.path, self.env = out / "night_shop", origin.env
        package = "celery_app" if answers["project_type"] == "celery" else "night_shop"
        self.runtime = f"{package}/runtime"

    def run(self, *command: str) -> str:
        """Run a command in it."""
        return run(*command, cwd=self.path, env=self.env)

    def commit(self) -> None:
        """Commit all that is there."""
        self.run("git", "init", "--quiet")
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "Mine")

    def edit(self, edits: dict[str, list[tuple[str, str]]] = EDITS) -> None:
        """Do what an owner is invited to."""
        for name, pairs in edits.items():
            for old, new in pairs if (self.path / name).exists() else ():
                change(self.path / name, old, new)

    def edit_all(self) -> None:
        """Edit every file but the runtime's, drop a part of that, and add a file."""
        self.edit()
        for name in self.texts():
            if self.runtime not in name and name != "SECURITY.md":
                with (self.path / name).open("a", encoding="utf-8") as file:
                    file.write("# its owner's\n")
        (self.path / "docs" / "recipes.md").unlink()
        (self.path / self.runtime / "metrics.py").unlink()
        (self.path / "shop.py").write_text("OWN = 1\n", "utf-8")

    def update(self, tag: str) -> None:
        """Update it to a release."""
        self.run("cruft", "update", "--skip-apply-ask", "--checkout", tag)

    def texts(self) -> dict[str, str]:
        """Return all its files but those of git and cruft, and those that are empty."""
        paths = [path for path in self.path.rglob("*") if path.is_file() and path.stat().st_size]
        return {
            path.relative_to(self.path).as_posix(): path.read_text("utf-8")
            for path in paths
            if self.path / ".git" not in path.parents and path.name != ".cruft.json"
        }

    def cruft(self) -> object:
        """Return what cruft keeps of the template."""
        return json.loads((self.path / ".cruft.json").read_text("utf-8"))


@pytest.mark.parametrize("answers", PAIRS, ids=name_of)
def test_an_update_keeps_every_edit(
    origin: Origin, tmp_path: Path, answers: dict[str, str]
) -> None:
    project = Project(origin, tmp_path / "old", "v1.0.0", answers)
    project.commit()
    project.edit_all()
    project.commit()
    project.update("v1.1.0")

    # All is as if the owner had edited a project of the new release: nothing lost, no `.rej`.
    fresh = Project(origin, tmp_path / "new", "v1.1.0", answers)
    fresh.edit_all()
    assert project.texts() == fresh.texts()
    assert project.cruft() == fresh.cruft()
    assert project.texts()["SECURITY.md"] == "NIGHT SHOP\n"  # by the extension of the new release


def test_an_update_of_the_runtime_never_conflicts(origin: Origin, tmp_path: Path) -> None:
    """Whatever else does: here, the owner has changed the same line as the template."""
    project = Project(origin, tmp_path, "v1.0.0", PAIRS[0])
    project.commit()
    before = project.texts()
    change(project.path / "Procfile", "broker: python", "broker: nice python")
    project.commit()
    project.update("v1.1.0")

    assert project.run("git", "diff", "--name-only", "--diff-filter=U") == "Procfile\n"
    after = project.texts()
    assert "broker: nice python" in after["Procfile"]
    modules = {name for name in after if name.startswith(project.runtime)}
    assert len(modules) > 10
    for name in modules - {f"{project.runtime}/fresh.py"}:
        assert after[name] == f"# moved on\n{before[name]}"
    project.run("cruft", "check", "--checkout", "v1.1.0")


def test_a_branch_that_nobody_edits_is_updated_in_any_clone(origin: Origin, tmp_path: Path) -> None:
    """As the README of the project says: git knows there what the template wrote."""
    project = Project(origin, tmp_path / "first", "v1.0.0", PAIRS[0])
    project.commit()
    project.run("git", "branch", "template")
    project.edit()
    project.commit()
    readme = (project.path / "README.md").read_text("utf-8")
    check, link, commands = blocks(readme.split("\n## Update it\n")[1], "console")
    assert "uvx cruft check\n" in check
    assert "uvx cruft link " in link
    assert "uvx cruft update\n" in commands
    for tag in ("v1.1.0", "v1.2.0"):
        clone = tmp_path / tag / "night_shop"
        project.run("git", "clone", "--quiet", project.path.as_uri(), str(clone))
        project.path = clone
        update = f"cruft update --skip-apply-ask --checkout {tag}"
        project.run("bash", "-ec", commands.replace("uvx cruft update", update))

    fresh = Project(origin, tmp_path / "fresh", "v1.2.0", PAIRS[0])
    fresh.edit()
    assert project.texts() == fresh.texts()
    assert project.cruft() == fresh.cruft()


@pytest.fixture(scope="module")
def old_origin(tmp_path_factory: pytest.TempPathFactory) -> Origin:
    """Return a repository of the template before its runtime was a package, and as it is now."""
    directory = tmp_path_factory.mktemp("origin")
    return publish(directory, newcomer(directory / "home"), BEFORE_RUNTIME)


@pytest.mark.parametrize("answers", PAIRS, ids=name_of)
def test_a_project_from_before_the_runtime_gets_it(
    old_origin: Origin, tmp_path: Path, answers: dict[str, str]
) -> None:
    project = Project(old_origin, tmp_path / "old", "v0.9.0", answers)
    assert not (project.path / project.runtime).exists()
    project.commit()
    project.edit(EDITS_BEFORE)
    project.commit()
    project.update("v1.0.0")

    fresh = Project(old_origin, tmp_path / "new", "v1.0.0", answers)
    fresh.edit(EDITS_BEFORE)
    assert project.texts() == fresh.texts()
