"""What is generated for production: every file passes its checkers, and what they say is run."""

import base64
import json
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.compose import Compose, interpolated
from tests.conftest import COMBINATIONS, OTHERS, TEMPLATE, Bake, BakedProject
from tests.test_quality import AWKWARD

SECRETS = {
    "BROKER_PASSWORD": "b" * 64,
    "DATABASE_PASSWORD": "d" * 64,
    "FLOWER_PASSWORD": "f" * 64,
    "SECRET_KEY": "s" * 64,
    "ALLOWED_HOSTS": "jobs.example.org",
}
SCHEMA = ("check-jsonschema", "--builtin-schema")
YAML = """\
extends: default
rules:
  comments: {min-spaces-from-content: 1}
  document-start: disable
  line-length: {max: 110}
  truthy: {check-keys: false}
"""
# Each with the files that it checks.
CHECKERS = {
    "hadolint": (("hadolint",), "Dockerfile"),
    "compose": ((*SCHEMA, "vendor.compose-spec"), "compose.yaml"),
    "compose-lint": (("compose-lint", "--quiet"), "compose.yaml"),
    "github": ((*SCHEMA, "vendor.github-workflows"), ".github/workflows/*.yml"),
    "timeouts": ((*SCHEMA, "custom.github-workflows-require-timeout"), ".github/workflows/*.yml"),
    "zizmor": (("zizmor", "--quiet", "--offline"), ".github/**/*.yml"),
    "dependabot": ((*SCHEMA, "vendor.dependabot"), ".github/dependabot.yml"),
    "gitlab": ((*SCHEMA, "vendor.gitlab-ci"), ".gitlab-ci.yml"),
    "yamllint": (("yamllint", "--strict", "-d", YAML), "**/*.y*ml"),
}
AWKWARD_ONES = [COMBINATIONS[1] | AWKWARD, COMBINATIONS[9] | AWKWARD | {"ci": "gitlab"}]


@pytest.mark.parametrize("checker", CHECKERS)
def test_every_file_passes_its_checker(bake: Bake, checker: str) -> None:
    (program, *options), pattern = CHECKERS[checker]
    projects = [bake(**answers) for answers in [*COMBINATIONS, *OTHERS, *AWKWARD_ONES]]
    files = [path for project in projects for path in sorted(project.path.glob(pattern))]
    assert files
    projects[0].run(Path(sys.executable).parent / program, *options, *files)


def test_compose_refuses_to_start_without_any_of_its_secrets(
    bake: Bake, answers: dict[str, str]
) -> None:
    project = bake(**answers)
    if "compose.yaml" not in project.files():
        return
    text = project.read("compose.yaml")
    needed = {name for name in SECRETS if f"${{{name}" in text}
    assert {"BROKER_PASSWORD", "FLOWER_PASSWORD"} <= needed
    services = yaml.safe_load(interpolated(text, SECRETS))["services"]
    assert len([name for name in services if "beat" in name]) == 1
    for name in needed:
        given = {other: value for other, value in SECRETS.items() if other != name}
        with pytest.raises(KeyError, match=f"{name}: set it in .env"):
            interpolated(text, given)


def test_actions_are_those_that_this_repository_uses_itself_or_knows(bake: Bake) -> None:
    used = re.findall(r"uses: (\S+ # \S+)", bake().read(".github/workflows/ci.yml"))
    assert len(used) == 3
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    ours = (TEMPLATE / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert used[0] in ours


SEND = """
from {module} import tasks
print(*[tasks.report.delay(4).id for _ in range(8)], *[tasks.add.delay(n, n).id for n in range(30)])
"""
FETCH = """
import {module}
from celery.result import AsyncResult
for task in {ids}:
    AsyncResult(task).get(timeout=100)
"""


def python(compose: Compose, code: str) -> str:
    """Run Python where a worker runs, and return what it printed."""
    django = ("python", "manage.py", "shell", "--verbosity", "0", "--command")
    shell = django if "web" in compose.services else ("python", "-c")
    return compose.up("worker")[0].run(*shell, code).stdout


def get(url: str, **headers: str) -> tuple[int, str]:
    """Return the status and the body of an answer."""
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


@pytest.fixture
def made(project: Bake, request: pytest.FixtureRequest) -> BakedProject:
    """Give a project with its developer's own addresses, which must not get into an image."""
    made = project(**request.param)
    (made.path / ".env").write_text("CELERY_BROKER_URL=redis://localhost:1/0\n")
    return made


@pytest.mark.parametrize(
    "made",
    [
        {"project_type": "celery", "broker": "redis", "result_backend": "redis"},
        {"project_type": "django", "broker": "rabbitmq", "result_backend": "database"},
    ],
    ids=["celery-redis-redis", "django-rabbitmq-database"],
    indirect=True,
)
def test_what_compose_says_runs_and_loses_no_task(made: BakedProject, tmp_path: Path) -> None:
    with Compose(made, tmp_path, SECRETS) as compose:
        built = compose.image.files()
        assert not [name for name in built if Path(name).name == ".env"]
        first, second = compose.up("worker", scale=2)
        compose.up("beat")
        compose.up("flower")
        if "web" in compose.services:
            answers_on_the_web(compose)

        module = "jobs" if "web" in compose.services else "celery_app"
        ids = python(compose, SEND.format(module=module)).split()
        first.process.wait_for(r"received")
        assert first.stop() == 0
        python(compose, FETCH.format(module=module, ids=ids))
        assert len(re.findall("succeeded", first.process.output)) > 0
        assert len(re.findall("succeeded", second.process.output)) > 0

        flower_asks_who_is_there(compose)
        for name in ("flower", "web", "beat", "worker"):
            for container in compose.started.get(name, []):
                assert container.stop() == 0, name
        # A file system that can only be read does for everything.
        assert compose.image.files() == built


def answers_on_the_web(compose: Compose) -> None:
    """See that the web server serves pages and files to a proxy, and jobs are done."""
    [web] = compose.up("web")
    url = f"http://localhost:{web.port}"
    proxy = {"Host": "jobs.example.org", "X-Forwarded-Proto": "https"}
    status, page = get(f"{url}/admin/login/", **proxy)
    assert status == 200
    style = re.findall(r'href="(/static/[^"]+\.css)"', page)
    assert get(f"{url}{style[0]}", **proxy)[0] == 200
    assert get(f"{url}/admin/login/", **proxy | {"Host": "evil.example.org"})[0] == 400
    body = json.dumps({"x": 2, "y": 3}).encode()
    request = urllib.request.Request(  # noqa: S310
        f"{url}/jobs/add/", data=body, headers=proxy | {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        job: dict[str, Any] = json.load(answer)
    python(compose, FETCH.format(module="jobs", ids=[job["id"]]))
    assert json.loads(get(url + job["url"], **proxy)[1])["result"] == 5


def flower_asks_who_is_there(compose: Compose) -> None:
    """See that Flower shows nothing without the password."""
    [flower] = compose.up("flower")
    login = base64.b64encode(f"admin:{SECRETS['FLOWER_PASSWORD']}".encode()).decode()
    for page in ("workers", "broker", "api/tasks"):
        url = f"http://localhost:{flower.port}/{page}"
        assert get(url)[0] == 401, page
        assert get(url, Authorization=f"Basic {login}")[0] == 200, page
