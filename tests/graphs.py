"""A picture of the dashboard's series, as a real Prometheus has them: `make screenshots`.

Grafana itself is not needed: matplotlib draws what the queries of the dashboard answer.
"""

import contextlib
import math
import sys
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from demo import generate, read
from tests import servers
from tests.dashboard import GRAPHS, Graph
from tests.monitoring import BURY, WINDOW, Prometheus, watched
from tests.screenshots import DOCS
from tests.service import Service, wait_until

LENGTH = 40  # seconds of each part of the story
MIB = 2**20
# More than the workers can do, for a while; and some that are not due.
MORE = """
from celery_app.tasks import add, report
for number in range(30):
    report.delay(1)
    add.apply_async((1, 1), countdown=number)
"""


def wait(prometheus: Prometheus, seconds: int) -> None:
    """Wait until there is so much to show: Prometheus looks once a second."""
    query = "max(count_over_time(celery_broker_up[1h]))"
    wait_until(
        lambda: any(count >= seconds for _, count in prometheus.query(query)), "nothing is new"
    )


def draw(axes: Axes, graph: Graph, prometheus: Prometheus, end: float) -> None:
    """Draw a panel of the dashboard."""
    axes.set_title(graph.title, fontsize=9, loc="left")
    for query, name in graph.queries.items():
        expression = query.replace("$__rate_interval", WINDOW)
        begin = end - 3 * LENGTH
        found = prometheus.ask("query_range", query=expression, start=begin, end=end, step=1)
        for series in found["result"]:
            scale = MIB if graph.unit == "bytes" else 1
            times = [at - begin for at, _ in series["values"]]
            values = [float(value) / scale for _, value in series["values"]]
            label = name
            for key, value in series["metric"].items():
                label = label.replace(f"{{{{{key}}}}}", value)
            if not all(map(math.isnan, values)):
                axes.plot(times, values, label=label, linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_ylabel({"s": "seconds", "bytes": "MiB"}.get(graph.unit, ""), fontsize=7)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="best")


def picture(service: Service, home: Path) -> None:
    """Let a service work, have too much to do, and lose a worker and beat; draw that."""
    with watched(service, home) as prometheus:
        wait(prometheus, LENGTH)
        service.python(MORE)
        service.python(BURY.format(package="celery_app", app="app"))
        wait(prometheus, 2 * LENGTH)
        first, _, beat, *_ = service.processes
        first.stop()
        beat.stop()
        wait(prometheus, 3 * LENGTH)
        [(_, end)] = prometheus.query("vector(time())")
        figure, rows = plt.subplots(4, 2, figsize=(12, 12), layout="constrained")
        for axes, graph in zip(rows.flat, GRAPHS, strict=True):
            draw(axes, graph, prometheus, end)
        figure.savefig(DOCS / "dashboard.png", dpi=80)


def main() -> None:
    """Write the picture, or say in one line why that cannot be."""
    with servers.session() as directory, contextlib.ExitStack() as stack:
        try:
            project = generate(read([]), directory)
            project.sync()
            url = stack.enter_context(servers.valkey())
            service = stack.enter_context(Service(project, f"{url}/0", f"{url}/1"))
            picture(service, directory)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            sys.exit(f"screenshots: {error.msg}")


if __name__ == "__main__":
    main()
