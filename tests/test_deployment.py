"""What is generated for production: every file passes its checkers, and what they say is run."""

import base64
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis
import yaml

from tests import servers
from tests.deployed import (
    SERVERS,
    Compose,
    Kubernetes,
    interpolated,
    manifests,
    pods,
    rendered,
)
from tests.projects import COMBINATIONS, OTHERS, TEMPLATE, Bake, BakedProject
from tests.service import Service
from tests.test_quality import AWKWARD

SECRETS = {
    "BROKER_PASSWORD": "b" * 64,
    "DATABASE_PASSWORD": "d" * 64,
    "FLOWER_PASSWORD": "f" * 64,
    "SECRET_KEY": "s" * 64,
    "ALLOWED_HOSTS": "jobs.example.org",
}
TOOLS = Path(sys.executable).parent
SCHEMA = ("check-jsonschema", "--builtin-schema")
YAML = """\
extends: default
rules:
  comments: {min-spaces-from-content: 1}
  document-start: disable
  line-length: {max: 130}
  truthy: {check-keys: false}
"""
# Each with the files that it checks.
CHECKERS = {
    "hadolint": (("hadolint",), "Dockerfile"),
    "compose": ((*SCHEMA, "vendor.compose-spec"), "compose.yaml"),
    "compose-lint": (("compose-lint", "--quiet"), "compose.yaml"),
    "github": ((*SCHEMA, "vendor.github-workflows"), ".github/workflows/*.yml"),
    "timeouts": ((*SCHEMA, "custom.github-workflows-require-timeout"), ".github/workflows/*.yml"),
    "actionlint": (("actionlint",), ".github/workflows/*.yml"),
    "zizmor": (("zizmor", "--quiet", "--offline"), ".github/**/*.yml"),
    "dependabot": ((*SCHEMA, "vendor.dependabot"), ".github/dependabot.yml"),
    "gitlab": ((*SCHEMA, "vendor.gitlab-ci"), ".gitlab-ci.yml"),
    "renovate": ((*SCHEMA, "vendor.renovate"), "renovate.json"),
    "yamllint": (("yamllint", "--strict", "-d", YAML), "**/*.y*ml"),
}
# A slug that YAML without quotes takes for a truth value is awkward, too.
AWKWARD_ONES = [
    COMBINATIONS[1] | AWKWARD,
    COMBINATIONS[3] | AWKWARD | {"deployment": "kubernetes"},
    COMBINATIONS[9] | AWKWARD | {"ci": "gitlab", "deployment": "kubernetes"},
    COMBINATIONS[10] | {"project_slug": "off", "deployment": "kubernetes"},
]


@pytest.mark.parametrize("checker", CHECKERS)
def test_every_file_passes_its_checker(bake: Bake, checker: str) -> None:
    (program, *options), pattern = CHECKERS[checker]
    projects = [bake(**answers) for answers in [*COMBINATIONS, *OTHERS, *AWKWARD_ONES]]
    places = [*(project.path for project in projects), TEMPLATE]
    files = [
        path
        for place in places
        for path in sorted(place.glob(pattern))
        if not {".venv", "{{cookiecutter.project_slug}}", "templates"} & set(path.parts)
    ]
    assert files
    projects[0].run(TOOLS / program, *options, *files)


