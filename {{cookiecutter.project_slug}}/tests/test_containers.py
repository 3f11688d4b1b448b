"""What the files of the containers and the settings must agree on."""

import re
from pathlib import Path

import pytest
from celery import current_app as app


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("compose.yaml", r"stop_grace_period: (\d+)s$"),
        #% if cookiecutter.deployment == "kubernetes"
        ("deploy/kubernetes/base/worker.yaml", r"terminationGracePeriodSeconds: (\d+)$"),
        #% endif
    ],
)
def test_containers_are_killed_no_sooner_than_tasks_have_gone_back(name: str, setting: str) -> None:
    """The time before the kill is longer than the shutdown of a worker can take."""
    text = (Path(__file__).parent.parent / name).read_text(encoding="utf-8")
    # The first match in each file is that of the worker.
    match = re.search(setting, text, re.MULTILINE)
    assert match
    assert int(match[1]) >= app.conf["shutdown_grace_period"] + 10
