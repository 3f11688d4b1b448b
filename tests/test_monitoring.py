"""What watches a generated service: its alerts, and its dashboard, on a real Prometheus."""

import math
import re
from pathlib import Path

import pytest
import yaml

from tests import servers
from tests.dashboard import FILE, text
from tests.monitoring import BURY, queries, watched
from tests.projects import COMBINATIONS, TEMPLATE, Bake
from tests.service import Service, wait_until
from tests.test_quality import AWKWARD

DIRECTORY = Path("deploy", "monitoring")


@pytest.mark.parametrize(
    "answers", [COMBINATIONS[0], COMBINATIONS[9] | AWKWARD], ids=["plain", "awkward"]
)
def test_the_alerts_fire_when_they_should(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    promtool = servers.prometheus_command("promtool")
    project.run(promtool, "check", "config", DIRECTORY / "prometheus.yml")
    rules = project.run(promtool, "test", "rules", DIRECTORY / "alerts_test.yaml").stdout
    assert "SUCCESS" in rules
    # None of them was forgotten.
    alerts = project.read(f"{DIRECTORY}/alerts.yaml")
    [group] = yaml.safe_load(alerts)["groups"]
    tested = re.findall(r"alertname=\"(\w+)", project.read(f"{DIRECTORY}/alerts_test.yaml"))
    assert {rule["alert"] for rule in group["rules"]} == set(tested)
    # The first limit in the file is that of the worker.
    limit = re.search(r"mem_limit: (\d+)([mg])", project.read("compose.yaml"))
    assert limit
    power = {"m": 20, "g": 30}[limit[2]]
    [memory] = [rule["expr"] for rule in group["rules"] if rule["alert"] == "MemoryNearLimit"]
    assert memory.split()[:2] == ["(", "celery_memory_bytes"]
    assert memory.endswith(f") > 0.9 * {limit[1]} * 2^{power}\n")


def test_the_dashboard_is_what_its_code_says() -> None:
    kept = (TEMPLATE / "{{cookiecutter.project_slug}}" / FILE).read_text(encoding="utf-8")
    assert kept == text(), "make dashboard"


@pytest.mark.parametrize(("project_type", "kind"), [("celery", "rabbitmq"), ("django", "redis")])
def test_prometheus_finds_data_for_every_query_and_fires(
    synced: Bake, tmp_path: Path, project_type: str, kind: str
) -> None:
    project = synced(project_type=project_type, broker=kind, result_backend="none")
    with (
        servers.addresses(kind, "none") as urls,
        Service(project, urls["CELERY_BROKER_URL"]) as service,
        watched(service, tmp_path) as prometheus,
    ):
        app = "app" if project_type == "celery" else "celery_app"
        service.python(BURY.format(package=project.package, app=app))
        wait_until(lambda: "DeadLetters" in prometheus.firing(), "no alert fires")
        for query, name in queries(project).items():

            def found(query: str = query) -> bool:
                values = [value for _, value in prometheus.query(query)]
                return bool(values) and all(map(math.isfinite, values))

            wait_until(found, f"no data: {query}")
            series = prometheus.query(query)
            print(query, *series, sep="\n    ")  # noqa: T201  # what there was, if a test fails
            for labels, _ in series:
                assert set(re.findall(r"{{(\w+)}}", name)) <= set(labels), query
        groups = prometheus.ask("rules")["groups"]
        assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}
        assert prometheus.firing() == {"DeadLetters"}
        both = [({"celery_app": "my_service"}, 2.0)]
        wait_until(
            lambda: prometheus.query("count by (celery_app) (celery_broker_up == 1)") == both,
            "a worker is missing",
        )
