"""Any answers, to all questions at once: refused in one line, or a project that is right."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

import template_extension
from tests import reading
from tests.hostile import SYNTAX, Answers, Bakery, bakery, given_answers, kept_answers
from tests.projects import COMBINATIONS, name_of
from tests.test_shape import ASKED, CHOICES


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bakery]:
    """Return one bakery for all cases."""
    with bakery(tmp_path_factory.mktemp("bakery")) as made:
        yield made


def check_refusal(line: str, answers: Answers) -> None:
    """One line names the question and its answer, and says what would be right."""
    assert line.isprintable()
    assert len(line) < 300
    question, _, rest = line.partition(": ")
    assert question in [*ASKED, "brokre"]
    shown, end = json.JSONDecoder().raw_decode(rest)
    if question in answers:  # and not computed
        answer = answers[question]
        text = answer if isinstance(answer, str) else json.dumps(answer)
        assert shown == text[:60]
    assert re.search(r"; | such as | the maximum is |one of the choices: ", rest[end:]), line


def check_project(project: Path, answers: Answers) -> None:
    """Every file parses, and what was answered can be read in them."""
    files = reading.parse_all(project)
    metadata = files["pyproject.toml"]["project"]
    slug, name, author = project.name, answers["project_name"], answers["author_name"]
    assert slug == answers.get("project_slug", slug)
    assert metadata["name"] == slug.replace("_", "-").strip("-")
    assert re.fullmatch(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", metadata["name"])
    assert metadata["description"] == answers["description"]
    person = {"name": author, "email": answers["author_email"]}
    person = {key: value for key, value in person.items() if value}
    assert metadata.get("authors", []) == ([person] if person else [])
    assert metadata["license"].removeprefix("LicenseRef-") == answers["license"]
    holder = author or f"the authors of {name}"
    assert answers["license"] == "Apache-2.0" or f"Copyright (c) {holder}" in files["LICENSE"]

    shown = [name.strip(), *filter(None, [answers["description"].strip()])]
    assert reading.paragraphs(files["README.md"])[: len(shown)] == shown
    if answers["project_type"] == "django":
        settings = (project / slug / "settings.py").read_text("utf-8")
        assert reading.assigned(settings, "TIME_ZONE") == answers["timezone"]
        page = (project / "jobs/templates/jobs/index.html").read_text("utf-8")
        assert reading.headings(page) == {"title": f"Jobs: {name}", "h1": name}
    else:
        settings = (project / "celery_app/celeryconfig.py").read_text("utf-8")
        assert reading.assigned(settings, "timezone") == answers["timezone"]


@pytest.mark.parametrize("begin", [text for text in SYNTAX if text.isprintable()])
def test_a_readme_shows_a_text_as_it_was_typed(begin: str) -> None:
    text = f"{begin} and more"
    page = reading.parse("README.md", template_extension.markdown(text))
    assert reading.paragraphs(page) == [text.strip()]


cases = st.tuples(given_answers, st.just(False)) | st.tuples(kept_answers, st.just(True))  # noqa: FBT003


@pytest.mark.parametrize("combination", COMBINATIONS, ids=name_of)
def test_any_answers_are_refused_in_one_line_or_give_a_good_project(
    shop: Bakery, combination: dict[str, str]
) -> None:
    ended = Counter[str]()

    @seed(name_of(combination))  # other cases for each
    @given(case=cases)
    def check(case: tuple[Answers, bool]) -> None:
        answers, replayed = case
        for question, answer in combination.items():
            if answers[question] in CHOICES[question]:
                answers[question] = answer
        output, refusal = shop.bake(answers, replayed=replayed)
        made = list(output.iterdir())
        if refusal is None:
            ended["given"] += 1
            [project] = made
            check_project(project, answers)
        else:
            ended[refusal.partition(":")[0]] += 1
            assert made == []
            check_refusal(refusal, answers)
        shutil.rmtree(output)

    check()
    assert 0 < ended["given"] < ended.total()
