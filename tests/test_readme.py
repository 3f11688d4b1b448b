"""What the READMEs say is so: the template's own, and every command of a generated one."""

import json
import re
from typing import Any

import pytest

from tests.conftest import TEMPLATE, Bake

README = (TEMPLATE / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


# --- The README of the template ---------------------------------------------------------------


def paths_of(tree: str) -> set[str]:
    """Return the files of a tree drawn with lines, each with its path below the first one."""
    above: list[str] = []
    files = set()
    for line in tree.splitlines()[1:]:
        drawn, name = re.match(r"([│├└─ ]+)(\S+)", line).groups()  # type: ignore[union-attr]
        above = above[: len(drawn) // 4 - 1]
        if name.endswith("/"):
            above.append(name)
        else:
            files.add("".join(above) + name)
    return files


@pytest.mark.parametrize("project_type", ["celery", "django"])
def test_the_trees_show_what_is_generated(bake: Bake, project_type: str) -> None:
    trees = dict(zip(["celery", "django"], blocks(README, "text"), strict=True))
    assert paths_of(trees[project_type]) == bake(project_type=project_type).files()


def test_the_table_has_every_question_with_its_choices() -> None:
    questions: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))
    table = README.split("### The questions")[1].split("\n### ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", table, flags=re.MULTILINE)

    assert [name for name, _ in rows] == [name for name in questions if name[0] != "_"]
    for name, cell in rows:
        value = questions[name]
        if isinstance(value, list):
            assert re.findall(r"`([^`]+)`", cell) == value, name
        elif not value:
            assert cell == "empty", name
        elif "{{" not in value:
            assert cell == f"`{value}`", name


def test_the_makefile_has_every_command_that_the_documents_name() -> None:
    makefile = (TEMPLATE / "Makefile").read_text(encoding="utf-8")
    contributing = (TEMPLATE / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for target in re.findall(
        r"(?m)(?:^|`)make ([a-z]+)", "\n".join([*blocks(README, "console"), contributing])
    ):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
