#% if cookiecutter.project_type == "django"
"""The Django project. It loads its Celery app, so that tasks find their configuration."""

from .celery import app as celery_app

__all__ = ["celery_app"]
#% else
"""The service's Celery app, which workers, beat and senders share."""

from .runtime import logs, metrics, poison
#= from .runtime.{{ cookiecutter.broker }} import ReliableCelery

#= app = ReliableCelery("{{ cookiecutter.project_slug }}", include=["celery_app.tasks"])
app.config_from_object("celery_app.celeryconfig")
logs.install(app)
metrics.install(app)
poison.install(app)
#% endif
