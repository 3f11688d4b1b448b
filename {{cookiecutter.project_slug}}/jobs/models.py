"""What the service remembers of its jobs."""

import uuid

from django.db import models


class Job(models.Model):
    """A task that somebody asked for; its row's id is the task's id."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    task = models.CharField(max_length=200)
    args = models.JSONField(default=list)
    created = models.DateTimeField(auto_now_add=True, db_index=True)
    sent = models.BooleanField(default=False, help_text="The broker has taken it.")

    def __str__(self) -> str:
        """Return what it is and which."""
        return f"{self.task} {self.id}"

    @property
    def call(self) -> str:
        """Return how the task was called: ``add(2, 3)``."""
        name = self.task.rpartition(".")[2]
        return f"{name}({', '.join(map(repr, self.args))})"
