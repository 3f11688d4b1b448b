"""Answers of every kind for Hypothesis, and cookiecutter in this process to take them."""

import functools
import itertools
import json
import os
import re
import zoneinfo
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from cookiecutter import generate
from cookiecutter.exceptions import FailedHookException
from cookiecutter.main import cookiecutter
from hypothesis import strategies as st

import template_extension
from tests.projects import TEMPLATE
from tests.test_shape import CHOICES

Answers: TypeAlias = dict[str, Any]

SYNTAX = [
    # Jinja, and Django's templates
    *("{{ 7*7 }}", "{{ cookiecutter }}", "{{", "}}", "{% raw %}", "{% endraw %}", "{% if x %}"),
    *("{#", "#}", "{% include 'x' %}", "#% if x", "#= x", "{{ '{{' }}", "{{ x | quoted }}"),
    # shell and make
    *("$(id)", "`id`", "${HOME}", "; rm -rf .", "&& false", "| cat", "> x", "!!", "$$", "\\\n"),
    # YAML
    *(": ", "- ", "key: value", "&a *a", "!!python/none", "%YAML", "---", "...", " #", "@", "? x"),
    *("yes", "null", "1e3", "0x1f", "2026-11-26", "~", "<<", "[a, b]", "{a: b}"),
    # TOML and Python
    *('"""', "'''", '"', "'", "\\", "[tool.x]", 'x = "y"', r"\N{BULLET}", r"\u0041", "%(x)s"),
    *("{0}", "f'{x}'", "#", "import os", "\\x00"),
    # Markdown
    *("# x", "**b**", "_i_", "[x](y)", "![x](y)", "1. x", "2) x", "+ x", "> x", "```", "~~~"),
    *("| a | b |", "=====", "-----", "    code", "<http://x.example>", "&amp;", "&#35;", "[x]: y"),
    # HTML and XML
    *("<script>alert(1)</script>", "</title>", "<!--", "-->", "<![CDATA[", "]]>", "</h1>", '" x="'),
    # Dockerfile, Procfile, a file of variables
    *("FROM scratch", "RUN id", "USER root", "# syntax=x", "web: id", "worker:", "A=b"),
    # scripts, directions, widths
    *("日本語のサービス", "خدمة عربية", "שירות", "Служба", "सेवा", "🚀👩\u200d🚀🏳️\u200d🌈", "ﬁ"),
    *("İ", "ß"),
    *(
        "\u200f",
        "\u202e",
        "\u2066",
        "\u200b",
        "\ufeff",
        "\u00ad",
        "\ufffe",
        "\U0010ffff",
        "e\u0301",
    ),
    # what ends a line, or is not to be seen
    *("\n", "\r", "\t", "\x00", "\x1b[31m", "\x7f", "\x85", "\u2028", "\ud800", "\x0c"),
]
NAMES = [
    *sorted(template_extension.DEVICES),
    *sorted(template_extension.RESERVED),
    *("json", "types", "asyncio", "class", "match", "type", "_"),
    *("__init__", "My_Service", "x" * 33),
    *("..", "../x", "/x", "~", "C:", "a/b", "a.b", "a-b", "CON", "nul.txt", "com¹", "x" * 32),
]
pieces = st.text(max_size=20) | st.sampled_from(SYNTAX) | st.sampled_from(NAMES)
one_line = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
lines = st.one_of(
    st.text(one_line, min_size=1, max_size=200),
    st.lists(st.text(one_line, max_size=8) | st.sampled_from(SYNTAX), min_size=1, max_size=5)
    .map("".join)
    .map(lambda text: re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]", "", text) or "x"),
)
any_text = st.lists(pieces, max_size=4).map("".join) | st.text(max_size=300)
no_text = st.sampled_from([None, True, 0, 1.5, [], ["x"], {}, {"a": "b"}])


def mostly(right: st.SearchStrategy[Any], wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give nearly always from ``right``: else nearly all cases would be refused."""
    return st.integers(0, 11).flatmap(lambda number: wrong if number == 7 else right)


zones = sorted(zoneinfo.available_timezones() - {"localtime"})
local_part = st.from_regex(r"[\w.!#$%&'*+/=?^`{|}~-]{1,40}", fullmatch=True)
ANSWERS = {
    "project_name": mostly(lines, any_text),
    "project_slug": mostly(
        st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True), any_text | st.sampled_from(NAMES)
    ),
    "description": mostly(lines | st.just(""), any_text),
    "author_name": mostly(lines | st.just(""), any_text),
    "author_email": mostly(st.builds("{}@日本.example".format, local_part) | st.just(""), any_text),
    "timezone": mostly(st.sampled_from(zones), any_text | st.sampled_from(["berlin", "Utc"])),
    **{question: st.sampled_from(choices) for question, choices in CHOICES.items()},
}


def in_a_file(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Give, in one case of fifty, what only a file can hold: another type, or no such choice."""
    wrong = no_text | any_text
    return st.integers(0, 49).flatmap(lambda number: wrong if number == 7 else right)


typed = {name: ANSWERS[name] for name in ANSWERS if name != "project_slug"}
given_answers = st.fixed_dictionaries(typed, optional={"project_slug": ANSWERS["project_slug"]})
kept = {name: in_a_file(right) for name, right in ANSWERS.items()}
kept_answers = st.integers(0, 49).flatmap(
    lambda number: st.fixed_dictionaries({**kept, "brokre": any_text} if number == 7 else kept)
)


class Bakery:
    """Cookiecutter, run in this process: with answers of a command line, or with a replay."""

    def __init__(self, home: Path) -> None:
        """Begin with one usual run, whose answers are kept in ``home``."""
        self.home = home
        directories = {name: str(home / name) for name in ("cookiecutters_dir", "replay_dir")}
        (home / "config.yaml").write_text(json.dumps(directories))
        self.settings = {"accept_hooks": False, "config_file": str(home / "config.yaml")}
        self.numbers = itertools.count()
        self.bake({})
        kept = home / "replay_dir" / f"{TEMPLATE.name}.json"
        self.kept: Answers = json.loads(kept.read_text())["cookiecutter"]

    def bake(self, answers: Answers, *, replayed: bool = False) -> tuple[Path, str | None]:
        """Return the directory that projects are written to, and the line of a refusal."""
        output = self.home / f"output-{next(self.numbers)}"
        output.mkdir()
        if replayed:
            file = self.home / "kept.json"
            file.write_text(json.dumps({"cookiecutter": self.kept | answers}))
            how: dict[str, Any] = {"replay": str(file)}
        else:
            how = {"no_input": True, "extra_context": answers}
        try:
            cookiecutter(str(TEMPLATE), output_dir=str(output), **how, **self.settings)
        except FailedHookException as refusal:
            return output, str(refusal)
        return output, None


@contextmanager
def bakery(home: Path) -> Iterator[Bakery]:
    """Give a bakery that looks only once which files of the template are binary."""
    look = functools.cache(generate.is_binary)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "is_binary", lambda path: look(os.path.abspath(path)))  # noqa: PTH100
        yield Bakery(home)
