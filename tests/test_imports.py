"""Projects with any answers import: a sample, as each costs as much as many that only parse."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.hostile import Answers, bakery, given_answers
from tests.projects import TEMPLATE, clean_environment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the importer forks")


@pytest.fixture
def says(workshop: Path) -> Iterator[Callable[[Path, str], str]]:
    """Start the importer, and ask it to import the module with the app of a project."""
    with subprocess.Popen(
        [workshop / "python", "-m", "tests.importer"],
        cwd=TEMPLATE,
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:

        def says(project: Path, module: str) -> str:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps([str(project), module]) + "\n")
            process.stdin.flush()
            return str(json.loads(process.stdout.readline()))

        yield says


def test_a_project_with_any_answers_imports(
    says: Callable[[Path, str], str], tmp_path: Path
) -> None:
    imported = set[tuple[str, ...]]()

    @settings(max_examples=30)
    @given(answers=given_answers)
    def check(answers: Answers) -> None:
        output, refusal = shop.bake(answers)
        if not refusal:
            [project] = output.iterdir()
            django = answers["project_type"] == "django"
            module = f"{project.name}.celery" if django else "celery_app"
            assert says(project, module) == "done"
            imported.add(tuple(answers[name] for name in ("project_type", "broker")))
        shutil.rmtree(output)

    with bakery(tmp_path) as shop:
        check()
    assert len(imported) > 2  # of 4 pairs
