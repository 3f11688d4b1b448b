"""RabbitMQ grows from one node to three, and goes on without one of them."""

import contextlib
import re
from pathlib import Path

import pytest

from tests.cluster import SIZE, Cluster
from tests.cluster_faults import Lab
from tests.projects import Bake
from tests.service import wait_until
from tests.test_readme import blocks

pytestmark = pytest.mark.faults


def grow(cluster: Cluster, readme: str) -> None:
    """Do what the README of a project says, with each new node."""
    section = readme.split("#### From one node to three")[1]
    first, *others = cluster.nodes
    join, copy = blocks(section, "console")[:2]
    for block, runs_on in ((join, others), (copy, [first] * len(others))):
        for node, new in zip(runs_on, others, strict=True):
            for line in block.replace("rabbit@one", first.name).splitlines():
                node.run(*line.replace("rabbit@two", new.name).split())
    cluster.start()


def healthy(lab: Lab) -> bool:
    """Tell what the health probe says of the workers."""
    probe = (lab.python, "celery_app/runtime/health.py", "worker")
    return lab.service.run(*probe, check=False).returncode == 0


@pytest.mark.timeout(900)
def test_a_broker_grows_to_three_nodes_and_workers_and_senders_go_on_without_one(
    synced: Bake, tmp_path: Path
) -> None:
    project = synced(project_type="celery", broker="rabbitmq", result_backend="none")
    with contextlib.ExitStack() as stack:
        cluster = Cluster(stack, tmp_path)
        one, two, _ = cluster.nodes
        lab = Lab(stack, cluster, project, "ours", home=one)
        celery = (lab.python, "-m", "celery", "-A", "celery_app")
        lab.service.run(*celery, "control", "revoke", "nobody")

        grow(cluster, project.read("README.md"))
        cluster.wait(lambda: cluster.coordinators() == SIZE, "the streams are not coordinated")
        kept = cluster.queues()
        assert {"my_service", "my_service.revoked"} < {queue["name"] for queue in kept}
        assert [queue["name"] for queue in kept if len(queue["members"]) != SIZE] == []
        lab.progress(20)

        # Without the node that all are connected to, and that has led every queue.
        one.kill()
        lab.progress(20)
        name = lab.worker().command[-1]
        assert f"celery@{name}" in lab.service.run(*celery, "status").stdout
        assert f"celery@{name}" in lab.service.run(*celery, "inspect", "active").stdout
        lab.service.run(*celery, "control", "revoke", "somebody")
        assert lab.workers.pop().stop() == 0
        assert [error for *_, error in lab.calls() if error] == []
        # The worker that has ended took the file with it.
        wait_until(lambda: healthy(lab), "the workers are not healthy")

        # A task that comes again is counted, and RabbitMQ takes 5 seconds now to delete a count.
        gate = lab.directory / "gate"
        gate.touch()
        lab.code(f"send({len(lab.workers)}, 0, '', [])")
        wait_until(lambda: "wait t0" in lab.notes.read_text(), "no task waits at the gate")
        for worker in lab.workers:
            worker.kill()
        gate.unlink()
        lab.workers = [lab.worker() for _ in lab.workers]
        before = len(lab.ends())
        lab.progress(300)
        assert len(lab.ends()) >= before + 300

        # Without a majority, nothing can be done, and everybody is told.
        two.kill()
        wait_until(lambda: not healthy(lab), "the probe does not notice")
        wait_until(lambda: any(error for *_, error in lab.calls()), "no call fails")
        start = lab.last()
        cluster.start(one, two)
        lab.progress(50)
        wait_until(lambda: healthy(lab), "the workers are not healthy again")
        outcome = lab.outcome(start)
        print(f"measured: {outcome}")  # noqa: T201
        assert (outcome.lost, outcome.stuck, outcome.ended) == (0, 0, 0)
        for error in outcome.errors:
            assert re.search(r"RabbitMQ (does not confirm|refuses)|reached|refused", error), error
