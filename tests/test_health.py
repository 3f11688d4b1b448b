"""The health files of a worker and of beat, while good and bad things happen to them."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.projects import Bake
from tests.proxy import broker
from tests.service import Process, Service, wait_until

# Tasks that last as long as the test wants, and an entry that is due when the test says so.
TASKS = '''\
import os
import time
from pathlib import Path

from celery.schedules import schedule
from {package} import {app} as app

HERE = Path(os.environ["HEARTBEAT_DIR"])


@app.task
def hold(name):
    (HERE / f"held-{{name}}").touch()
    while not (HERE / "release").exists():
        time.sleep(0.05)


@app.task
def ring():
    (HERE / "rung").touch()


class Bell(schedule):
    """Due once, when the bell is there."""

    def is_due(self, last_run_at):
        bell = HERE / "bell"
        return bell.exists() and bell.stat().st_mtime > last_run_at.timestamp(), 0.5


app.conf.beat_schedule = {{"bell": {{"task": ring.name, "schedule": Bell(3600)}}}}
'''


@contextlib.contextmanager
def frozen(*processes: Process) -> Iterator[None]:
    """Stop the main processes, as one that hangs does nothing any more; then let them go on."""
    for process in processes:
        process.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.process.send_signal(signal.SIGCONT)


class Health:
    """The probe of a project, asked about its processes."""

    def __init__(self, service: Service) -> None:
        """Know where it lies."""
        self.service = service
        self.directory = Path(service.env["HEARTBEAT_DIR"])
        self.python = service.project.path / ".venv" / "bin" / "python"
        self.script = f"{service.project.package}/runtime/health.py"

    def probe(self, *arguments: str, options: tuple[str, ...] = ()) -> int:
        """Return the exit status: 0 means healthy."""
        command: list[str | Path] = [self.python, *options, self.script, *arguments]
        done = self.service.run(*command, check=False)
        assert done.stderr == ""
        assert len(done.stdout.splitlines()) == 1
        assert done.returncode in (0, 1)
        return done.returncode

    def wait_for(self, status: int, *names: str) -> None:
        """Wait until all of the processes have that status."""

        def reached() -> bool:
            return all(self.probe(name) == status for name in names)

        wait_until(reached, f"{names}: never {status}")

    def age(self, name: str, seconds: float) -> None:
        """Make a file older, as it would be had we waited."""
        then = time.time() - seconds
        os.utime(self.directory / f"{name}.heartbeat", (then, then))


BOTH = ("worker", "beat")
KINDS = [("celery", "redis", "redis"), ("django", "rabbitmq", "none")]


@pytest.mark.parametrize(
    ("project_type", "kind", "result_backend"), KINDS, ids=["celery-redis", "django-rabbitmq"]
)
def test_a_worker_and_beat_are_ready_while_they_are(
    synced: Bake, tmp_path: Path, project_type: str, kind: str, result_backend: str
) -> None:
    project = synced(project_type=project_type, broker=kind, result_backend=result_backend)
    app = "app" if project_type == "celery" else "celery_app"
    (tmp_path / "bells.py").write_text(TASKS.format(package=project.package, app=app))
    env = {"HEARTBEAT_DIR": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    with broker(kind) as server:
        results = server.url.replace("/0", "/1") if result_backend == "redis" else None
        with Service(project, server.url, results, env) as service:
            health = Health(service)
            assert [health.probe(name) for name in BOTH] == [1, 1]

            # Not `uv run`: the signals are for the main processes themselves.
            celery = (project.path / ".venv" / "bin" / "celery", "-A", "bells")
            log = ("--loglevel", "INFO")
            beat = service.start(*celery, "beat", *log)
            worker = service.start(
                *celery, "worker", *log, "--concurrency", "2", ready=r"\S+ ready\."
            )
            health.wait_for(0, *BOTH)

            # All children are busy, and the file is touched nevertheless.
            service.run(
                project.path / ".venv" / "bin" / "python",
                "-c",
                "import bells; [bells.hold.delay(name) for name in 'ab']",
            )
            held = [tmp_path / "held-a", tmp_path / "held-b"]
            wait_until(lambda: all(path.exists() for path in held), worker.output)
            busy = max(path.stat().st_mtime for path in held)
            file = tmp_path / "worker.heartbeat"
            wait_until(lambda: file.stat().st_mtime > busy, "not touched while busy")
            assert health.probe("worker") == 0
            # Without the packages of its environment, Celery among them.
            assert health.probe("worker", options=("-I", "-S")) == 0

            # What hangs is not ready, and after a long time not alive.
            with frozen(worker, beat):
                for name in BOTH:
                    health.age(name, 10)  # too little for one that still keeps it fresh
                health.wait_for(1, *BOTH)
                assert [health.probe("--live", name) for name in BOTH] == [0, 0]
                for name in BOTH:
                    health.age(name, 301)
                assert [health.probe("--live", name) for name in BOTH] == [1, 1]
            health.wait_for(0, *BOTH)

            # Without a broker nothing is ready, but all is alive.
            (tmp_path / "release").touch()
            server.stop()
            health.wait_for(1, *BOTH)
            assert [health.probe("--live", name) for name in BOTH] == [0, 0]
            # What is due meanwhile is not sent, and not forgotten.
            (tmp_path / "bell").touch()
            beat.wait_for("the broker cannot be reached, nothing is sent", times=2)
            assert "Sending due task" not in beat.output
            server.start()
            health.wait_for(0, *BOTH)
            wait_until((tmp_path / "rung").exists, beat.output + worker.output)
            assert beat.output.count("Sending due task bell") == 1
            for process in (worker, beat):
                assert process.process.poll() is None
                assert process.stop() == 0
            # Nobody is there, and no file says otherwise.
            assert [health.probe(name) for name in BOTH] == [1, 1]
