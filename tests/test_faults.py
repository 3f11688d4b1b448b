"""What must hold of a generated project, whatever dies: `make test-faults`."""

import sys
from dataclasses import replace

import pytest

from tests.conftest import Bake
from tests.faults import BROKERS, FAULTS, LIMIT, run

pytestmark = pytest.mark.faults
# What ends a worker, that a supervisor starts another one; nothing else may.
DEATHS = {
    **dict.fromkeys(["main_killed", "group_killed", "terminated_short", "terminated_long"], 1),
    **dict.fromkeys(["quit_at_once", "waiting_for_eta", "newer_task"], 1),
    "poison_worker": LIMIT + 1,
    "full_load": 4,
}
# Without a limit on retries, the default of Celery's tasks.
STARTS = {"poison_child": 4, "poison_worker": LIMIT + 1, "memory_error": 1}


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("name", FAULTS)
def test_no_task_is_lost_and_none_comes_back_for_ever(synced: Bake, name: str, broker: str) -> None:
    fault = FAULTS[name]
    if fault.kills:
        fault = replace(fault, tasks=1200, kills=DEATHS[name])
    project = synced(project_type="celery", broker=broker, result_backend="redis")

    outcome = run(fault, broker, "ours", project)
    sys.stdout.write(outcome.log)  # shown where the test fails

    assert outcome.lost == 0
    assert outcome.stuck == 0
    assert outcome.left == 0
    assert outcome.workers == 1 + DEATHS.get(name, 0)
    assert outcome.starts <= STARTS.get(name, 0)
    assert outcome.failed == ({"poison"} if fault.poison else set())
    assert outcome.dead == (["poison"] if name == "poison_worker" else [])
    if name == "two_beats":
        assert outcome.twice == 0
