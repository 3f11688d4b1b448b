"""A service at work that a real Prometheus watches, with the files that the project has for it."""

import contextlib
import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests import servers
from tests.dashboard import FILE
from tests.projects import BakedProject
from tests.service import Service

INTERVAL = "1s"  # between two looks of Prometheus
WINDOW = "10s"  # what Grafana would take for $__rate_interval
# Calls that succeed, and some that fail.
LOAD = """
import time
from {tasks} import add
while True:
    for y in (1, 2, 3, "none"):
        add.delay(1, y)
        time.sleep(0.05)
"""
# A message that no worker knows: a dead letter.
BURY = "from {package} import {app} as app; app.send_task('nobody.knows')"


class Prometheus:
    """What a Prometheus knows."""

    def __init__(self, url: str) -> None:
        """Know where it is."""
        self.url = url

    def ask(self, path: str, **words: object) -> Any:  # noqa: ANN401  # as JSON
        """Return the data of an answer of its API."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the values of the series that an expression has now."""
        found = self.ask("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}


def queries(project: BakedProject) -> dict[str, str]:
    """Return the queries of the dashboard, each with the names of its series."""
    dashboard = json.loads(project.read(FILE))
    return {
        target["expr"].replace("$__rate_interval", WINDOW): target["legendFormat"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


@contextlib.contextmanager
def watched(service: Service, home: Path) -> Iterator[Prometheus]:
    """Run two workers, beat and a load, and a Prometheus that looks at the workers."""
    project = service.project
    service.env |= {
        "DATABASE_URL": f"sqlite:///{service.directory / 'db.sqlite3'}",
        "HEARTBEAT_DIR": str(service.directory),
    }
    django = (project.path / "manage.py").exists()
    ports = [servers.free_port(), servers.free_port()]
    for port in ports:
        service.worker(name=f"worker{port}", env={"METRICS_PORT": str(port)})
    service.beat()
    configuration = yaml.safe_load(project.read("deploy/monitoring/prometheus.yml"))
    configuration["global"] = dict.fromkeys(configuration["global"], INTERVAL)
    [job] = configuration["scrape_configs"]
    # What the name server of Compose says.
    [names] = job.pop("dns_sd_configs")
    assert names["names"] == ["worker"]
    assert re.search(rf"METRICS_PORT={names['port']}\b", project.read("Dockerfile"))
    job["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    (home / "alerts.yaml").write_text(project.read("deploy/monitoring/alerts.yaml"))
    (home / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with servers.prometheus(home / "prometheus.yml", home) as url:
        tasks = "jobs.tasks" if django else "celery_app.tasks"
        shell = ("manage.py", "shell", "--command") if django else ("-c",)
        service.start("uv", "run", "python", *shell, LOAD.format(tasks=tasks))
        yield Prometheus(url)
