"""The app's place in the project."""

from django.apps import AppConfig


class JobsConfig(AppConfig):
    """The app that holds the tasks."""

    name = "jobs"
