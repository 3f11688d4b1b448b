#= result_backend = env.str("CELERY_RESULT_BACKEND", "{{ cookiecutter._results_url }}")
#% if cookiecutter.broker == "rabbitmq"
#% include "celery/sentinel.py"
#% endif
result_backend_transport_options: dict[str, Any] = {
    "global_keyprefix": "{{ cookiecutter.project_slug }}:",
    # A sender that waits for a result notices within seconds that the server is gone.
    "retry_policy": {"max_retries": 2, "interval_start": 0, "interval_step": 0.5, "timeout": 10},
    **_sentinel,
}
# Seconds until a server that does not answer counts as down.
redis_socket_timeout = 5
redis_socket_connect_timeout = 4
redis_socket_keepalive = True
redis_backend_use_ssl = _tls if result_backend.startswith(_tls_schemes) else None
#% include "celery/results/kept.py"
