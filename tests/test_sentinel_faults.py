"""What must hold of a generated project on Redis with a standby: `make test-faults`."""

import sys

import pytest

from tests.projects import Bake
from tests.sentinel_faults import FAULTS, run

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("name", ["planned", "sentinel_silent"])
def test_a_failover_loses_no_task(synced: Bake, name: str) -> None:
    project = synced(project_type="celery", broker="redis", result_backend="redis")

    outcome = run(FAULTS[name], "ours", project)
    sys.stdout.write(f"{outcome!r}\n{outcome.log}")  # shown where the test fails

    assert outcome.lost == 0
    assert outcome.stuck == 0
    # The bounds are 10 s for each on a machine that has nothing else to do.
    assert outcome.pause < outcome.sentinels + 20
    assert outcome.call < 20
