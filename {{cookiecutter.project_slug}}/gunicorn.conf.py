"""Settings of the web server: `gunicorn` finds them here. It listens at the environment's PORT.

The names are those of https://docs.gunicorn.org/en/stable/settings.html.
"""

#= from {{ cookiecutter.project_slug }}.runtime import web

#= wsgi_app = "{{ cookiecutter.project_slug }}.wsgi"
# A request mostly waits, for the database or the broker: each process serves several at once.
workers = 2
threads = 4
# Leaks end: a process is replaced after so many requests, not all of them at the same time.
max_requests = 1000
max_requests_jitter = 100
logconfig_dict = web.log_configuration()
# No socket to steer it from outside.
control_socket_disable = True