@pytest.mark.parametrize(
    ("ci", "name", "checkers"),
    [
        ("github", ".github/workflows/ci.yml", ("github", "actionlint", "zizmor")),
        ("gitlab", ".gitlab-ci.yml", ("gitlab",)),
    ],
)
def test_the_check_of_the_template_is_one_that_the_pipeline_can_have(
    project: Bake, ci: str, name: str, checkers: tuple[str, ...]
) -> None:
    made = project(ci=ci)
    comment = r"(?m)^( *)# Tells whether the template .*\n((?:\1# .*\n)+)"
    lines = re.search(comment, made.read(name))
    assert lines
    used = made.read(name).replace(lines[2], lines[2].replace("# ", ""))
    assert "- run: uvx cruft check" in used or "    - uvx cruft check" in used
    (made.path / name).write_text(used, encoding="utf-8")
    for checker in (*checkers, "yamllint"):
        (program, *options), _ = CHECKERS[checker]
        made.run(TOOLS / program, *options, name)


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
    ours = [each for each in services.values() if each["image"] == services["worker"]["image"]]
    # One build makes the image of all: each further one would leave the last without a name.
    assert [each for each in services.values() if "build" in each] == [services["worker"]]
    # As the first process of its container, none would notice a SIGTERM before it has a handler.
    assert all(each["init"] for each in ours)
    assert all(each["pull_policy"] == "never" for each in ours)
    # A command that starts a service of a profile is followed by others that do not see it.
    optional = [name for name in services if "profiles" in services[name]]
    starts = r"(?m)^\s*(?:- run: |- )?docker compose (?!exec ).+"
    commands = re.findall(starts, project.read("README.md"))
    assert commands
    assert not [line for line in commands if {"--profile", *optional} & set(line.split())]
    for name in needed:
        given = {other: value for other, value in SECRETS.items() if other != name}
        with pytest.raises(KeyError, match=f"{name}: set it in .env"):
            interpolated(text, given)


