"""Settings of the web server, read by `gunicorn`. It listens on the port in the variable PORT.

The names are those of https://docs.gunicorn.org/en/stable/settings.html.
"""

#= from {{ cookiecutter.project_slug }}.runtime import web

#= wsgi_app = "{{ cookiecutter.project_slug }}.wsgi"
# Requests mostly wait for the database or the broker, so each process serves several at once.
workers = 2
threads = 4
# Against memory leaks: each process is replaced after this many requests, not all at once.
max_requests = 1000
max_requests_jitter = 100
logconfig_dict = web.log_configuration()
# Nobody uses it, and the file system is read-only in production.
control_socket_disable = True
