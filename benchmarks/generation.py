"""How long generating a project takes, against a template of one file: whole commands, in pairs.

`uv run python -m benchmarks.generation [ROUNDS] [TEMPLATE …]` writes its results to
`generation.md`. A TEMPLATE is the directory of another template to compare with.

A first run is the one after an installation: Python has no byte code of cookiecutter and what it
imports. Later runs have it, and with it the one file takes a third of the time.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import clean_environment

ROOT = Path(__file__).parents[1]
BASE = "one file"
LARGEST = {
    "project_type": "django",
    "broker": "rabbitmq",
    "result_backend": "database",
    "ci": "github",
    "deployment": "kubernetes",
}
PACKAGES = ("cookiecutter==2.7.1", "django==5.2.*")
# How packages are installed, and the environment of the runs.
CONDITIONS: dict[str, tuple[list[str], dict[str, str]]] = {
    "first run": ([], {"PYTHONDONTWRITEBYTECODE": "1"}),
    "later runs": (["--compile-bytecode"], {}),
}


def one_file(directory: Path) -> Path:
    """Write the smallest template there is, and return its path."""
    project = directory / "one_file" / "{{cookiecutter.project_slug}}"
    project.mkdir(parents=True)
    (project.parent / "cookiecutter.json").write_text('{"project_slug": "my_service"}')
    (project / "README.md").write_text("# {{ cookiecutter.project_slug }}\n")
    return project.parent


def commands(directory: Path, others: list[Path]) -> dict[str, list[str]]:
    """Return the commands to measure, without the interpreter, by name."""
    cookiecutter = ["-m", "cookiecutter", "--no-input"]
    answers = [f"{question}={answer}" for question, answer in LARGEST.items()]
    return {
        BASE: [*cookiecutter, str(one_file(directory))],
        "first answers": [*cookiecutter, str(ROOT)],
        ", ".join(LARGEST.values()): [*cookiecutter, str(ROOT), *answers],
        "django-admin startproject": ["-m", "django", "startproject", "my_service"],
        **{path.name: [*cookiecutter, str(path.resolve())] for path in others},
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


def seconds(command: list[str], env: dict[str, str]) -> float:
    """Run a command in a fresh directory, and return how long it took."""
    with tempfile.TemporaryDirectory(dir=env["HOME"]) as directory:
        start = time.perf_counter()
        subprocess.run(command, cwd=directory, env=env, stdout=subprocess.DEVNULL, check=True)
        return time.perf_counter() - start


def report(runs: dict[str, dict[str, list[float]]]) -> str:
    """Return the results as tables; a ratio is that to the one file in the same round."""
    rounds = len(runs["first run"][BASE])
    lines = [
        f"`uv run python -m benchmarks.generation {rounds}`: seconds of whole commands, in",
        "alternating runs, and their ratios to a one-file template in the same round.",
        f"{PACKAGES[0]}, Python {platform.python_version()}, {os.cpu_count()} processors,",
        f"{platform.system()} {platform.machine()}.",
    ]
    for condition, measured in runs.items():
        lines += ["", f"| {condition} | median | ratio | least | most |", "|---|---|---|---|---|"]
        for name, own in measured.items():
            ratios = [one / base for one, base in zip(own, measured[BASE], strict=True)]
            cells = (statistics.median(own), statistics.median(ratios), min(ratios), max(ratios))
            lines.append(f"| {name} | {' | '.join(f'{each:.2f}' for each in cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the results."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        measured = commands(home, [Path(path) for path in sys.argv[2:]])
        runs: dict[str, dict[str, list[float]]] = {}
        for condition, (options, variables) in CONDITIONS.items():
            python = str(install(home / condition.replace(" ", "-"), options))
            env = clean_environment() | {"HOME": name} | variables
            runs[condition] = {label: [] for label in measured}
            for number in range(rounds + 1):
                for label, command in measured.items():
                    taken = seconds([python, *command], env)
                    if number:  # the first round brings the files into memory
                        runs[condition][label].append(taken)
                print(f"{condition}: {number} of {rounds}", flush=True)
    table = report(runs)
    print(table)
    (Path(__file__).parent / "generation.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
