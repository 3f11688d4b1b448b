"""The exact files of each combination, with no trace of the template in them."""

import ast
import hashlib
import itertools
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.projects import COMBINATIONS, OTHERS, RUNTIME, TEMPLATE, Bake, BakedProject

SOURCE = TEMPLATE / "{{cookiecutter.project_slug}}"
QUESTIONS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text())
ASKED = [name for name in QUESTIONS if not name.startswith("_")]
CHOICES = {name: QUESTIONS[name] for name in ASKED if isinstance(QUESTIONS[name], list)}

COMMON = {
    *(".editorconfig", ".env.example", ".gitignore", ".pre-commit-config.yaml"),
    *("LICENSE", "Procfile", "README.md", "dev.py", "docs/recipes.md", "pyproject.toml"),
    "{package}/__init__.py",
    *("tests/__init__.py", "tests/conftest.py", "tests/lab.py", "tests/worker.py"),
    *("tests/test_broker.py", "tests/test_settings.py", "tests/test_tasks.py"),
    *("tests/fault_tasks.py", "tests/test_faults.py"),
    *(f"{{package}}/runtime/{name}.py" for name in ("__init__", "app", "beat", "checks")),
    *(f"{{package}}/runtime/{name}.py" for name in ("dead_letters", "health", "heartbeat")),
    *(f"{{package}}/runtime/{name}.py" for name in ("letters", "logs")),
    *(f"{{package}}/runtime/{name}.py" for name in ("metrics", "poison")),
    *(f"{{package}}/runtime/{name}.py" for name in ("revoked", "worker")),
}
CONTAINERS = {
    *(".dockerignore", "Dockerfile", "compose.yaml", "tests/test_containers.py"),
    *(f"deploy/monitoring/{name}" for name in ("alerts.yaml", "alerts_test.yaml")),
    *("deploy/monitoring/prometheus.yml", "deploy/monitoring/grafana/datasources/prometheus.yaml"),
    *(f"deploy/monitoring/grafana/dashboards/{name}" for name in ("files.yaml", "tasks.json")),
}
MANIFESTS = {
    *(f"deploy/kubernetes/base/{name}.yaml" for name in ("beat", "kustomization", "network")),
    "deploy/kubernetes/base/worker.yaml",
    *(f"deploy/kubernetes/production/{name}.yaml" for name in ("autoscaler", "kustomization")),
    "deploy/kubernetes/production/namespace.yaml",
}
# What an answer adds to them.
ADDED: dict[str, dict[str, set[str]]] = {
    "project_type": {
        "celery": {
            *("app.py", "tests/test_app.py"),
            *("{package}/celeryconfig.py", "{package}/tasks.py"),
        },
        "django": {
            *("gunicorn.conf.py", "manage.py"),
            *("tests/away.py", "tests/database.py", "tests/test_states.py"),
            *(f"tests/test_{name}.py" for name in ("admin", "page", "production", "services")),
            "tests/test_views.py",
            *("{package}/runtime/django.py", "{package}/runtime/web.py"),
            *(f"{{package}}/{name}.py" for name in ("asgi", "celery", "settings", "urls", "wsgi")),
            *(f"jobs/{name}.py" for name in ("__init__", "admin", "apps", "models", "page")),
            *(f"jobs/{name}.py" for name in ("services", "states", "tasks", "urls", "views")),
            *("jobs/migrations/__init__.py", "jobs/migrations/0001_initial.py"),
            *("jobs/static/jobs/icon.svg", "jobs/static/jobs/jobs.css"),
            *("jobs/templates/jobs/index.html", "jobs/templates/jobs/table.html"),
        },
    },
    "broker": {
        "redis": {
            *(f"{{package}}/runtime/{name}.py" for name in ("delayed", "redis", "redis_transport")),
            "tests/test_redis.py",
        },
        "rabbitmq": {
            *("{package}/runtime/rabbitmq.py", "{package}/runtime/rabbitmq_transport.py"),
            "tests/test_rabbitmq.py",
        },
    },
    "result_backend": {
        "redis": {"tests/test_results.py"},
        "database": {"tests/test_results.py"},
        "none": set(),
    },
    "ci": {
        "github": {".github/dependabot.yml", ".github/workflows/ci.yml"},
        "gitlab": {".gitlab-ci.yml", "renovate.json"},
        "none": set(),
    },
    "deployment": {"compose": CONTAINERS, "kubernetes": CONTAINERS | MANIFESTS, "none": set()},
}

