"""What the generated README says about finding a fault, tried as its reader does."""

import contextlib
import os
import signal
import sys

import pexpect
import pytest

from tests import servers
from tests.projects import Bake, clean_environment
from tests.service import DEADLINE, Service
from tests.test_readme import commands_of

SEND = "from celery_app.tasks import add; print(*[add.delay(n, n + 1).id for n in range({})])"


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_breakpoint_stops_the_worker_in_its_task(project: Bake, broker: str) -> None:
    made = project(broker=broker)
    tasks = made.read("celery_app/tasks.py")
    stopped = tasks.replace("    return x + y", "    breakpoint()\n    return x + y")
    (made.path / "celery_app" / "tasks.py").write_text(stopped, encoding="utf-8")
    made.sync()
    section = next(each for each in commands_of(made.read("README.md")) if "purge" in str(each))
    (command,) = (each for each in section if "--pool solo" in each)
    (length,) = (each for each in section if "queue_length" in each)
    (purge,) = (each for each in section if "purge" in each)
    with (
        servers.addresses(broker, "redis") as env,
        Service(made, env["CELERY_BROKER_URL"], env["CELERY_RESULT_BACKEND"]) as service,
    ):
        service.python(SEND.format(3))
        terminal = pexpect.spawn(
            command,
            cwd=made.path,
            env=clean_environment() | service.env,
            encoding="utf-8",
            timeout=DEADLINE,
            logfile=sys.stdout,
        )
        assert terminal.pid
        try:
            for number in range(3):
                terminal.expect_exact("(Pdb) ")
                terminal.sendline("p x, y")
                terminal.expect_exact(f"({number}, {number + 1})")
                terminal.expect_exact("(Pdb) ")
                terminal.sendline("continue")
                terminal.expect(rf"succeeded in \S+s: {2 * number + 1}\b")
            terminal.kill(signal.SIGTERM)  # Ctrl-C would lead back into the debugger
            terminal.expect(pexpect.EOF)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(terminal.pid, signal.SIGKILL)
            terminal.close(force=True)

        # How many wait, and that none does after a purge.
        service.python(SEND.format(4))
        assert service.run("bash", "-c", length).stdout == "4\n"
        service.run("bash", "-c", purge)
        assert service.run("bash", "-c", length).stdout == "0\n"
