"""Django: tasks that are sent when a transaction is committed."""

import logging
from typing import Any

from celery.contrib.django.task import DjangoTask
from django.db import transaction
from kombu.exceptions import OperationalError

from .app import ReliableTask

logger = logging.getLogger(__name__)


class ReliableDjangoTask(ReliableTask, DjangoTask[..., Any]):
    """The base class of all tasks in a Django project."""

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Send the task with these arguments when the transaction is committed."""
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, *args: Any, **options: Any) -> None:  # type: ignore[override]
        """Send the task when the transaction is committed, with the options of `apply_async`.

        If the broker cannot be reached, that is logged and nothing is raised: the rows are
        committed, and later hooks must run.
        """

        def send() -> None:
            try:
                self.apply_async(*args, **options)
            except OperationalError as error:
                logger.error("could not send %s%r: %s", self.name, args, error)  # noqa: TRY400

        transaction.on_commit(send, robust=True)
