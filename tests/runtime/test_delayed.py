"""The command that lists what waits in Redis until it is due."""

import json
import sys
from datetime import UTC, datetime, timedelta

from tests.projects import BakedProject
from tests.runtime.conftest import MakeApp


def noop() -> None:
    """Do nothing, as a task."""


def test_what_is_delayed_is_counted_and_the_next_are_listed(
    make_app: MakeApp, small_project: BakedProject
) -> None:
    app = make_app("redis", timezone="Asia/Tokyo")
    task = app.task(noop)
    now = datetime.now(UTC)
    later, sooner = (task.apply_async(eta=now + timedelta(hours=hours)) for hours in (2, 1))
    task.delay()
    task.apply_async(queue="slow", countdown=3600)
    settings = app.conf.table(with_defaults=False, censored=False)
    (small_project.path / "service" / "__init__.py").write_text(
        "import json, os\n"
        "from .runtime.redis import ReliableCelery\n"
        f"app = ReliableCelery({app.main!r})\n"
        "app.config_from_object(json.loads(os.environ['SETTINGS']))\n"
    )
    env = {"SETTINGS": json.dumps(settings), "PYTHONDONTWRITEBYTECODE": "1"}
    done = small_project.run(sys.executable, "-m", "service.runtime.delayed", env=env)
    slow, total_of_slow, first, second, total = done.stdout.splitlines()
    assert first.endswith(f"+09:00 {task.name}[{sooner.id}]")
    assert second.endswith(f"+09:00 {task.name}[{later.id}]")
    assert total == f"2 delayed in {app.main}"
    assert task.name in slow
    assert total_of_slow == "1 delayed in slow"
