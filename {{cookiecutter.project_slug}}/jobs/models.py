"""The jobs that were started."""

import uuid

from django.db import models


class Job(models.Model):
    """A task that a user started; the id of the row is the id of the task."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    task = models.CharField(max_length=200)
    args = models.JSONField(default=list)
    created = models.DateTimeField(auto_now_add=True, db_index=True)
    sent = models.BooleanField(default=False, help_text="The broker has taken it.")

    class Meta:
        """The index for jobs that were not sent."""

        # Those that wait for the broker are found among millions that do not.
        indexes = (
            models.Index(
                fields=["created"], name="jobs_job_waiting", condition=models.Q(sent=False)
            ),
        )

    def __str__(self) -> str:
        """Return the task and the id."""
        return f"{self.task} {self.id}"

    @property
    def call(self) -> str:
        """Return how the task was called: ``add(2, 3)``."""
        name = self.task.rpartition(".")[2]
        return f"{name}({', '.join(map(repr, self.args))})"
