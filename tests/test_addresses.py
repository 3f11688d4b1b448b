"""Several addresses of RabbitMQ: those that do not answer cost each process one look."""

import contextlib
from pathlib import Path

from tests import proxy, servers
from tests.projects import Bake
from tests.proxy import Way
from tests.service import Service, wait_until
from tests.test_metrics import UP, scrape

SEND = """
from celery_app.tasks import add
for number in range(20):
    add.delay(number, 1)
"""


def test_addresses_that_refuse_or_say_nothing_fail_nobody_and_are_asked_once(
    synced: Bake, tmp_path: Path
) -> None:
    project = synced(project_type="celery", broker="rabbitmq", result_backend="none")
    with contextlib.ExitStack() as stack:
        broker = stack.enter_context(proxy.rabbitmq())
        silent, refusing = (stack.enter_context(proxy.proxied()) for _ in range(2))
        refusing.set(Way.DOWN)
        other = [
            broker.url.replace(str(broker.proxy.port), str(each.port))
            for each in (silent, refusing)
        ]
        metrics = servers.free_port()
        env = {"HEARTBEAT_DIR": str(tmp_path), "METRICS_PORT": str(metrics)}
        urls = ";".join([*other, broker.url])
        service = stack.enter_context(Service(project, urls, env=env))
        # With all that Celery has a worker do when it starts, and on as many connections.
        worker = service.worker()
        assert silent.accepted == 1
        python = project.path / ".venv" / "bin" / "python"
        service.run(python, "-c", SEND)
        assert silent.accepted == 2
        wait_until(lambda: worker.output.count(" succeeded in ") == 20, "the tasks are not done")
        assert scrape(metrics)[UP] == 1
        assert silent.accepted == 2
        said = service.run(python, "-m", "celery_app.runtime.dead_letters").stdout
        assert said == "0 dead letters\n"
        assert "worker@" in service.run(python, "-m", "celery", "-A", "celery_app", "status").stdout
        assert silent.accepted == 4

        # The one that answered is lost, another one comes back: it is found.
        silent.upstream, broker.proxy.upstream = broker.proxy.upstream, None
        silent.set(Way.UP)
        broker.proxy.set(Way.DOWN)
        service.run(python, "-c", SEND)
        wait_until(lambda: worker.output.count(" succeeded in ") == 40, "the tasks are not done")
        assert worker.stop() == 0
