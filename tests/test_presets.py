"""Presets, which are files of answers: each one is known, tested, and shown in the README."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from cookiecutter import config
from cookiecutter.main import cookiecutter

from tests.projects import COMBINATIONS, OTHERS, TEMPLATE, Bake, BakedProject
from tests.samples import PRESETS
from tests.test_readme import README, blocks
from tests.test_shape import ASKED, CHOICES, QUESTIONS, digest

DEFAULTS = {name: choices[0] for name, choices in CHOICES.items()}
FILES = {f"presets/{name}.yaml": (TEMPLATE / "presets" / f"{name}.yaml") for name in PRESETS}
SECTION = README.split("\n### Presets\n")[1].split("\n### ")[0]
(OF_A_TEAM,) = blocks(SECTION, "yaml")


def generate(directory: Path, preset: Path, *, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Generate a project from a preset; return where it lies."""
    # A preset names no place for the answers of the last run: that is in the home directory.
    monkeypatch.setitem(config.DEFAULT_CONFIG, "replay_dir", str(directory / "replay"))
    made = cookiecutter(
        str(TEMPLATE), no_input=True, config_file=str(preset), output_dir=str(directory)
    )
    return Path(made)


def test_there_are_the_presets_that_the_readme_lists() -> None:
    rows = re.findall(r"\| \[`(.+).yaml`\]\((.+)\) \| `(.+)` \| (.+) \| (.+) \|", SECTION)
    assert sorted(link for _, link, *_ in rows) == sorted(FILES)
    for name, link, answers, sentence, sample in rows:
        assert link == f"presets/{name}.yaml"
        assert sample == f"[sample](docs/samples/{name}.md)"
        assert FILES[link].read_text("utf-8").splitlines()[0] == f"# {sentence}"
        given = dict(answer.split("=") for answer in shlex.split(answers))
        assert DEFAULTS | given == PRESETS[name]
        assert not given.items() & DEFAULTS.items()


@pytest.mark.parametrize("text", [*[each.read_text("utf-8") for each in FILES.values()], OF_A_TEAM])
def test_each_answer_of_a_preset_is_one_that_its_question_takes(text: str) -> None:
    preset: dict[str, Any] = yaml.safe_load(text)
    assert list(preset) == ["default_context"]
    answers = preset["default_context"]
    assert list(answers) == [name for name in ASKED if name in answers]  # known, and in their order
    assert CHOICES.keys() <= answers.keys()  # whatever becomes the default of a question
    for name, answer in answers.items():
        assert answer in CHOICES.get(name, [answer]), name
        assert answer != QUESTIONS[name], name


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_a_combination_that_is_tested(name: str) -> None:
    tested = [DEFAULTS | each for each in [*COMBINATIONS, *OTHERS]]
    assert PRESETS[name] | {"license": DEFAULTS["license"]} in tested


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_the_project_of_its_answers(
    tmp_path: Path, bake: Bake, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    preset = FILES[f"presets/{name}.yaml"]
    made = generate(tmp_path, preset, monkeypatch=monkeypatch)
    assert digest(BakedProject(made, "")) == digest(bake(**PRESETS[name]))


def test_a_preset_of_a_team_gives_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = tmp_path / "night-shop.yaml"
    preset.write_text(OF_A_TEAM, encoding="utf-8")
    made = generate(tmp_path, preset, monkeypatch=monkeypatch)
    assert "Night Shop Team" in (made / "pyproject.toml").read_text(encoding="utf-8")
    assert "Europe/Berlin" in (made / "my_service/settings.py").read_text(encoding="utf-8")
