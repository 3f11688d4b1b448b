"""The plots of the page, as SVG: the same results give the same bytes."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

from benchmarks import lab
from benchmarks.lab import TUTORIAL
from benchmarks.tables import BROKERS, SETTINGS, row_of

mpl.rcParams.update({"svg.hashsalt": "benchmarks", "svg.fonttype": "none", "font.size": 9})


def save(figure: Any, path: Path) -> None:  # noqa: ANN401
    """Write a figure without the time at which it was drawn."""
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def throughput(found: dict[str, Any], path: Path) -> None:
    """Draw the ratios of each contestant, for two processes and results that are kept."""
    rows = [row for row in found["tasks"] if row["processes"] == 2 and row["results"]]
    kinds = sorted({row["seconds"] for row in rows})
    names = list(dict.fromkeys((row["broker"], row["settings"]) for row in rows))
    figure, axes = plt.subplots(1, len(kinds), figsize=(3 + 2.6 * len(kinds), 3.2), sharey=True)
    for axis, seconds in zip(axes, kinds, strict=True):
        same = [row for row in rows if row["seconds"] == seconds]
        base = row_of(same, broker="redis", settings=TUTORIAL)["per_second"]
        for place, (broker, settings) in enumerate(reversed(names)):
            own = row_of(same, broker=broker, settings=settings)["per_second"]
            middle, least, most = lab.spread(lab.ratios(own, base))
            axis.barh(place, middle, color="#4c78a8" if broker == "redis" else "#f58518")
            axis.plot([least, most], [place, place], color="black", linewidth=1)
        axis.axvline(1, color="grey", linewidth=0.8)
        axis.set_title(f"tasks of {1000 * seconds:.0f} ms")
        axis.set_yticks(range(len(names)))
        axis.set_yticklabels(
            [f"{BROKERS[broker]}, {SETTINGS[settings]}" for broker, settings in reversed(names)]
        )
    save(figure, path)


def long_run(found: dict[str, Any], path: Path) -> None:
    """Draw tasks, queue and memory over time, and what happened."""
    samples = found["samples"]
    minutes = [each["seconds"] / 60 for each in samples]
    done = [each["done"] for each in samples]
    rates = [
        (done[i] - done[max(0, i - 5)]) / max(0.1, 60 * (minutes[i] - minutes[max(0, i - 5)]))
        for i in range(len(samples))
    ]
    lines = {
        "tasks a second": [rates],
        "waiting messages": [[each["queued"] for each in samples]],
        "MiB of each main process": [
            [each["mib"][k] if k < len(each["mib"]) else None for each in samples]
            for k in range(max(len(each["mib"]) for each in samples))
        ],
    }
    figure, axes = plt.subplots(len(lines), 1, figsize=(8, 6), sharex=True)
    for axis, (name, values) in zip(axes, lines.items(), strict=True):
        for each in values:
            axis.plot(minutes, [float("nan") if v is None else v for v in each], linewidth=1)
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
        for seconds, _ in found["events"]:
            axis.axvline(seconds / 60, color="grey", linewidth=0.8, linestyle=":")
    for seconds, name in found["events"]:
        axes[0].annotate(name, (seconds / 60, 0), rotation=90, fontsize=7, va="bottom")
    axes[-1].set_xlabel("minutes")
    save(figure, path)


def backlog(figures: dict[str, Any], path: Path) -> None:
    """Draw what a worker does in front of a backlog."""
    figure, axis = plt.subplots(figsize=(6, 3))
    for broker, label in BROKERS.items():
        rows = figures[broker]["backlog"]
        sizes, rates = zip(*((row["backlog"], row["per_second"]) for row in rows), strict=True)
        axis.plot(sizes, rates, marker="o", label=label)
    axis.set(xscale="log", xlabel="messages that wait", ylabel="empty tasks a second")
    axis.set_ylim(bottom=0)
    axis.legend()
    save(figure, path)


def draw(directory: Path) -> None:
    """Draw all for which there are results."""
    directory.mkdir(exist_ok=True)
    if found := lab.load("throughput"):
        throughput(found["figures"], directory / "throughput.svg")
    if found := lab.load("scale"):
        backlog(found["figures"], directory / "backlog.svg")
    for broker in BROKERS:
        if found := lab.load("long_run").get("figures", {}).get(broker, {}):
            long_run(found, directory / f"long_run_{broker}.svg")
