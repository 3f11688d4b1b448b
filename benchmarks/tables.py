"""How figures are written: what the pages have in common."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks import lab
from benchmarks.lab import DJANGO, GENERATED, KOMBU, TINY, TUTORIAL, TWO

BROKERS = {"redis": "Redis", "rabbitmq": "RabbitMQ"}
SETTINGS = {
    TUTORIAL: "the tutorial's",
    GENERATED: "as generated",
    TWO: "as generated, but a prefetch of 2",
    KOMBU: "as generated, but kombu's transport",
    DJANGO: "cookiecutter-django's",
    TINY: "as generated, for tiny tasks",
}


def number(value: float) -> str:
    """Return a figure as people read it: three digits at the most below a thousand."""
    if value >= 999.5:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def shown(values: Sequence[float], show: Callable[[float], str] = number) -> str:
    """Return the median, and in brackets the half of the values around it."""
    middle, least, most = map(show, lab.spread(values))
    return f"{middle} ({least} to {most})"


def ratio(values: Sequence[float]) -> str:
    """Return the median of ratios, and the half of them around it."""
    return shown(values, lambda value: f"{value:.2f}")


def row_of(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the row that has these values."""
    [found] = [row for row in rows if all(row[key] == wanted[key] for key in wanted)]
    return found


def table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def filled(text: str) -> str:
    """Return a paragraph in lines of at most 100 characters."""
    return textwrap.fill(text, 100, break_on_hyphens=False) + "\n"


def about(found: dict[str, Any]) -> str:
    """Return the line that says what the figures of a section hold for."""
    machine, versions = found["machine"], found["versions"]
    what = ", ".join(f"{name} {value}" for name, value in versions.items() if value)
    rounds = f"{found['rounds']} rounds" if found["rounds"] > 1 else "one run"
    return filled(
        f"{found['date']}, {rounds}; {machine['processors']} processors ({machine['processor']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}, load before: {found['load_before']}; "
        f"{what}."
    )
