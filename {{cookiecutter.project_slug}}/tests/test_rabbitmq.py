"""What only RabbitMQ asks for."""

import uuid
from pathlib import Path

import pytest
from celery import current_app as app

#= from {{ cookiecutter.__tasks }} import add

from .worker import Worker


def test_no_task_outlasts_the_consumer_timeout() -> None:
    """RabbitMQ closes the channel of a worker that acknowledges nothing for 30 minutes."""
    for task in app.tasks.values():
        assert (task.time_limit or app.conf.task_time_limit) < 30 * 60, task.name


#= @pytest.mark.usefixtures("broker"{{ ', "transactional_db"' if cookiecutter.project_type == "django" }})
def test_a_delayed_task_that_no_worker_expects_is_done_when_one_starts(tmp_path: Path) -> None:
    """The sender has told the broker where it belongs, although the queue is new."""
    name = f"tests-{uuid.uuid4()}"
    result = add.apply_async((20, 22), queue=name, countdown=0.5)
    with Worker(tmp_path / "delayed.log", "--queues", name) as worker:
        worker.wait_for(f"[{result.id}] succeeded")
    with app.connection_for_write() as connection:
        app.amqp.queues[name].bind(connection.default_channel).delete()
