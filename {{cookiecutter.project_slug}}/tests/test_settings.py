"""What keeps later edits of the settings safe."""

import inspect
#% if cookiecutter.project_type == "django"
import os
#% endif
#% if cookiecutter.deployment != "none"
import re
#% endif
#% if cookiecutter.project_type == "django"
import subprocess
import sys
#% endif
from datetime import timedelta
#% if cookiecutter.project_type == "django" or cookiecutter.deployment != "none"
from pathlib import Path
#% endif

import pytest
from celery.app.defaults import SETTING_KEYS
from celery.schedules import BaseSchedule, crontab
#% if cookiecutter.project_type == "django"
from django.conf import settings
from django.core.management import call_command

#= from {{ cookiecutter.project_slug }} import celery_app as app
#% else

from celery_app import app, celeryconfig
#% endif

#% if cookiecutter.project_type == "django"
app.autodiscover_tasks(force=True)
#% else
app.loader.import_default_modules()
#% endif
ENTRIES = app.conf.beat_schedule


def test_every_setting_is_one_that_celery_knows() -> None:
    """A misspelt setting does nothing, and says nothing."""
#% if cookiecutter.project_type == "django"
    names = {name.removeprefix("CELERY_").lower() for name in dir(settings) if "CELERY_" in name}
#% else
    #% if cookiecutter.broker == "rabbitmq"
    helpers = {"env", "ssl", "sys", "timedelta", "crontab", "urlsplit"}
    #% else
    helpers = {"env", "ssl", "sys", "timedelta", "crontab"}
    #% endif
    names = {name for name in vars(celeryconfig) if name[0] != "_" and name.islower()} - helpers
#% endif
    ours = {"metrics_port", "redelivery_limit", "shutdown_grace_period"}
    assert names - ours - SETTING_KEYS == set()


@pytest.mark.parametrize("name", ENTRIES)
def test_every_beat_entry_names_a_task_and_fits_its_signature(name: str) -> None:
    """Beat sends whatever it is told, and only the worker would notice."""
    entry = ENTRIES[name]
    task = app.tasks[entry["task"]]
    inspect.signature(task.run).bind(*entry.get("args", ()), **entry.get("kwargs", {}))


@pytest.mark.parametrize("name", ENTRIES)
def test_every_beat_entry_has_a_schedule(name: str) -> None:
    """An interval, or a time of day in the time zone of the settings."""
    schedule = ENTRIES[name]["schedule"]
    #= zone = {{ cookiecutter.timezone | quoted }}
    assert isinstance(schedule, timedelta | BaseSchedule)
    if isinstance(schedule, crontab):
        assert str(app.timezone) == zone


def test_a_task_can_clean_up_before_it_is_killed() -> None:
    """The soft limit comes first."""
    assert 0 < app.conf.task_soft_time_limit < app.conf.task_time_limit
#% if cookiecutter.broker == "redis"


def test_no_task_outlasts_the_visibility_timeout() -> None:
    """Redis would start it a second time beside itself."""
    timeout = app.conf.broker_transport_options["visibility_timeout"]
    for task in app.tasks.values():
        assert (task.time_limit or app.conf.task_time_limit) < timeout, task.name
#% else


def test_no_task_outlasts_the_consumer_timeout() -> None:
    """RabbitMQ closes the channel of a worker that acknowledges nothing for 30 minutes."""
    for task in app.tasks.values():
        assert (task.time_limit or app.conf.task_time_limit) < 30 * 60, task.name
#% endif
#% if cookiecutter.broker == "redis" and cookiecutter.result_backend == "redis"


def test_broker_and_results_share_no_database() -> None:
    """Flushing one of them, or its eviction of keys, must not touch the other."""
    assert app.conf.broker_url != app.conf.result_backend
#% endif


def test_only_json_is_accepted() -> None:
    """Anything else could run code."""
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == app.conf.result_serializer == "json"
#% if cookiecutter.deployment != "none"


#% if cookiecutter.deployment == "kubernetes"
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("compose.yaml", r"stop_grace_period: (\d+)s$"),
        ("deploy/kubernetes/base/worker.yaml", r"terminationGracePeriodSeconds: (\d+)$"),
    ],
)
def test_containers_are_killed_no_sooner_than_tasks_have_gone_back(name: str, setting: str) -> None:
    """Whoever stops the worker waits longer than its shutdown takes at most."""
    text = (Path(__file__).parent.parent / name).read_text(encoding="utf-8")
    # The first one in each file is that of the worker.
    match = re.search(setting, text, re.MULTILINE)
#% else
def test_containers_are_killed_no_sooner_than_tasks_have_gone_back() -> None:
    """Whoever stops the worker waits longer than its shutdown takes at most."""
    compose = (Path(__file__).parent.parent / "compose.yaml").read_text(encoding="utf-8")
    service = compose.partition("\nservices:")[0]
    match = re.search(r"stop_grace_period: (\d+)s$", service, re.MULTILINE)
#% endif
    assert match
    assert int(match[1]) >= app.conf["shutdown_grace_period"] + 10
#% endif
#% if cookiecutter.project_type == "django"


def check_production(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run Django's checks for production, every warning an error."""
    return subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"DEBUG": "0", "ALLOWED_HOSTS": "jobs.example.org"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_production_passes_the_checks_of_django() -> None:
    """The settings of production are safe ones."""
    # A sample, as long and as mixed as the checks ask for.
    key = "abcdefghijklmnopqrstuvwxyz-0123456789-ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    done = check_production(SECRET_KEY=key)
    assert done.returncode == 0, done.stderr


def test_production_needs_a_secret_key_of_its_own() -> None:
    """Without one nothing starts, and one line says why."""
    done = check_production(SECRET_KEY="")
    assert done.returncode == 1
    assert done.stderr.startswith("SECRET_KEY is not set")
    assert done.stderr.count("\n") == 1


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    """The tables are those that the models describe."""
    call_command("makemigrations", check=True, dry_run=True)
#% endif
