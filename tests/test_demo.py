"""`make demo`: from nothing to the first results, and nothing left behind."""

import subprocess
import tomllib
from pathlib import Path

import psutil
import pytest

import demo
from tests import servers
from tests.projects import TEMPLATE, clean_environment


def make_demo(temporary: Path, answers: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the command as a person does, with its temporary files below ``temporary``."""
    return subprocess.run(
        ["make", "--silent", "demo", f"ANSWERS={answers}"],
        cwd=TEMPLATE,
        env=clean_environment() | {"TMPDIR": str(temporary)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )


def left_in(directory: Path) -> list[str]:
    """Return the processes that still run in ``directory`` or were started for it."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(directory) in f"{process.cwd()} {process.cmdline()}":
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def directories_in(directory: Path) -> list[Path]:
    """Return the directories in ``directory``; uv and cookiecutter leave a file or two."""
    return [path for path in directory.iterdir() if path.is_dir()]


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty directory whose name no other process knows."""
    return tmp_path_factory.mktemp("only-of-this-demo", numbered=True)


def test_the_demo_of_the_default_answers_shows_results(temporary: Path) -> None:
    done = make_demo(temporary)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 + 4: 8" in done.stdout
    assert "a report of 3 pages: {'pages': 3}" in done.stdout
    assert done.stdout.count("succeeded in") == demo.TASKS["celery"]
    assert done.stdout.rstrip().endswith("the project is removed.")
    assert not left_in(temporary)
    assert not directories_in(temporary)


def test_the_demo_of_django_on_rabbitmq_shows_results(temporary: Path) -> None:
    with servers.rabbitmq():
        pass  # skipped where there is none
    done = make_demo(temporary, "project_type=django broker=rabbitmq result_backend=database")

    assert done.returncode == 0, done.stdout + done.stderr
    assert '"state": "SUCCESS", "result": 6' in done.stdout
    assert done.stdout.count("succeeded in") == demo.TASKS["django"]
    assert not left_in(temporary)
    assert not directories_in(temporary)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("broker=kafka", "demo: broker: 'kafka' is not one of the choices: redis, rabbitmq"),
        ("brocker=redis", "demo: 'brocker=redis' is no answer; write name=value, name one of: "),
        ("project_slug=celery", 'demo: project_slug: "celery" would shadow the module'),
    ],
)
def test_the_demo_refuses_a_wrong_answer_in_one_line(
    temporary: Path, answer: str, line: str
) -> None:
    done = make_demo(temporary, answer)

    said = [said for said in done.stderr.splitlines() if not said.startswith("make: ")]
    assert done.returncode != 0
    assert len(said) == 1, said
    assert said[0].startswith(line)
    assert not directories_in(temporary)


def test_the_environment_of_the_demo_is_a_part_of_that_of_the_tests() -> None:
    script = (TEMPLATE / "demo.py").read_text("utf-8").partition("# ///\n")[0]
    lines = [line.removeprefix("#").strip() for line in script.splitlines()[1:]]
    wanted = tomllib.loads("\n".join(lines))
    project = tomllib.loads((TEMPLATE / "pyproject.toml").read_text("utf-8"))

    assert wanted["requires-python"] == project["project"]["requires-python"]
    assert {*wanted["dependencies"]} <= {*project["dependency-groups"]["dev"]}


def test_the_demo_says_in_one_line_that_there_is_no_rabbitmq(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(servers, "rabbitmq_commands", lambda: None)
    monkeypatch.setattr(servers, "answers", lambda *_: False)

    with pytest.raises(SystemExit, match=r"\Ademo: no RabbitMQ here: .*apt-get install.*\Z"):
        demo.main(["broker=rabbitmq"])
