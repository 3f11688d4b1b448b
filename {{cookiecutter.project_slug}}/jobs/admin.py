"""The admin: its rows can be searched and deleted, but not added or changed."""

from django.contrib import admin
from django.http import HttpRequest
#% if cookiecutter.result_backend == "database"
from django_celery_results import admin as results
from django_celery_results.models import GroupResult, TaskResult
#% endif

from .models import Job


class ReadOnly:
    """A mixin for admins that neither add nor change rows."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Return False: nobody may."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Return False: nobody may."""
        return False


@admin.register(Job)
class JobAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """The jobs that were started."""

    list_display = ("id", "task", "args", "created", "sent")
    list_filter = ("sent", "task")
    search_fields = ("id", "task")
    ordering = ("-created",)
#% if cookiecutter.result_backend == "database"


# The package's own admins let users edit results of groups and add empty results of tasks.
admin.site.unregister([TaskResult, GroupResult])


@admin.register(TaskResult)
class TaskResultAdmin(ReadOnly, results.TaskResultAdmin):
    """The results of tasks."""


@admin.register(GroupResult)
class GroupResultAdmin(ReadOnly, results.GroupResultAdmin):
    """The results of groups of tasks."""
#% endif
