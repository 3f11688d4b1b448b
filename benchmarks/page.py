"""Writes all pages and plots from the result files: `python -m benchmarks.page`.

`tests/test_benchmarks.py` fails if a page differs from what is written here.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import generation, lab
from benchmarks.lab import DJANGO, GENERATED, TINY, TUTORIAL
from benchmarks.scaling import scaling
from benchmarks.tables import BROKERS, SETTINGS, about, filled, number, ratio, row_of, shown, table

HERE = Path(__file__).parent
README = lab.ROOT / "README.md"
PLOTS = HERE / "plots"


# --- Sections of the page ---------------------------------------------------------------------


def of_generation(figures: list[dict[str, Any]]) -> str:
    """Return the tables of generation."""
    parts = []
    for condition in generation.CONDITIONS:
        rows = [row for row in figures if row["condition"] == condition]
        base = row_of(rows, command=generation.ONE_FILE)
        cells = [
            [
                row["command"],
                shown(row["seconds"]),
                ratio(lab.ratios(row["seconds"], base["seconds"])),
                shown(row["peak_mib"]),
            ]
            for row in rows
        ]
        parts.append(table([condition, "seconds", "ratio to one file", "peak MiB"], cells))
    return "\n".join(parts)


def of_first_result(figures: dict[str, Any]) -> str:
    """Return the tables of the way to the first result."""
    rows = []
    for kind, steps in figures["steps"].items():
        total = [sum(each) for each in zip(*steps.values(), strict=True)]
        rows.append([kind, *map(shown, steps.values()), shown(total)])
    text = table(["seconds", *next(iter(figures["steps"].values())), "in all"], rows)
    if "demo" in figures:
        text += f"\n`make demo` on a fresh clone: {shown(figures['demo']['make demo'])} s.\n"
    own, base = figures["ready"][GENERATED], figures["ready"][TUTORIAL]
    return f"{text}\n" + filled(
        f"A worker is ready after {shown(own)} s, one with the tutorial's settings and the "
        f"default flags after {shown(base)} s: {ratio(lab.ratios(own, base))} of its time."
    )


def of_throughput(figures: dict[str, Any]) -> str:
    """Return the tables of throughput."""
    rows = figures["tasks"]
    keys = sorted({(row["seconds"], not row["results"], row["processes"]) for row in rows})
    parts = []
    for seconds, ignored, processes in keys:
        same = [
            row
            for row in rows
            if (row["seconds"], row["results"], row["processes"])
            == (seconds, not ignored, processes)
        ]
        base = row_of(same, broker="redis", settings=TUTORIAL)
        cells = [
            [
                BROKERS[row["broker"]],
                SETTINGS[row["settings"]],
                shown(row["per_second"]),
                ratio(lab.ratios(row["per_second"], base["per_second"])),
                shown(row["processor_ms"]),
            ]
            for row in same
        ]
        results = "results ignored" if ignored else "results kept"
        head = f"{1000 * seconds:.0f} ms, {processes} processes, {results}"
        heads = ["broker", head, "tasks a second", "ratio", "processor ms a task"]
        parts.append(table(heads, cells))
    base = figures["beside"][0]
    cells = [
        [
            row["with"],
            shown(row["per_second"]),
            ratio(lab.ratios(row["per_second"], base["per_second"])),
            shown(row["processor_ms"]),
        ]
        for row in figures["beside"]
    ]
    heads = ["empty tasks, on Redis, with", "tasks a second", "ratio", "processor ms a task"]
    return "\n".join([*parts, table(heads, cells)])


def of_latency(figures: dict[str, Any]) -> str:
    """Return the tables of latency."""
    rows = [
        [
            BROKERS[row["broker"]],
            SETTINGS[row["settings"]],
            f"{row['state']}, {number(row['rate'])} tasks a second",
            shown(row["p50_ms"]),
            shown(row["p99_ms"]),
        ]
        for row in figures["tasks"]
    ]
    text = table(["broker", "settings", "the worker is", "p50, ms", "p99, ms"], rows)
    views = [
        [BROKERS[row["broker"]], shown(row["p50_ms"]), shown(row["p99_ms"])]
        for row in figures["web"]
    ]
    heads = ["the web view's 202, under gunicorn", "p50, ms", "p99, ms"]
    return f"{text}\n{table(heads, views)}"


def of_producers(figures: dict[str, Any]) -> str:
    """Return the tables of what is sent."""
    rows = [
        [
            BROKERS[row["broker"]],
            SETTINGS[row["settings"]],
            shown(row["delay_per_second"]),
            shown(row["chunks_per_second"]),
            ratio(lab.ratios(row["chunks_per_second"], row["delay_per_second"])),
        ]
        for row in figures["delay"]
    ]
    text = table(["broker", "settings", "`delay` a second", "in chunks of 100", "ratio"], rows)
    views = [[BROKERS[row["broker"]], shown(row["per_second"])] for row in figures["web"]]
    return f"{text}\n{table(['the web view, 8 clients', 'requests a second'], views)}"


def of_reload(figures: dict[str, Any]) -> str:
    """Return the table of reloads."""
    rows = [[kind, shown(seconds)] for kind, seconds in figures.items()]
    return table(["from a save to a worker that is ready", "seconds"], rows)


def of_long_run(figures: dict[str, Any]) -> str:
    """Return the table of the long run."""
    rows = []
    for broker, label in BROKERS.items():
        if found := figures.get(broker):
            counts = [found[key] for key in ("accepted", "lost", "stuck", "twice")]
            memory = f"{found['mib_first_third']:.0f}, {found['mib_last_third']:.0f}"
            rows.append([label, number(found["rate"]), *counts, memory])
    heads = ["broker", "tasks a second", "accepted", "lost", "stuck", "run twice"]
    minutes = f"{figures['minutes']:g} min"
    text = table([*heads, "MiB of a main process, first and last third"], rows)
    plots = [f"![{label}: tasks, queue and memory over {minutes}](plots/long_run_{broker}.svg)"
             for broker, label in BROKERS.items() if broker in figures]  # fmt: skip
    return "\n\n".join([text.rstrip(), *plots]) + "\n"


class Section(NamedTuple):
    """A part of the page, with the name of its result file."""

    name: str
    title: str
    text: str
    tables: Callable[[Any], str]
    plot: str = ""


SECTIONS = [
    Section(
        "generation",
        "Generation",
        'Whole commands. "One file" is the smallest template there is, and "first answers" this\n'
        "template with its defaults. In a first run, right after an installation, Python has no\n"
        "byte code of cookiecutter yet.\n"
        '`make bench ARGS="generation --template PATH"` adds another template.',
        of_generation,
    ),
    Section(
        "first_result",
        "The first result",
        "From nothing, on Redis; the packages are in uv's cache.",
        of_first_result,
    ),
    Section(
        "throughput",
        "Throughput",
        "A worker empties a queue that was filled before. Ratios are to the tutorial's settings\n"
        'on Redis, with early acknowledgement. "For tiny tasks" follows the recipe for tasks of\n'
        "milliseconds of a project: a higher prefetch, no results, log level WARNING.",
        of_throughput,
        "![Ratios of throughput to the tutorial's settings on Redis](plots/throughput.svg)",
    ),
    Section(
        "latency",
        "Latency",
        "From publish to start, two processes. Busy is 80 % of what the slowest of them is able\n"
        "to do in tasks of 10 ms, at random moments.",
        of_latency,
    ),
    Section(
        "producers",
        "Producers",
        "One process that sends, and gunicorn as generated.",
        of_producers,
    ),
    Section("reload", "Reload", "`honcho start`, on Redis.", of_reload),
    Section(
        "long_run",
        "A long run",
        "At 80 % of what two workers are able to do, in tasks of 20 ms: a worker is killed, two\n"
        "come and go, the broker restarts, and a worker is replaced.",
        of_long_run,
    ),
]


HEAD = """\
# Benchmarks

