"""The Celery app, which workers, beat and the web server share."""

import os

from .reliability import ReliableCelery

#= os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{{ cookiecutter.project_slug }}.settings")

#= app = ReliableCelery("{{ cookiecutter.project_slug }}")
# Its configuration: the names in `settings.py` that begin with CELERY_.
app.config_from_object("django.conf:settings", namespace="CELERY")
# Its tasks: every `tasks.py` of an installed app.
app.autodiscover_tasks()
