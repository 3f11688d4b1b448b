"""How long generating a project takes, and its peak memory, against a template of one file.

A first run is the one after an installation: Python has no byte code of cookiecutter and what it
imports. Later runs have it, and with it the one file takes a third of the time.
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import lab
from tests.projects import clean_environment

ONE_FILE, FIRST, STARTPROJECT = "one file", "first answers", "django-admin startproject"
LARGEST = {
    "project_type": "django",
    "broker": "rabbitmq",
    "result_backend": "database",
    "ci": "github",
    "deployment": "kubernetes",
}
LARGEST_NAME = ", ".join(LARGEST.values())
OTHERS: list[Path] = []  # directories of other templates
PACKAGES = ("cookiecutter==2.7.1", "django==5.2.*")
# How packages are installed, and the environment of the runs.
CONDITIONS: dict[str, tuple[list[str], dict[str, str]]] = {
    "first run": ([], {"PYTHONDONTWRITEBYTECODE": "1"}),
    "later runs": (["--compile-bytecode"], {}),
}

# Runs a command, and tells its time and its peak. A child counts from the size of its parent, so
# that has to be a small process.
WATCH = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def one_file(directory: Path) -> Path:
    """Write the smallest template there is, and return its path."""
    project = directory / "one_file" / "{{cookiecutter.project_slug}}"
    project.mkdir(parents=True)
    (project.parent / "cookiecutter.json").write_text('{"project_slug": "my_service"}')
    (project / "README.md").write_text("# {{ cookiecutter.project_slug }}\n")
    return project.parent


def commands(directory: Path) -> dict[str, list[str]]:
    """Return the commands to measure, without the interpreter, by name."""
    cookiecutter = ["-m", "cookiecutter", "--no-input"]
    answers = [f"{question}={answer}" for question, answer in LARGEST.items()]
    return {
        ONE_FILE: [*cookiecutter, str(one_file(directory))],
        FIRST: [*cookiecutter, str(lab.ROOT)],
        LARGEST_NAME: [*cookiecutter, str(lab.ROOT), *answers],
        STARTPROJECT: ["-m", "django", "startproject", "my_service"],
        **{path.name: [*cookiecutter, str(path.resolve())] for path in OTHERS},
    }


def install(directory: Path, options: list[str]) -> Path:
    """Install the packages into a new environment, and return its interpreter."""
    python = directory / "bin" / "python"
    env = clean_environment()
    words = ("--quiet", "--python", sys.executable)
    subprocess.run(["uv", "venv", *words, str(directory)], env=env, check=True)
    words = ("--quiet", "--python", str(python))
    subprocess.run(["uv", "pip", "install", *words, *options, *PACKAGES], env=env, check=True)
    return python


def measure(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Run a command in a fresh directory; return its seconds and, at the most, its MiB."""
    with tempfile.TemporaryDirectory(dir=env["HOME"]) as directory:
        words = [sys.executable, "-IS", "-c", WATCH, *command]
        done = subprocess.run(words, cwd=directory, env=env, capture_output=True, check=True)
        seconds, peak = map(float, done.stdout.split())
        # macOS counts in bytes, others in KiB.
        return seconds, peak / (2**20 if sys.platform == "darwin" else 2**10)


def run(directory: Path, *, quick: bool) -> None:
    """Measure, and write the result file."""
    rounds = 4 if quick else 15
    about = lab.conditions(rounds)
    figures = []
    with tempfile.TemporaryDirectory(dir=directory) as name:
        home = Path(name)
        measured = commands(home)
        for condition, (options, variables) in CONDITIONS.items():
            python = str(install(home / condition.replace(" ", "-"), options))
            env = clean_environment() | {"HOME": name} | variables
            kinds = [[python, *command] for command in measured.values()]
            for kind in kinds:  # brings the files into memory
                measure(kind, env)
            runs = lab.in_turns(kinds, partial(measure, env=env), rounds)
            for label, own in zip(measured, runs, strict=True):
                seconds, mebibytes = zip(*own, strict=True)
                row = {"condition": condition, "command": label}
                figures.append({**row, "seconds": seconds, "peak_mib": mebibytes})
                lab.say(condition, label, lab.spread(seconds)[0])
    lab.write("generation", about, figures)
