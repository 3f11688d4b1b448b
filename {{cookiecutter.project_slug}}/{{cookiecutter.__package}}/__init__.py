#% if cookiecutter.project_type == "django"
"""The Django project; its Celery app is loaded with it, so that tasks find their configuration."""

from .celery import app as celery_app

__all__ = ["celery_app"]
#% else
"""The service's Celery app, which workers, beat and senders share."""

from .reliability import ReliableCelery

#= app = ReliableCelery("{{ cookiecutter.project_slug }}", include=["celery_app.tasks"])
# Its configuration: a module of its own.
app.config_from_object("celery_app.celeryconfig")
#% endif
