"""What makes the service hold when things break: it comes with the template.

An update of the template updates these modules, so do not edit them: to change what they do, use a
setting or a subclass of your own. They know nothing of your code; `logs`, `metrics` and `poison`
are parts that your code switches on.

`app`
    The classes of the app and its tasks. Sending fails in one way, with
    `kombu.exceptions.OperationalError`, and within seconds.
`redis` or `rabbitmq`
    The app on this broker: import `ReliableCelery` from here.
`rabbitmq_transport`, on RabbitMQ
    A connection is made to the first address that answers. Nothing waits long while RabbitMQ blocks
    publishers or a queue has no leader, and remote control never does.
`redis_transport`, `delayed`, on Redis
    A message is recorded in the step that takes it, so none is lost; tasks with a delay wait in
    Redis. `python -m <package>.runtime.delayed` lists them.
`results`, where Redis is the broker or has the results
    Results can be stored while the Redis that keeps them is full.
`sentinel`, where Redis is the broker or has the results
    The master that Redis Sentinel names: found in time, and left when it is no master any more.
`django`, in a Django project
    Tasks that are sent when a transaction is committed.
`django_results`, in a Django project whose database has the results
    Results are stored once the database is back.
`worker`
    What the worker's main process does with a task. A task that runs out of memory fails alone,
    each result is stored, and a warm shutdown ends after `shutdown_grace_period`, with every pool.
`checks`
    A worker or beat with a setting that nobody reads, or that cannot work, does not start. Names
    that a plug-in reads are listed in the setting `known_settings`.
`beat`
    Any number of beats send each entry once: one leads, and another one takes over from it. A run
    that the broker does not take stays due, and a crontab holds on the days when clocks change.
`heartbeat`, `health`
    Files that a worker and beat keep fresh, and the probe that reads them.
`revoked`
    A task that is revoked while it waits does not run, whichever workers are there until its turn
    comes. The broker keeps what is revoked for a week.
`poison`, `letters`, `dead_letters`
    A message that is no task for a worker, or that kills it again and again, is put aside; the
    command `python -m <package>.runtime.dead_letters` lists such messages and puts them back.
    To take them out, remove `poison.install(app)`, the three modules, and in `tests/` what names
    dead letters.
`logs`, and `web` in a Django project
    Logs of one line for each event, readable or as JSON, with the ids of tasks and web requests.
    To take them out, remove `logs.install(app)`, the modules, and `structlog` from
    `pyproject.toml`; in a Django project also `LOGGING_CONFIG` in `settings.py`, and each line
    that names `web` there and in `gunicorn.conf.py`. Celery and Django then log as they do by
    default.
`metrics`
    Metrics for Prometheus. To take it out, remove `metrics.install(app)`, the module,
    `prometheus-client` from `pyproject.toml`, and what names `METRICS_PORT`.
"""

# The release of the template that this package came with.
__version__ = "1.0.0"