`make bench` measures all of this and writes this page, the plots, and
[docs/scaling.md](../docs/scaling.md); `make bench-quick` does it in minutes, with fewer rounds.
`make bench ARGS="throughput latency"` measures some of it, and `BENCH_MINUTES` is the length of the
long run. Nothing else should run on the machine.

A ratio is the median of the ratios within the rounds of one run, in which each contestant has its
turn; the brackets hold the half of the values around the median. Figures of different runs cannot
be compared.
"""


def page() -> str:
    """Return the page of the results."""
    parts = [HEAD]
    for section in SECTIONS:
        if found := lab.load(section.name):
            tables = section.tables(found["figures"])
            plot = f"{section.plot}\n\n" if section.plot else ""
            text = f"## {section.title}\n\n{section.text}\n\n{plot}{tables}\n{about(found)}"
            parts.append(text)
    return "\n".join(parts)


# --- What other files quote -------------------------------------------------------------------


def chunks_ratio(broker: str) -> str:
    """Return how many times faster the recipe sends than a loop, in round figures."""
    row = row_of(lab.load("producers")["figures"]["delay"], broker=broker, settings=GENERATED)
    found = lab.spread(lab.ratios(row["chunks_per_second"], row["delay_per_second"]))[0]
    return str(int(float(f"{found:.1g}")))


class Quote(NamedTuple):
    """A sentence of another file with figures in it, as `str.format` takes it."""

    file: Path
    text: str
    figures: Callable[[], list[str]]

    @property
    def pattern(self) -> str:
        """A regular expression for the sentence with any figures."""
        parts = self.text.format(*["\0"] * self.text.count("{}")).split("\0")
        return r"[\d.,]+".join(map(re.escape, parts))

    def current(self) -> str:
        """Return the sentence with the figures of the results."""
        return self.text.format(*self.figures())


QUOTES = [
    Quote(
        lab.ROOT / "{{cookiecutter.project_slug}}" / "docs" / "recipes.md",
        '{{{{ {} if cookiecutter.broker == "redis" else {} }}}} times as fast as a loop of `delay`',
        lambda: [chunks_ratio("redis"), chunks_ratio("rabbitmq")],
    ),
]


def speed() -> str:
    """Return the table of the README of the repository."""
    found = lab.load("throughput")["figures"]["tasks"]
    chosen = [("redis", TUTORIAL), ("redis", DJANGO), ("redis", GENERATED), ("redis", TINY)]
    chosen += [("rabbitmq", GENERATED), ("rabbitmq", TINY)]
    rows = []
    for broker, settings in chosen:
        cells = []
        for seconds in (0.0, 0.01):
            same = {"processes": 2, "results": True, "seconds": seconds}
            row = row_of(found, broker=broker, settings=settings, **same)
            base = row_of(found, broker="redis", settings=TUTORIAL, **same)
            values = lab.ratios(row["per_second"], base["per_second"])
            cells.append(f"{lab.spread(values)[0]:.2f}")
        rows.append([f"{BROKERS[broker]}, {SETTINGS[settings]}", *cells])
    return table(["throughput, ratio", "empty tasks", "tasks of 10 ms"], rows)


MARKS = ("<!-- speed -->\n", "<!-- /speed -->")


def texts() -> dict[Path, str]:
    """Return the text of each file that the results are in."""
    readme = README.read_text("utf-8")
    before, _, rest = readme.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    found = {
        HERE / "README.md": page(),
        lab.ROOT / "docs" / "scaling.md": scaling(),
        README: "".join([before, MARKS[0], speed(), MARKS[1], after]),
    }
    for quote in QUOTES:
        text = found.get(quote.file) or quote.file.read_text("utf-8")
        changed, count = re.subn(quote.pattern, quote.current(), text)
        if count != 1:
            raise ValueError(f"{quote.file} has {count} times: {quote.text}")
        found[quote.file] = changed
    return found


def main() -> None:
    """Write the pages and the plots."""
    for path, text in texts().items():
        path.write_text(text, encoding="utf-8", newline="\n")
    from benchmarks import plots  # noqa: PLC0415  # the tests have no matplotlib

    plots.draw(PLOTS)


if __name__ == "__main__":
    main()