# Settings that are not the same in both flavours, and why.
DIFFERENCES = {
    "beat_schedule": "the tasks are those of celery_app.tasks, or of the Django app jobs, "
    "which has rows to look after",
    "beat_scheduler": "the package that both keep it in is named after the Django project",
    "include": "the plain app names its module of tasks, Django's finds those of its apps",
    "result_backend": "with a database: SQLAlchemy, or Django's own tables",
    "worker_consumer": "as beat_scheduler",
    "result_extended": "django-celery-results shows the task of a result",
}


def digest(project: BakedProject) -> dict[str, str]:
    """Return what identifies every file of a project."""
    return {
        name: hashlib.sha256((project.path / name).read_bytes()).hexdigest()
        for name in sorted(project.files())
    }


def test_each_combination_has_exactly_its_files(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    given = {question: CHOICES[question][0] for question in ADDED} | answers
    expected = COMMON.union(*(ADDED[question][answer] for question, answer in given.items()))
    if (given["project_type"], given["deployment"]) == ("django", "kubernetes"):
        expected |= {f"deploy/kubernetes/base/{name}.yaml" for name in ("migrate", "web")}
    if "redis" in (given["broker"], given["result_backend"]):
        expected |= {"{package}/runtime/results.py", "{package}/runtime/sentinel.py"}
    if given["project_type"] == "django" and given["result_backend"] != "none":
        expected |= {"jobs/static/jobs/jobs.js"}
    if (given["project_type"], given["result_backend"]) == ("django", "database"):
        expected |= {"tests/test_admin_results.py", "{package}/runtime/django_results.py"}
    if "redis" in (given["broker"], given["result_backend"]):
        expected |= {"tests/valkey.py"}
    assert project.files() == {name.format(package=project.package) for name in expected}
    empty = [path for path in project.path.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert not empty


def test_no_trace_of_the_template_is_left(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    for name in project.files():
        # The expressions of GitHub are no trace, nor are those of Django and Grafana.
        text = re.sub(r"\$\{\{ [\w.-]+(\('uv.lock'\) != '')? \}\}", "", project.read(name))
        trace = r"^\s*#[%=] |cookiecutter\." + r"|\{\{|\{%|\{#" * (
            not name.endswith((".html", ".json"))
        )
        assert not re.search(trace, text, re.MULTILINE), name


def test_every_bake_has_the_runtime_as_it_lies(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    modules = list((project.path / project.package / "runtime").glob("*.py"))  # and no bytecode
    assert len(modules) > 10
    for path in modules:
        assert path.read_bytes() == (RUNTIME / path.name).read_bytes(), path.name


def test_the_runtime_holds_nothing_to_render() -> None:
    for path in RUNTIME.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"^\s*#[%=] |\{\{|\{%|\{#", text, re.MULTILINE), path.name


def test_the_runtime_knows_nothing_of_the_code_that_uses_it() -> None:
    """It imports libraries, by their full names, and its own modules, relatively."""
    modules = {path.stem for path in RUNTIME.glob("*.py")}
    beside = {path.stem for path in RUNTIME.parent.glob("*.py")} - {"celery"}
    for path in RUNTIME.glob("*.py"):
        imported = set[str]()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1, path.name
                named = {node.module} if node.module else {alias.name for alias in node.names}
                assert named <= modules, path.name
        assert not imported & (beside | {"celery_app", "jobs"}), path.name
        if path.name == "health.py":
            assert imported <= sys.stdlib_module_names


def test_no_condition_left_a_gap(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    for name in project.files():
        text = project.read(name)
        if name.endswith("__init__.py") and not text:
            continue
        if name.endswith(".md"):  # in the code of a recipe, two empty lines are as they should be
            text = re.sub(r"(?ms)^```python\n.*?^```$", "```", text)
        gap = "\n\n\n\n" if name.endswith(".py") else "\n\n\n"
        assert gap not in text, name
        assert text.endswith("\n"), name
        assert not text.endswith("\n\n"), name
        assert not text.startswith("\n"), name
        assert not re.search(r"[ \t\r]$", text, re.MULTILINE), name
        assert not re.search(r"[\[{(]\n\n|\n\n[ \t]*[\]})]", text), name


def test_the_same_answers_give_the_same_bytes(cookies_session: Any, bake: Bake) -> None:  # noqa: ANN401
    for answers in [*COMBINATIONS, *OTHERS]:
        again = cookies_session.bake(extra_context=dict(reversed(answers.items())))
        assert digest(BakedProject(again.project_path, "")) == digest(bake(**answers))


def test_rendering_knows_neither_the_day_nor_the_place(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(author_name="Ada", author_email="ada@example.org", **answers)
    for name in project.files():
        text = project.read(name)
        assert not re.search(r"(©|\(c\)|Copyright).*\b(19|20)\d\d\b", text), name
        assert str(Path.home()) not in text, name
        assert str(TEMPLATE) not in text, name


def test_every_dropped_path_exists_in_the_template() -> None:
    for question, answers in QUESTIONS["_dropped"].items():
        assert set(answers) <= set(CHOICES.get(question, ["y", ""]))  # or a private fact
        for path in itertools.chain.from_iterable(answers.values()):
            assert (SOURCE / path).exists(), path


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """Return a copy of the template, for a test that changes it."""
    for name in ("cookiecutter.json", "template_extension.py", "hooks", "templates", SOURCE.name):
        copy = shutil.copytree if (TEMPLATE / name).is_dir() else shutil.copy
        copy(TEMPLATE / name, tmp_path / name)
    return tmp_path


def test_what_is_dropped_is_not_rendered(cookies_session: Any, template: Path) -> None:  # noqa: ANN401
    for name in ("app.py", "deploy/kubernetes/base/worker.yaml"):
        (template / SOURCE.name / name).write_text("#% no such statement\n")
    done = cookies_session.bake({"project_type": "django"}, template=str(template))
    assert done.exception is None
    broken = cookies_session.bake({"project_type": "celery"}, template=str(template))
    assert "Encountered unknown tag 'no'" in str(broken.exception)


@pytest.mark.parametrize("broker", CHOICES["broker"])
def test_the_runtime_is_the_same_in_every_project(
    cookies_session: Any,  # noqa: ANN401
    template: Path,
    broker: str,
) -> None:
    source = template / SOURCE.name / "{{cookiecutter.__package}}" / "runtime"
    for path in source.glob("*.py"):
        with path.open("a") as file:
            file.write("BRACES = '{{ cookiecutter }} {% if %} {#'\n#% if no\n#= text\n\n")
    answers = {"project_type": "django", "broker": broker}
    done = cookies_session.bake(answers, template=str(template))
    assert done.exception is None
    runtime = done.project_path / "my_service" / "runtime"
    assert runtime / f"{broker}.py" in list(runtime.iterdir())
    for path in runtime.iterdir():
        assert path.read_bytes() == (source / path.name).read_bytes(), path


def test_what_tools_leave_in_the_template_stays_there(
    cookies_session: Any,  # noqa: ANN401
    bake: Bake,
    template: Path,
) -> None:
    source = template / SOURCE.name
    for name in ("{{cookiecutter.__package}}", "{{cookiecutter.__package}}/runtime", "jobs"):
        caches = source / name / "__pycache__"
        caches.mkdir(exist_ok=True)
        (caches / "app.cpython-311.pyc").write_bytes(b"\xa7\r\r\n\0")
    done = cookies_session.bake({"project_type": "django"}, template=str(template))
    made = {path.relative_to(done.project_path) for path in done.project_path.rglob("*")}
    usual = bake(project_type="django").path
    assert made == {path.relative_to(usual) for path in usual.rglob("*")}


def test_the_python_files_of_the_template_parse_before_they_are_rendered() -> None:
    files = [*SOURCE.rglob("*.py"), *TEMPLATE.glob("*.py"), *TEMPLATE.glob("hooks/*.py")]
    files += (TEMPLATE / "templates").rglob("*.py")
    assert len(files) > 20
    for path in files:
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_no_directory_of_the_template_has_a_conditional_name() -> None:
    for path in [SOURCE, *SOURCE.rglob("*")]:
        assert not path.is_dir() or "{%" not in path.name, path
        assert not path.is_dir() or " if " not in path.name, path


def test_every_private_fact_is_used() -> None:
    files = [path for path in SOURCE.rglob("*") if path.is_file()]
    files += [*(TEMPLATE / "hooks").glob("*.py"), *(TEMPLATE / "templates").rglob("*")]
    texts = [path.read_text(encoding="utf-8") for path in files if path.is_file()]
    texts += [value for value in QUESTIONS.values() if isinstance(value, str)]
    # Those that cookiecutter and the extension read.
    others = {"__prompts__", "_dropped", "_extensions", "_jinja2_env_vars"}
    facts = [
        name
        for name, value in QUESTIONS.items()
        if name.startswith("_") and name not in others and "checked_" not in str(value)
    ]
    assert facts
    for fact in facts:
        uses = re.compile(rf"cookiecutter\.{fact}\b|\"{fact}\"")
        assert any(uses.search(text) for text in texts), fact


def test_every_question_has_a_prompt_and_every_choice_a_label() -> None:
    prompts = QUESTIONS["__prompts__"]
    assert set(prompts) == set(ASKED)
    for question, choices in CHOICES.items():
        assert list(prompts[question]) == ["__prompt__", *choices]


def test_every_free_answer_is_checked_straight_after_its_question() -> None:
    names = list(QUESTIONS)
    for question in ASKED:
        if question not in CHOICES:
            following = names[names.index(question) + 1]
            assert f"cookiecutter.{question} | checked_" in QUESTIONS[following], question


@pytest.mark.parametrize("license_name", CHOICES["license"])
def test_each_licence_names_its_holder_and_no_year(bake: Bake, license_name: str) -> None:
    project = bake(license=license_name, author_name="Ada Lovelace")
    text = project.read("LICENSE")
    # Apache's text is the same for everybody.
    assert "Ada Lovelace" in text or license_name == "Apache-2.0"
    assert not re.search(r"Copyright.*\b20\d\d\b", text)
    metadata = project.read("pyproject.toml")
    shown = "LicenseRef-Proprietary" if license_name == "Proprietary" else license_name
    assert f'license = "{shown}"' in metadata


def test_the_sample_environment_lists_every_variable_that_is_read(
    bake: Bake, answers: dict[str, str]
) -> None:
    project = bake(**answers)
    sources = "".join(project.read(name) for name in project.files() if name.endswith(".py"))
    read = set(re.findall(r"\benv(?:iron)?\.?\w*\(\s*\"([A-Z][A-Z_]+)\"", sources))
    # One is set by the project itself; the other is also for the probe, which reads no file.
    read -= {"DJANGO_SETTINGS_MODULE", "HEARTBEAT_DIR"}
    if "compose.yaml" in project.files():
        read |= set(re.findall(r"\$\{([A-Z][A-Z_]+)", project.read("compose.yaml")))
        read |= {"COMPOSE_PROFILES"}  # by Compose itself
    manifests = "".join(project.read(name) for name in project.files() if "kubernetes/" in name)
    read |= set(re.findall(r"(?:- |name: |\$\()([A-Z][A-Z_]+)(?:=|,|\))", manifests))
    listed = set(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", project.read(".env.example"), re.MULTILINE))
    assert read == listed


CONFIGURATION = """
import importlib, json, sys
from celery.app.defaults import flatten, NAMESPACES
module = importlib.import_module(sys.argv[1])
app = getattr(module, "app", None) or module.celery_app
app.conf.beat_schedule.pop("send-waiting-jobs", None)
print(json.dumps({name: repr(app.conf[name]) for name, _ in flatten(NAMESPACES)}))
"""


@pytest.mark.parametrize("result_backend", ["redis", "database", "none"])
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_both_flavours_have_the_same_effective_configuration(
    bake: Bake, workshop: Path, broker: str, result_backend: str
) -> None:
    configurations = []
    for project_type in ("celery", "django"):
        project = bake(project_type=project_type, broker=broker, result_backend=result_backend)
        python = workshop / "python"
        done = project.run(python, "-W", "error", "-c", CONFIGURATION, project.package)
        configurations.append(json.loads(done.stdout))
    plain, django = configurations
    assert plain["task_acks_late"] == "True"
    different = {name for name in plain if plain[name] != django[name]}
    assert different <= set(DIFFERENCES)
    assert (
        django["beat_schedule"].replace("jobs.tasks.", "celery_app.tasks.")
        == plain["beat_schedule"]
    )
    if result_backend != "database":
        assert "result_backend" not in different