def test_no_container_may_do_more_than_it_needs(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    if "compose.yaml" not in project.files():
        return
    services = yaml.safe_load(interpolated(project.read("compose.yaml"), SECRETS))["services"]
    assert {"grafana", "prometheus"} <= set(services)
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["logging"] == {"driver": "local"}, name
        # From elsewhere, nobody reaches a port.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        if name not in SERVERS:
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"]), name
        for source, *_, mode in [each.split(":") for each in service.get("volumes", [])]:
            assert (project.path / source).is_dir() == (mode == "ro"), name


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_the_pipeline_tells_what_is_in_the_image_and_audits_it(bake: Bake, ci: str) -> None:
    path = {"github": ".github/workflows/ci.yml", "gitlab": ".gitlab-ci.yml"}[ci]
    pipeline = yaml.safe_load(bake(ci=ci).read(path))
    jobs = pipeline.get("jobs", pipeline)
    texts = {name: json.dumps(jobs[name]) for name in ("audit", "containers")}
    assert "uv audit" in texts["audit"]
    assert "schedule" in texts["audit"]
    assert (
        "--provenance=mode=max --sbom=true --output type=oci,dest=image.tar" in texts["containers"]
    )
    assert texts["containers"].count("image.tar") == 2  # it is kept, too
    without = yaml.safe_load(bake(ci=ci, deployment="none").read(path))
    assert "containers" not in without.get("jobs", without)


def test_actions_are_those_that_this_repository_uses_itself_or_knows(bake: Bake) -> None:
    used = re.findall(r"uses: (\S+ # \S+)", bake().read(".github/workflows/ci.yml"))
    assert len(used) == 6
    assert {re.split("[/@]", action)[1] for action in used} == {
        "checkout",
        "setup-uv",
        "upload-artifact",
    }
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    ours = (TEMPLATE / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert used[0] in ours


# --- Kubernetes -------------------------------------------------------------------------------

CLUSTERS = [each | {"deployment": "kubernetes"} for each in COMBINATIONS]
CLUSTERS += [each for each in AWKWARD_ONES if each.get("deployment") == "kubernetes"]


@pytest.mark.parametrize("overlay", ["base", "production"])
def test_what_kustomize_makes_is_what_a_cluster_accepts(
    bake: Bake, tmp_path: Path, overlay: str
) -> None:
    files = []
    for number, answers in enumerate(CLUSTERS):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(rendered(bake(**answers), overlay))
    done = subprocess.run(
        [TOOLS / "kubernetes-validate", "--strict", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    unknown = {line for line in said.splitlines() if " passed for resource " not in line}
    # It knows the kinds of Kubernetes alone.
    assert all("kind ScaledObject with api version keda.sh/v1alpha1" in line for line in unknown)
    assert len(unknown) == (len(CLUSTERS) if overlay == "production" else 0)


@pytest.mark.parametrize("overlay", ["base", "production"])
def test_no_pod_may_do_more_than_it_needs(bake: Bake, overlay: str) -> None:
    for answers in CLUSTERS:
        for pod in pods(manifests(bake(**answers), overlay)).values():
            assert pod["automountServiceAccountToken"] is False
            assert pod["enableServiceLinks"] is False
            # As the first process, none would notice a SIGTERM before it has a handler.
            assert pod["shareProcessNamespace"] is True
            # https://kubernetes.io/docs/concepts/security/pod-security-standards, "restricted".
            assert pod["securityContext"] == {
                "runAsNonRoot": True,
                **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), 10001),
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            assert not any("hostPath" in volume for volume in pod["volumes"])
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "readOnlyRootFilesystem": True,
                }
                asked, limits = (container["resources"][key] for key in ("requests", "limits"))
                assert asked["memory"] == limits["memory"]
                assert asked["cpu"]


def test_the_manifests_and_the_compose_file_say_the_same(bake: Bake) -> None:
    for answers in CLUSTERS:
        project = bake(**answers)
        services = yaml.safe_load(interpolated(project.read("compose.yaml"), SECRETS))["services"]
        for name, pod in pods(manifests(project, "base")).items():
            [container] = pod["containers"]
            assert container["command"] == services[name]["command"]
            grace = f"{pod['terminationGracePeriodSeconds']}s"
            assert grace == services[name]["stop_grace_period"]
            memory = services[name]["mem_limit"].upper() + "i"
            assert memory == container["resources"]["limits"]["memory"]


def test_the_cluster_has_two_beats_and_as_many_workers_as_it_is_told(bake: Bake) -> None:
    for answers in CLUSTERS:
        objects = manifests(bake(**answers), "production")
        named = {(each["kind"], each["metadata"]["name"]): each for each in objects}
        beat = named["Deployment", "beat"]["spec"]
        # The next version of the one comes before the last version of the other goes.
        assert (beat["replicas"], beat.get("strategy")) == (2, None)
        assert not [each for each in objects if each["kind"] == "PersistentVolumeClaim"]
        # An autoscaler and a number of its own would be at odds.
        assert "replicas" not in named["Deployment", "worker"]["spec"]


def test_ports_are_those_at_which_the_image_listens(bake: Bake) -> None:
    for answers in CLUSTERS:
        project = bake(**answers)
        listens = dict(re.findall(r"\b(METRICS_PORT|PORT)=(\d+)", project.read("Dockerfile")))
        objects = manifests(project, "base")
        ports = {
            port["name"]: str(port["containerPort"])
            for pod in pods(objects).values()
            for port in pod["containers"][0].get("ports", [])
        }
        web = {"http": listens["PORT"]} if "PORT" in listens else {}
        assert ports == {"metrics": listens["METRICS_PORT"]} | web
        [worker] = [
            each["spec"]["template"]["metadata"]["annotations"]
            for each in objects
            if (each["kind"], each["metadata"]["name"]) == ("Deployment", "worker")
        ]
        assert worker["prometheus.io/port"] == ports["metrics"]
        opened = [each["spec"]["ingress"] for each in objects if "ingress" in each.get("spec", {})]
        assert {rule["port"] for [policy] in opened for rule in policy["ports"]} == set(ports)


def test_no_manifest_holds_a_secret(bake: Bake) -> None:
    for answers in CLUSTERS:
        project = bake(**answers)
        objects = manifests(project, "production")
        assert not [each for each in objects if each["kind"] == "Secret"]
        shown = project.read("README.md").split("```ini\n")[1].split("```")[0]
        for name in re.findall(r"(?m)^(\w+)=", shown):
            for each in objects:
                assert name not in each.get("data", {}), name
        for url in re.findall(r"\w+://[^ \"/]*@", rendered(project, "production")):
            assert url == "redis://:$(REDIS_PASSWORD)@"


@pytest.mark.parametrize(
    "answers",
    [
        {"project_type": "celery", "broker": "redis", "result_backend": "redis"},
        {"project_type": "celery", "broker": "rabbitmq", "result_backend": "none"},
    ],
    ids=["redis", "rabbitmq"],
)
def test_the_autoscaler_looks_where_tasks_wait(
    bake: Bake, synced: Bake, answers: dict[str, str]
) -> None:
    objects = manifests(bake(**answers, deployment="kubernetes"), "production")
    [scaler] = [each["spec"] for each in objects if each["kind"] == "ScaledObject"]
    [trigger] = scaler["triggers"]
    read = trigger["metadata"]
    with servers.addresses(answers["broker"], answers["result_backend"]) as urls:
        service = Service(synced(**answers), urls["CELERY_BROKER_URL"])
        with service:
            service.run("uv", "run", "python", "-c", SEND.format(module="celery_app"), env=urls)
        if trigger["type"] == "redis":
            assert set(read) == {
                *("addressFromEnv", "passwordFromEnv"),
                *("databaseIndex", "listName", "listLength"),
            }
            url = urls["CELERY_BROKER_URL"].rpartition("/")[0]
            with redis.Redis.from_url(f"{url}/{read['databaseIndex']}") as client:
                assert client.llen(read["listName"]) == 38
        else:
            assert set(read) == {"hostFromEnv", "mode", "queueName", "value"}
            assert (read["mode"], read["hostFromEnv"]) == ("QueueLength", "CELERY_BROKER_URL")
            with kombu.Connection(urls["CELERY_BROKER_URL"]) as connection:
                channel: Any = connection.channel()
                assert channel.queue_declare(read["queueName"], passive=True).message_count == 38


# --- What runs --------------------------------------------------------------------------------

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
    """Give a project with addresses and secrets, which must not get into an image."""
    deployment = request.getfixturevalue("deployment")
    made = project(**request.param, deployment=deployment)
    for name in (".env", ".env.production"):
        (made.path / name).write_text("CELERY_BROKER_URL=redis://localhost:1/0\n")
    return made


RUNNERS: dict[str, type[Compose]] = {"compose": Compose, "kubernetes": Kubernetes}


@pytest.mark.parametrize("deployment", RUNNERS)
@pytest.mark.parametrize(
    "made",
    [
        {"project_type": "celery", "broker": "redis", "result_backend": "redis"},
        {"project_type": "django", "broker": "rabbitmq", "result_backend": "database"},
    ],
    ids=["celery-redis-redis", "django-rabbitmq-database"],
    indirect=True,
)
def test_what_the_deployment_says_runs_and_loses_no_task(
    made: BakedProject, deployment: str, tmp_path: Path
) -> None:
    with RUNNERS[deployment](made, tmp_path, SECRETS) as compose:
        built = compose.image.files()
        assert not [name for name in built if Path(name).name.startswith(".env")]
        own = [
            path for path in map(Path, built) if path.suffix == ".py" and ".venv" not in path.parts
        ]
        assert all([*path.parent.glob(f"__pycache__/{path.stem}.*.pyc")] for path in own)
        first, second = compose.up("worker", scale=2)
        compose.up("beat")
        if "web" in compose.services:
            answers_on_the_web(compose)

        module = "jobs" if "web" in compose.services else "celery_app"
        ids = python(compose, SEND.format(module=module)).split()
        first.process.wait_for(r"received")
        assert first.stop() == 0
        python(compose, FETCH.format(module=module, ids=ids))
        assert len(re.findall("succeeded", first.process.output)) > 0
        assert len(re.findall("succeeded", second.process.output)) > 0

        if "flower" in compose.services:
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
    for address in ("/", "/admin/login/"):
        status, page = get(url + address, **proxy)
        assert status == 200
        # Under names that change with what the files contain, to be cached for ever.
        files = re.findall(r'"(/static/[^"]+\.[0-9a-f]{12}\.(?:css|js|svg))"', page)
        assert len(files) >= 3, page
        for file in files:
            assert get(url + file, **proxy)[0] == 200, file
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
