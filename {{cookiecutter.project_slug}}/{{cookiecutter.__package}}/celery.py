"""The Celery app, which workers, beat and the web server share."""

import os

from .runtime import logs, metrics, poison
from .runtime.django import ReliableDjangoTask
#= from .runtime.{{ cookiecutter.broker }} import ReliableCelery

#= os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{{ cookiecutter.project_slug }}.settings")

#= app = ReliableCelery("{{ cookiecutter.project_slug }}", task_cls=ReliableDjangoTask)
# The settings in `settings.py` whose names begin with CELERY_.
app.config_from_object("django.conf:settings", namespace="CELERY")
# The `tasks.py` of each installed app.
app.autodiscover_tasks()
logs.install(app)
metrics.install(app)
poison.install(app)
