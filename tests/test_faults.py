"""What must hold of a generated project, whatever dies: `make test-faults`."""

import sys
from dataclasses import replace

import pytest

from tests.faults import BROKERS, FAULTS, LIMIT, poisons, run
from tests.projects import Bake
from tests.test_pools import with_gevent

pytestmark = pytest.mark.faults
# What ends a worker, that a supervisor starts another one; nothing else may.
DEATHS = {
    **dict.fromkeys(["main_killed", "group_killed", "terminated_short", "terminated_long"], 1),
    **dict.fromkeys(["terminated_gevent", "quit_at_once", "waiting_for_eta"], 1),
    **dict.fromkeys(["broker_full", "revoked", "newer_task"], 1),
    "poison_worker": LIMIT + 1,
    "full_load": 4,
}
# Without a limit on retries, the default of Celery's tasks.
STARTS = {
    "poison_child": 4,
    "poison_worker": LIMIT + 1,
    "poison_workers": 3 * (LIMIT + 1),
    "memory_error": 1,
}


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("name", FAULTS)
def test_no_task_is_lost_and_none_comes_back_for_ever(
    synced: Bake, project: Bake, name: str, broker: str
) -> None:
    fault = FAULTS[name]
    if fault.kills:
        fault = replace(fault, tasks=1200, kills=DEATHS[name])
    make = with_gevent(project) if fault.pool == "gevent" else synced
    made = make(project_type="celery", broker=broker, result_backend="redis")

    outcome = run(fault, broker, "ours", made)
    sys.stdout.write(outcome.log)  # shown where the test fails

    assert outcome.lost == 0
    assert outcome.stuck == 0
    assert outcome.left == 0
    if name != "poison_workers":  # two of them can die together
        assert outcome.workers == 1 + DEATHS.get(name, 0)
    assert outcome.starts == STARTS.get(name, 0)
    assert outcome.failed == ({"odd"} if name == "unreadable" else set(poisons(fault)))
    # One of those that nobody can read names no task, one has no id.
    dead = 2 if name == "unreadable" else fault.poisons * ("worker" in fault.poison)
    assert len(outcome.dead) == dead
    if name == "two_beats":
        assert outcome.twice == 0
