"""What Django needs in production: safe settings, and every migration."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command


def check_production(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run Django's checks for production; each warning is an error."""
    return subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"DEBUG": "0", "ALLOWED_HOSTS": "jobs.example.org"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_production_passes_the_checks_of_django() -> None:
    """The settings of production are safe."""
    # A sample that is as long and as mixed as the checks ask for.
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
    """The tables match the models."""
    call_command("makemigrations", check=True, dry_run=True)
