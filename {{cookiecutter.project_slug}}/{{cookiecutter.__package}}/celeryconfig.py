#% set slug = cookiecutter.project_slug
#% set redis_results = cookiecutter.result_backend == "redis"
#% if cookiecutter.project_type == "celery"
"""Every setting of Celery that is not its default, each with its reason.

The names are those of https://docs.celeryq.dev/en/stable/userguide/configuration.html. What differs
from place to place comes from the environment; `.env.example` lists it.
"""

import ssl
import sys
from datetime import timedelta
from typing import Any
#% if cookiecutter.broker == "rabbitmq"
from urllib.parse import urlsplit
#% endif

from celery.schedules import crontab
from environs import FileAwareEnv

env = FileAwareEnv(strip_whitespace=True)
env.read_env()

#% endif
# --- Broker -----------------------------------------------------------------------------------

#% set broker = cookiecutter._brokers[cookiecutter.broker]
#= broker_url = env.str("CELERY_BROKER_URL", "{{ broker.url }}")
# Names of this service's own, so that several can share a server.
#= task_default_queue = "{{ slug }}"
#= task_default_exchange = "{{ slug }}"
#= task_default_routing_key = "{{ slug }}"
#= control_exchange = "{{ slug }}.control"
#= event_exchange = "{{ slug }}.events"
#% if cookiecutter.broker == "rabbitmq"
# A worker whose connection broke can come back to its control queue before the broker noticed.
control_queue_exclusive = False
control_queue_durable = True
# Seconds; a connection that is dead is noticed within two of them.
broker_heartbeat = 20
#% endif
# A worker outlives any restart of its broker.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# Nor does it end when the broker closes a channel.
broker_channel_error_retry = True
# A sender waits seconds for a broker that is gone, not minutes.
broker_connection_timeout = 4
task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.5, "interval_max": 0.5}
# Certificates are verified wherever TLS is spoken; without this, Celery checks none of a broker.
#% if cookiecutter.broker == "redis"
_tls: dict[str, Any] = {
    "ssl_cert_reqs": ssl.CERT_REQUIRED,
    "ssl_ca_certs": env.str("CELERY_CA_CERTS", None),
}
broker_use_ssl = _tls if broker_url.startswith("rediss:") else None
#% else
_ca_certs = env.str("CELERY_CA_CERTS", None)
broker_use_ssl = (
    {
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": _ca_certs,
        "server_hostname": urlsplit(broker_url).hostname,
    }
    if broker_url.startswith("amqps:")
    else None
)
#% endif

# --- Pool -------------------------------------------------------------------------------------

# Windows has no processes that fork; there, tasks are done one by one, and without time limits.
worker_pool = "solo" if sys.platform == "win32" else "prefork"
# Nor is it safe to fork on macOS, whose libraries run threads; each process is started afresh.
worker_pool_start_method = "spawn" if sys.platform == "darwin" else "fork"
# Seconds; such a process imports the service first, and a busy machine is slow.
worker_proc_alive_timeout = 60

# --- Limits -----------------------------------------------------------------------------------

# No task runs for ever: seconds, after which its process is killed.
task_time_limit = env.int("CELERY_TASK_TIME_LIMIT", 300)
# Seconds, after which a task can still clean up: SoftTimeLimitExceeded is raised in it.
task_soft_time_limit = task_time_limit * 9 // 10
# Leaks end: a process is replaced after so many tasks, or so many KiB.
worker_max_tasks_per_child = 1000
worker_max_memory_per_child = 400_000

# --- Delivery: at least once ------------------------------------------------------------------

