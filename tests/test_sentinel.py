"""Redis with a standby, from the environment alone: passwords, TLS, and every command."""

import contextlib
import socket
from pathlib import Path

import trustme

from tests import sentinels, servers
from tests.projects import Bake
from tests.service import Service
from tests.test_metrics import UP, scrape
from tests.test_tls import REFUSED, SEND, Listener

PASSWORD = "p@ss:/;%#? word"  # noqa: S105
OWN_PASSWORD = "s;en/ti%nel"  # noqa: S105
DELAY = "from celery_app.tasks import add; add.apply_async((2, 3), countdown=600)"


class Namer(Listener):
    """Stands before a sentinel with TLS, and before the server that the sentinel names."""

    def __init__(self, sentinel: int, server: int, certificate: trustme.LeafCert) -> None:
        """Lead to the port of a sentinel; what it says of ``server`` leads to a listener."""
        self.server = server
        self.of_server = Listener(server, certificate)
        super().__init__(sentinel, certificate)

    def pump(self, source: socket.socket, target: socket.socket) -> None:
        """Carry bytes one way."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                names = str(self.server).encode(), str(self.of_server.port).encode()
                target.sendall(data.replace(*names))
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def test_the_environment_leads_to_the_master(synced: Bake, tmp_path: Path) -> None:
    project = synced(project_type="celery", broker="redis", result_backend="redis")
    binaries = project.path / ".venv" / "bin"
    python = binaries / "python"
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(tmp_path / "ours.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    certificate = ours.issue_cert("localhost", "127.0.0.1")
    with sentinels.group(password=PASSWORD, sentinel_password=OWN_PASSWORD) as group:
        listener = Namer(group.sentinels[0].port, group.servers[0].port, certificate)
        login = group.url(0).partition("@")[0]
        assert "ss%3A" in login
        url = f"{login}@localhost:{listener.port}"
        metrics = servers.free_port()
        env = {
            "CELERY_CA_CERTS": str(tmp_path / "ours.pem"),
            "CELERY_SENTINEL_MASTER": sentinels.MASTER,
            "CELERY_SENTINEL_PASSWORD": OWN_PASSWORD,
            "CELERY_SENTINEL_TLS": "1",
            "HEARTBEAT_DIR": str(tmp_path),
            "METRICS_PORT": str(metrics),
        }
        with Service(project, f"{url}/0", f"{url}/1", env) as service:
            celery = (binaries / "celery", "-A", "celery_app", "worker", "--loglevel", "INFO")
            worker = service.start(*celery, ready=r" ready\.")
            assert service.run(python, "-c", SEND).stdout == "5\n"
            service.run(python, "-c", DELAY)
            commands = {"delayed": "1 delayed in my_service\n", "dead_letters": "0 dead letters\n"}
            for command, said in commands.items():
                done = service.run(python, "-m", f"celery_app.runtime.{command}")
                assert done.stdout.endswith(said)
            assert scrape(metrics)[UP] == 1
            service.run(python, "celery_app/runtime/health.py", "worker")
            assert "Connected to sentinel://" in worker.output
            for secret in ("ss%3A", "%20word", OWN_PASSWORD):
                assert secret not in worker.output

            # Another authority: nobody is spoken to.
            change = {"CELERY_CA_CERTS": str(tmp_path / "other.pem")}
            assert service.run(python, "-c", REFUSED, env=change).stdout == "refused\n"
            refused = service.start(*celery, env=change)
            refused.wait_for("(?i)certificate.verify.failed")
            assert " ready." not in refused.output
            refused.kill()

            # A wrong password, and no name: a line, and the end.
            change = {"CELERY_SENTINEL_PASSWORD": "wrong"}
            ends = service.run(*celery, env=change, check=False)
            assert ends.returncode == 1
            assert "The worker ends. Redis refuses this: " in ends.stderr
            ends = service.run(*celery, env={"CELERY_SENTINEL_MASTER": ""}, check=False)
            assert ends.returncode == 78
            assert "has no master_name, which sentinels need" in ends.stderr
