# Seconds after which another worker gets the tasks of one that was killed, or is silent. It must be
# longer than any task: in the solo pool, a worker is silent while a task runs.
_visibility_timeout = env.int("CELERY_VISIBILITY_TIMEOUT", 2 * task_time_limit)
broker_transport_options: dict[str, Any] = {
    "global_keyprefix": "{{ cookiecutter.project_slug }}:",
    "visibility_timeout": _visibility_timeout,
    # Seconds between checks for such tasks; with the default, they come up to 90 s late.
    "unacked_restore_interval": min(_visibility_timeout / 2, 10),
    "unacked_restore_throttle": 1,
    # Seconds until a server that does not answer counts as down.
    "socket_timeout": 5,
    "socket_connect_timeout": 4,
    "socket_keepalive": True,
    "health_check_interval": 25,
    **_sentinel,
}
