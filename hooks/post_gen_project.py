"""Drop what the answers don't need, and say what to do next.

Runs in the generated project's directory, with the standard library alone.
"""

import json
from pathlib import Path

# In single quotes, since tojson escapes those and leaves double ones.
ANSWERS = json.loads(r'''{{ cookiecutter | tojson }}''')  # fmt: skip  # noqa: Q001
PACKAGE = ANSWERS["__package"]

# Per question and answer: what is not of that project.
DROPPED = {
    "project_type": {
        "celery": [
            "deploy/kubernetes/base/migrate.yaml",
            "deploy/kubernetes/base/web.yaml",
            "gunicorn.conf.py",
            "manage.py",
            "jobs",
            "tests/test_admin.py",
            "tests/test_page.py",
            "tests/test_views.py",
            f"{PACKAGE}/asgi.py",
            f"{PACKAGE}/runtime/django.py",
            f"{PACKAGE}/runtime/web.py",
            f"{PACKAGE}/celery.py",
            f"{PACKAGE}/settings.py",
            f"{PACKAGE}/urls.py",
            f"{PACKAGE}/wsgi.py",
        ],
        "django": [
            "app.py",
            "tests/test_app.py",
            f"{PACKAGE}/celeryconfig.py",
            f"{PACKAGE}/tasks.py",
        ],
    },
    "broker": {
        "redis": [f"{PACKAGE}/runtime/rabbitmq.py"],
        "rabbitmq": [f"{PACKAGE}/runtime/redis.py", f"{PACKAGE}/runtime/redis_transport.py"],
    },
    "result_backend": {
        "none": ["jobs/static/jobs/jobs.js"],  # nothing on the page changes by itself
    },
    "ci": {
        "github": [".gitlab-ci.yml", "renovate.json"],
        "gitlab": [".github"],
        "none": [".github", ".gitlab-ci.yml", "renovate.json"],
    },
    "deployment": {
        "compose": ["deploy"],
        "none": [".dockerignore", "Dockerfile", "compose.yaml", "deploy"],
    },
}


def drop(path: Path) -> None:
    """Remove the file or the directory at ``path``."""
    if path.is_dir():
        for child in path.iterdir():
            drop(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)  # another answer may have dropped it


for question, answers in DROPPED.items():
    for name in answers.get(ANSWERS[question], []):
        drop(Path(name))

STEPS = {
    "celery": [
        ("honcho start", "broker, worker, beat and Flower; Ctrl-C stops them"),
        ("python app.py", "in a second terminal: sends tasks, shows them finish"),
    ],
    "django": [
        ("honcho start", "broker, worker, beat, Flower and web; Ctrl-C stops them"),
    ],
}
print(f"\nNext:\n    cd {ANSWERS['project_slug']}")
for command, meaning in [("pytest", "its tests"), *STEPS[ANSWERS["project_type"]]]:
    print(f"    uv run {command:26}# {meaning}")
print("Its README tells the rest.")
