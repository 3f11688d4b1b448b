"""Remove the directories that stayed empty, and say what to do next.

Runs in the generated project's directory. It imports nothing that Python has not loaded already:
`pathlib` and `json` would double its time.
"""

import os

# Where files are dropped, and where Python may have left a `__pycache__` in the template.
for top in (".github", "deploy", "jobs", "{{ cookiecutter.__package }}"):
    for directory, _, _ in os.walk(top, topdown=False):
        if not os.listdir(directory):
            os.rmdir(directory)

# With RabbitMQ, honcho starts no broker.
first = "{{ 'broker, ' if cookiecutter.broker == 'redis' }}"
last = "{{ ', on your RabbitMQ' if cookiecutter.broker == 'rabbitmq' }}"
shows = "{{ ', shows them finish' if cookiecutter.result_backend != 'none' }}"
STEPS = {
    "celery": [
        ("honcho start", f"{first}worker, beat and Flower{last}; Ctrl-C stops them"),
        ("python app.py", f"in a second terminal: sends tasks{shows}"),
    ],
    "django": [
        ("honcho start", f"{first}worker, beat, Flower and web{last}; Ctrl-C stops them"),
    ],
}
print("\nNext:\n    cd {{ cookiecutter.project_slug }}")
for command, meaning in [("pytest", "its tests"), *STEPS["{{ cookiecutter.project_type }}"]]:
    print(f"    uv run {command:26}# {meaning}")
print("Its README tells the rest.")
