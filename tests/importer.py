"""Imports the Celery app of projects, each in a process of its own, with a Python that has theirs.

It reads a directory and a module from each line of its input, and answers each with a line: "done",
or what went wrong. The libraries are imported once, for all.
"""

import importlib
import json
import os
import sys
import traceback

LIBRARIES = """
    celery.app.amqp celery.app.control celery.bin.worker celery.worker.consumer cronsim
    dj_database_url django.contrib.admin.sites django.core.management django.db.models
    django.template.loader environs kombu.transport.pyamqp kombu.transport.redis prometheus_client
    structlog whitenoise.middleware
""".split()  # noqa: SIM905


def load(directory: str, module: str) -> str:
    """Import the app of a project and all of its tasks, as a worker does."""
    os.chdir(directory)
    sys.path.insert(0, directory)
    app = importlib.import_module(module).app
    app.loader.import_default_modules()
    app.finalize()
    assert app.conf.broker_url
    ours = [name for name in app.tasks if not name.startswith("celery.")]
    return "done" if ours else "no tasks"


def main() -> None:
    """Answer each line of the input."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for line in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                said = load(*json.loads(line))
            except BaseException:  # noqa: BLE001  # also SystemExit
                said = traceback.format_exc()
            os.write(writer, said.encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as answer:
            sys.stdout.write(f"{json.dumps(answer.read())}\n")
        sys.stdout.flush()
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
