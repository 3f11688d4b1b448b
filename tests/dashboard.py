"""The dashboard of generated projects, as code: `make dashboard` writes its JSON."""

from pathlib import Path
from typing import NamedTuple

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.timeseries import Panel
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from tests.projects import TEMPLATE

FILE = "deploy/monitoring/grafana/dashboards/tasks.json"


class Graph(NamedTuple):
    """A panel: its title, the queries of its series, each with their names, and their unit."""

    title: str
    queries: dict[str, str]
    unit: str = "short"


def per_second(by: str, which: str) -> str:
    """Return the query for runs of tasks in a second."""
    return f"sum by ({by}) (rate(celery_tasks_total{which}[$__rate_interval]))"


def nine_in_ten(by: str, histogram: str) -> str:
    """Return the query for the time within which nine in ten are done."""
    rate = f"rate(celery_{histogram}_bucket[$__rate_interval])"
    return f"histogram_quantile(0.9, sum by (le, {by}) ({rate}))"


GRAPHS = [
    Graph("Runs a second, by how they ended", {per_second("state", ""): "{{state}}"}),
    Graph(
        "Failed and lost runs a second, by task",
        {per_second("task", '{state=~"FAILURE|LOST"}'): "{{task}}"},
    ),
    Graph(
        "Messages that wait, or are not due yet",
        {
            'max by (__name__, queue) ({__name__=~"celery_queue_(messages|delayed)"})': (
                "{{__name__}} {{queue}}"
            )
        },
    ),
    Graph(
        "Nine in ten tasks start within", {nine_in_ten("queue", "queue_seconds"): "{{queue}}"}, "s"
    ),
    Graph("Nine in ten runs take at most", {nine_in_ten("task", "task_seconds"): "{{task}}"}, "s"),
    Graph("Tasks that run, by worker", {"celery_tasks_running": "{{instance}}"}),
    Graph("Memory, by worker", {"celery_memory_bytes": "{{instance}}"}, "bytes"),
    Graph(
        "What is there",
        {
            "count by (celery_app) (celery_broker_up)": "workers of {{celery_app}}",
            "max by (celery_app) (celery_beat_up)": "beat of {{celery_app}}",
            "min by (celery_app) (celery_broker_up)": "broker of {{celery_app}}",
        },
    ),
]


def text() -> str:
    """Return the dashboard as the JSON that Grafana reads."""
    dashboard = Dashboard("Tasks").uid("celery-tasks").refresh("30s").time("now-1h", "now")
    for graph in GRAPHS:
        panel = Panel().title(graph.title).unit(graph.unit).min(0).span(12).height(7)
        for letter, (query, name) in zip("ABC", graph.queries.items(), strict=False):
            panel.with_target(Dataquery().expr(query).legend_format(name).ref_id(letter))
        dashboard.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=2).encode(dashboard.build()) + "\n"


if __name__ == "__main__":
    path = TEMPLATE / "{{cookiecutter.project_slug}}" / Path(FILE)
    path.write_text(text(), encoding="utf-8")
