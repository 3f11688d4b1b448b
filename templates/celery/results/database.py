#% if cookiecutter.project_type == "django"
# Results are rows of the project's database, stored by django-celery-results.
result_backend = "django-db"
# They show their task and its arguments.
result_extended = True
#% else
result_backend = env.str("CELERY_RESULT_BACKEND", "db+sqlite:///results.sqlite3")
#% endif
#% include "celery/results/kept.py"
