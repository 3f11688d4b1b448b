#% if cookiecutter.project_type == "django"
# Results are rows of the project's database, those of django-celery-results.
#= result_backend = "{{ cookiecutter.__package }}.runtime.django_results:DatabaseBackend"
# Each result also has the name of its task and the arguments.
result_extended = True
#% else
result_backend = env.str("CELERY_RESULT_BACKEND", "db+sqlite:///results.sqlite3")
#% endif
#% include "celery/results/kept.py"
