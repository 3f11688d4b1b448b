#% set slug = cookiecutter.project_slug
#% if cookiecutter.project_type == "celery"
"""The settings of Celery that this service relies on, each with its reason.

The names are those of https://docs.celeryq.dev/en/stable/userguide/configuration.html. What differs
from place to place comes from the environment; `.env.example` lists it.
"""

import os
import ssl
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from celery.schedules import crontab
from dotenv import load_dotenv
from environs import FileAwareEnv

if "PYTEST_VERSION" not in os.environ:  # tests have servers of their own
    load_dotenv(Path(__file__).resolve().parents[1] / ".env")
env = FileAwareEnv(strip_whitespace=True)

#% endif
# --- Broker -----------------------------------------------------------------------------------

#= broker_url = env.str("CELERY_BROKER_URL", "{{ cookiecutter._brokers[cookiecutter.broker].url }}")
# Names of its own, so that several services can share a server.
#= task_default_queue = "{{ slug }}"
#= task_default_exchange = "{{ slug }}"
#= task_default_routing_key = "{{ slug }}"
#= control_exchange = "{{ slug }}.control"
#= event_exchange = "{{ slug }}.events"
# A worker outlives any restart of its broker.
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
# It also survives a channel that the broker closes.
broker_channel_error_retry = True
# A sender waits seconds, not minutes, for a broker that is gone.
broker_connection_timeout = 4
task_publish_retry_policy = {"max_retries": 1, "interval_start": 0.5, "interval_max": 0.5}
#% include "celery/broker/" ~ cookiecutter.broker ~ ".py"

# --- Pool -------------------------------------------------------------------------------------

# Windows cannot fork processes; there, a worker does its tasks one by one, without time limits.
worker_pool = "solo" if sys.platform == "win32" else "prefork"
# On macOS, whose libraries run threads, a fork is not safe: each process is started afresh.
worker_pool_start_method = "spawn" if sys.platform == "darwin" else "fork"
# Seconds; such a process first imports the service, which takes time on a busy machine.
worker_proc_alive_timeout = 60

# --- Limits -----------------------------------------------------------------------------------

# Seconds after which the process of a task is killed: no task runs forever.
task_time_limit = env.int("CELERY_TASK_TIME_LIMIT", 300)
# Seconds after which SoftTimeLimitExceeded is raised in the task, which can still clean up.
task_soft_time_limit = task_time_limit * 9 // 10
# Limits memory leaks: a process is replaced after this many tasks, or at this many KiB.
worker_max_tasks_per_child = 1000
worker_max_memory_per_child = 400_000

# --- Delivery: at least once ------------------------------------------------------------------

#% include "celery/delivery/" ~ cookiecutter.broker ~ ".py"
# A task is acknowledged when it is done, and goes back to its queue when its process dies.
task_acks_late = True
task_reject_on_worker_lost = True
# But not forever: a task that kills its process fails after its `max_retries`.
task_retry_on_worker_lost = True
# A message that was delivered again this many times, and killed the worker each time, becomes a
# dead letter. With a limit below 2, other tasks of that worker could become dead letters too.
redelivery_limit = env.int("CELERY_REDELIVERY_LIMIT", 3)
# Seconds that running tasks get after SIGTERM; then they go back to their queue. Send SIGKILL no
# earlier than 10 s after that.
shutdown_grace_period = env.float("CELERY_SHUTDOWN_GRACE_PERIOD", 25)
# The port at which the worker serves metrics; None for no metrics.
metrics_port = env.int("METRICS_PORT", None)
# With 1, a long task holds back no other. For tasks of milliseconds, 64 is faster.
worker_prefetch_multiplier = 1
# When the connection is lost, tasks are cancelled: the broker gives them to another worker.
worker_cancel_long_running_tasks_on_connection_loss = True

# --- Messages and results ---------------------------------------------------------------------

# JSON holds data only; a pickle could run code.
task_serializer = "json"
result_serializer = "json"
accept_content = ["json"]
#% include "celery/results/" ~ cookiecutter.result_backend ~ ".py"

# --- Schedule ---------------------------------------------------------------------------------

#= timezone = {{ cookiecutter.timezone | quoted }}
beat_schedule = {
    # An interval, which goes on over restarts of beat.
    "every-five-minutes": {
        "task": "{{ cookiecutter.__tasks }}.tell_time",
        "schedule": timedelta(minutes=5),
        "args": ("every five minutes",),
        # Seconds; a task that no worker takes in time is dropped, so that none pile up.
        "options": {"expires": 300},
    },
    # A time of day in the time zone above, once on each day.
    "every-morning": {
        "task": "{{ cookiecutter.__tasks }}.tell_time",
        "schedule": crontab(hour="6", minute="30"),
        "args": ("every morning",),
    },
#% if cookiecutter.project_type == "django"
    # Sends jobs that were not sent in so many seconds: by then, their senders have given up.
    "send-waiting-jobs": {
        "task": "jobs.tasks.send_waiting",
        "schedule": timedelta(seconds=30),
        "args": (30,),
        "options": {"expires": 3600},
    },
#% endif
}
