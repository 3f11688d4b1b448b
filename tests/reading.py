"""Reads every kind of file in a project, and fails where it does not parse."""

import ast
import configparser
import json
import re
import shlex
import tomllib
import warnings
from collections.abc import Callable
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import yaml
from django.template import Engine
from markdown_it import MarkdownIt
from markdown_it.token import Token

INSTRUCTIONS = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}
DJANGO = Engine(libraries={name: f"django.templatetags.{name}" for name in ("static", "tz")})
YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def python(text: str) -> object:
    """Compile ``text``; a warning is an error, such as an escape that Python does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return compile(text, "<project>", "exec", dont_inherit=True)


def dockerfile(text: str) -> list[list[str]]:
    """Return the instructions, each with its words; those of a list in brackets are JSON."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    instructions = re.sub(r"\\\n", " ", "\n".join(lines)).split("\n")
    found = []
    for name, rest in (line.split(maxsplit=1) for line in instructions if line):
        if name not in INSTRUCTIONS:
            raise ValueError(name)
        found.append([name, *(json.loads(rest) if rest.startswith("[") else shlex.split(rest))])
    return found


def assignments(text: str, separator: str) -> dict[str, list[str]]:
    """Return the lines of a Procfile or an environment file: a name, and words as a shell's."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found = dict(line.split(separator, 1) for line in lines)
    if not all(re.fullmatch(r"\w+", name) for name in found):
        raise ValueError(list(found))
    return {name: shlex.split(value) for name, value in found.items()}


def ini(text: str) -> configparser.ConfigParser:
    """Return the sections of an ``.editorconfig``."""
    parser = configparser.ConfigParser(default_section="top")
    parser.read_string(f"[top]\n{text}")
    return parser


PARSERS: dict[str, Callable[[str], Any]] = {
    ".py": python,
    ".toml": tomllib.loads,
    ".yaml": lambda text: list(yaml.load_all(text, YAML)),  # a safe one
    ".yml": lambda text: list(yaml.load_all(text, YAML)),
    ".json": json.loads,
    ".html": DJANGO.from_string,
    ".svg": ET.fromstring,
    ".md": MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse,
    "Dockerfile": dockerfile,
    "Procfile": lambda text: assignments(text, ": "),
    ".env.example": lambda text: assignments(text, "="),
    ".editorconfig": ini,
    # Each line of these is right.
    **dict.fromkeys(("LICENSE", ".gitignore", ".dockerignore", ".css", ".js"), str),
}


@lru_cache(maxsize=10_000)  # most files are the same in most projects
def parse(name: str, text: str) -> Any:  # noqa: ANN401
    """Return what the file ``name`` holds; no file may be of a kind that nobody reads."""
    return PARSERS[name if name in PARSERS else Path(name).suffix](text)


def parse_all(project: Path) -> dict[str, Any]:
    """Return what each file of ``project`` holds; an error names the file."""
    found = {}
    for path in project.rglob("*"):
        if path.is_file():
            name = path.relative_to(project).as_posix()
            text = path.read_bytes().decode("utf-8")
            try:
                found[name] = parse(path.name, text)
            except Exception as error:
                error.add_note(f"{name}:\n{text}")
                raise
    return found


def paragraphs(tokens: list[Token]) -> list[str]:
    """Return the text of each heading and paragraph as a page shows it, and names of marks."""
    inlines = [each.children for each in tokens if each.children]
    return [
        "".join(part.content if part.type == "text" else f"<{part.type}>" for part in parts)
        for parts in inlines
    ]


class Headings(HTMLParser):
    """Collects the texts of the elements ``title`` and ``h1``."""

    def __init__(self) -> None:
        """Begin outside of both."""
        super().__init__()
        self.inside: str | None = None
        self.texts: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        """Enter an element."""
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        """Leave it."""
        self.inside = None

    def handle_data(self, data: str) -> None:
        """Add to its text."""
        if self.inside in ("title", "h1"):
            self.texts[self.inside] = self.texts.get(self.inside, "") + data


def headings(page: str) -> dict[str, str]:
    """Return the title and the heading of a page."""
    parser = Headings()
    parser.feed(page)
    parser.close()
    return parser.texts


def assigned(text: str, name: str) -> object:
    """Return the literal that a module assigns to ``name``."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise LookupError(name)
