"""The configuration of the app."""

from django.apps import AppConfig


class JobsConfig(AppConfig):
    """The app with the tasks."""

    name = "jobs"