#% if cookiecutter.broker == "redis"
# Seconds until the tasks of a killed worker are given to another one. Longer than a task can take
# and its `countdown` with it, or it would be started a second time beside itself.
_visibility_timeout = env.int("CELERY_VISIBILITY_TIMEOUT", 2 * task_time_limit)
broker_transport_options: dict[str, Any] = {
    "global_keyprefix": "{{ cookiecutter.project_slug }}:",
    "visibility_timeout": _visibility_timeout,
    # Seconds between looks for such tasks; by default they come up to 90 s late.
    "unacked_restore_interval": min(_visibility_timeout / 2, 10),
    "unacked_restore_throttle": 1,
    # A server that is gone or silent is noticed.
    "socket_timeout": 5,
    "socket_connect_timeout": 4,
    "socket_keepalive": True,
    "health_check_interval": 25,
}
#% else
# Replicated queues, which outlive the loss of a node; they need a topic exchange for `countdown`.
task_default_queue_type = "quorum"
task_default_exchange_type = "topic"
task_create_missing_queue_type = "quorum"
task_create_missing_queue_exchange_type = "topic"
broker_transport_options: dict[str, Any] = {
    # The broker confirms each message; without it, one that a crash swallows is missed by nobody.
    "confirm_publish": True,
    # A server that is gone or silent is noticed: seconds.
    "connect_timeout": 4,
    "read_timeout": 10,
    "write_timeout": 10,
}
#% endif
# A task is acknowledged when it is done, and goes back when its process died under it.
task_acks_late = True
task_reject_on_worker_lost = True
# But not for ever: a task that kills its process has failed after `max_retries` of the task.
task_retry_on_worker_lost = True
# And a message that was delivered again this many times, and killed the worker each time, is put
# aside: `runtime/poison.py`. Less than 2 would put aside its innocent neighbours.
redelivery_limit = env.int("CELERY_REDELIVERY_LIMIT", 3)
# Seconds for running tasks after SIGTERM; then they go back to their queue. Whoever sends the
# signal must wait 10 s longer before SIGKILL.
shutdown_grace_period = env.float("CELERY_SHUTDOWN_GRACE_PERIOD", 25)
# Where the worker serves metrics, if anywhere.
metrics_port = env.int("METRICS_PORT", None)
# A long task holds back no other. For tasks of milliseconds, 16 or more gives more throughput.
worker_prefetch_multiplier = 1
# A task that the broker will give to another worker must not run on here.
worker_cancel_long_running_tasks_on_connection_loss = True

# --- Messages and results ---------------------------------------------------------------------

# JSON holds data only; a pickle could run code.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
#% if cookiecutter.result_backend == "none"
# Nobody asks for results: not keeping them saves a round trip for each task.
task_ignore_result = True
#% else
#% if redis_results
#= result_backend = env.str("CELERY_RESULT_BACKEND", "{{ cookiecutter._results_url }}")
result_backend_transport_options: dict[str, Any] = {
    "global_keyprefix": "{{ cookiecutter.project_slug }}:",
    # A sender that waits for a result hears within seconds of a server that is gone.
    "retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.5, "timeout": 10},
}
# A server that is gone or silent is noticed.
redis_socket_timeout = 5
redis_socket_connect_timeout = 4
redis_socket_keepalive = True
#% if cookiecutter.broker == "redis"
redis_backend_use_ssl = _tls if result_backend.startswith("rediss:") else None
#% else
redis_backend_use_ssl = (
    {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": _ca_certs}
    if result_backend.startswith("rediss:")
    else None
)
#% endif
#% elif cookiecutter.project_type == "django"
# Results are rows of the project's database, kept by django-celery-results.
result_backend = "django-db"
# They show which task they are of, and its arguments.
result_extended = True
#% else
result_backend = env.str("CELERY_RESULT_BACKEND", "db+sqlite:///results.sqlite3")
#% endif
# A result is written once its store is back; else a short outage leaves tasks pending for ever.
result_backend_always_retry = True
# Who asks for one hears within seconds that the store is away; only a worker never gives up.
result_backend_max_retries = 8
# Old results are dropped after a day.
result_expires = timedelta(days=1)
#% endif

# --- Schedule ---------------------------------------------------------------------------------

#= timezone = {{ cookiecutter.timezone | quoted }}
# Where beat remembers what it sent last; it needs to write there.
beat_schedule_filename = env.str("CELERY_BEAT_SCHEDULE_FILENAME", "celerybeat-schedule")
beat_schedule = {
    # An interval also holds in the nights when clocks are changed.
    "every-five-minutes": {
        "task": "{{ cookiecutter.__tasks }}.tell_time",
        "schedule": timedelta(minutes=5),
        "args": ("every five minutes",),
        # What no worker took by then is late and dropped, instead of piling up.
        "options": {"expires": 300},
    },
    # A time of day is one of the time zone above.
    "every-morning": {
        "task": "{{ cookiecutter.__tasks }}.tell_time",
        "schedule": crontab(hour="6", minute="30"),
        "args": ("every morning",),
    },
}
