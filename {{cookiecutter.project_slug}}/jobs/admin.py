#% set rows = cookiecutter.result_backend == "database"
#% if rows
"""Jobs and results in the admin: there to be searched and cleared away, not to be changed."""
#% else
"""Jobs in the admin: there to be searched and cleared away, not to be changed."""
#% endif

from django.contrib import admin
from django.http import HttpRequest
#% if rows
from django_celery_results import admin as results
from django_celery_results.models import GroupResult, TaskResult
#% endif

from .models import Job


class ReadOnly:
    """What makes an admin show its rows, and neither add nor change any."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Return that nobody may."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:  # noqa: ARG002
        """Return that nobody may."""
        return False


@admin.register(Job)
class JobAdmin(ReadOnly, admin.ModelAdmin):  # type: ignore[type-arg]
    """The jobs that were asked for."""

    list_display = ("id", "task", "args", "created", "sent")
    list_filter = ("sent", "task")
    search_fields = ("id", "task")
    ordering = ("-created",)
#% if rows


# The package lets anyone edit the results of groups, and add empty results of tasks.
admin.site.unregister([TaskResult, GroupResult])


@admin.register(TaskResult)
class TaskResultAdmin(ReadOnly, results.TaskResultAdmin):
    """The results of tasks."""


@admin.register(GroupResult)
class GroupResultAdmin(ReadOnly, results.GroupResultAdmin):
    """The results of groups of tasks."""
#% endif
