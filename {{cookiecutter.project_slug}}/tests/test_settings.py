"""Guards for later edits of the settings."""

import inspect
from datetime import timedelta

import pytest
from celery import current_app as app
from celery.schedules import BaseSchedule

#= from {{ cookiecutter.__package }}.runtime.checks import errors

ENTRIES = app.conf.beat_schedule


def test_a_worker_and_beat_start_with_these_settings() -> None:
    """They refuse names that Celery does not know, and values that cannot work."""
    assert errors(app) == []


@pytest.mark.parametrize("name", ENTRIES)
def test_every_beat_entry_names_a_task_and_fits_its_signature(name: str) -> None:
    """Beat sends any entry; only the worker would notice that it is wrong."""
    entry = ENTRIES[name]
    task = app.tasks[entry["task"]]
    inspect.signature(task.run).bind(*entry.get("args", ()), **entry.get("kwargs", {}))


@pytest.mark.parametrize("name", ENTRIES)
def test_every_beat_entry_has_a_schedule(name: str) -> None:
    """An interval, or times of day."""
    assert isinstance(ENTRIES[name]["schedule"], timedelta | BaseSchedule)


def test_a_task_can_clean_up_before_it_is_killed() -> None:
    """The soft limit comes first."""
    assert 0 < app.conf.task_soft_time_limit < app.conf.task_time_limit


def test_only_json_is_accepted() -> None:
    """Anything else could run code."""
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == app.conf.result_serializer == "json"
