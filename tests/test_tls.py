"""TLS to the broker and to the result backend: certificates are verified, wrong ones refused."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from tests import proxy, servers
from tests.projects import Bake
from tests.service import Service
from tests.test_metrics import UP, scrape

PASSWORD = "hidden-2b9c"  # noqa: S105


class Listener:
    """Speaks TLS to clients, and passes on what they say to a server in plain."""

    def __init__(self, upstream: int, certificate: trustme.LeafCert) -> None:
        """Lead to the port ``upstream``, with a ``certificate``."""
        self.upstream = upstream
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        """Take connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        """Carry bytes both ways; one thread reads a connection of TLS, another one writes to it."""
        try:
            secure = self.context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.upstream))
        except OSError:
            client.close()
            return
        back = threading.Thread(target=self.pump, args=(server, secure), daemon=True)
        back.start()
        self.pump(secure, server)

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        """Carry bytes one way."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def listening(upstream: int, certificate: trustme.LeafCert) -> Iterator[int]:
    """Give the port of a listener."""
    listener = Listener(upstream, certificate)
    try:
        yield listener.port
    finally:
        listener.listener.close()


SEND = "from celery_app import tasks; print(tasks.add.delay(2, 3).get(timeout=100))"
REFUSED = """
from celery_app import tasks
from kombu.exceptions import OperationalError
try:
    tasks.add.delay(2, 3)
except OperationalError:
    print("refused")
"""


@pytest.mark.parametrize("kind", ["redis", "rabbitmq"])
def test_certificates_are_verified_and_secrets_come_from_files(
    synced: Bake, tmp_path: Path, kind: str
) -> None:
    project = synced(project_type="celery", broker=kind, result_backend="redis")
    binaries = project.path / ".venv" / "bin"
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ours.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    good, foreign = ours.issue_cert("localhost"), ours.issue_cert("example.org")
    scheme = {"redis": "rediss", "rabbitmq": "amqps"}[kind]
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(proxy.redis())
        server = stack.enter_context(proxy.broker(kind))
        upstream, database = server.proxy.port, results.proxy.port
        parts = urlsplit(server.url)
        path = parts.path
        login = "guest:guest@" if kind == "rabbitmq" else ""
        port = stack.enter_context(listening(upstream, good))
        misnamed = stack.enter_context(listening(upstream, foreign))
        results_port = stack.enter_context(listening(database, good))
        metrics = servers.free_port()
        # The address with its login is in a file alone.
        broker_file = tmp_path / "broker"
        broker_file.write_text(f"{scheme}://{login}localhost:{port}{path}\n")
        env = {
            "CELERY_BROKER_URL_FILE": str(broker_file),
            "CELERY_CA_CERTS": str(tmp_path / "ours.pem"),
            "CELERY_RESULT_BACKEND": f"rediss://localhost:{results_port}/1",
            "HEARTBEAT_DIR": str(tmp_path),
            "LOG_FORMAT": "json",
            "METRICS_PORT": str(metrics),
        }
        service = stack.enter_context(Service(project, "", env=env))
        del service.env["CELERY_BROKER_URL"]
        celery = (binaries / "celery", "-A", "celery_app", "worker")
        worker = service.start(*celery, "--loglevel", "INFO", ready=r" ready\.")
        python = binaries / "python"
        assert service.run(python, "-c", SEND).stdout == "5\n"
        assert f"Connected to {scheme}://" in worker.output
        letters = service.run(python, "-m", "celery_app.runtime.dead_letters").stdout
        assert letters == "0 dead letters\n"
        assert scrape(metrics)[UP] == 1

        if kind == "rabbitmq":  # several addresses: each server has to be the one of its address
            port = stack.enter_context(listening(upstream, ours.issue_cert("127.0.0.1")))
            hosts = (f"localhost:{misnamed}", f"127.0.0.1:{port}")
            several = ";".join(f"{scheme}://{login}{host}{path}" for host in hosts)
            env = {"CELERY_BROKER_URL": several}
            assert service.run(python, "-c", SEND, env=env).stdout == "5\n"

        # Another authority, and another host: nobody is spoken to, and nobody waits.
        wrong = [
            {"CELERY_CA_CERTS": str(tmp_path / "other.pem")},
            {"CELERY_BROKER_URL": f"{scheme}://user:{PASSWORD}@localhost:{misnamed}{path}"},
        ]
        for change in wrong:
            refused = service.start(*celery, "--loglevel", "INFO", env=change)
            refused.wait_for("(?i)certificate.verify.failed")
            assert " ready." not in refused.output
            assert PASSWORD not in refused.output
            refused.kill()
            assert service.run(python, "-c", REFUSED, env=change).stdout == "refused\n"
            command = (python, "-m", "celery_app.runtime.dead_letters")
            said = service.run(*command, env=change, check=False)
            assert said.returncode == 1
            assert re.fullmatch(r"The broker cannot be reached: .*\n", said.stderr)
            assert PASSWORD not in said.stderr
