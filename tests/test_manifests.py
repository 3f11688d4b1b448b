"""What a cluster makes of the manifests: an apply that changes nothing, a rollout that fits."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from tests.deployed import manifests, pods
from tests.projects import Bake
from tests.test_deployment import CLUSTERS

# A node of two cores and 8 GiB gives pods about 1.9 and 6.5, some of it to those of the cluster.
NODE = {"cpu": 1.6, "memory": 6.0}
UNITS = {"": 1.0, "m": 0.001, "Mi": 1 / 1024, "Gi": 1.0}
QUANTITY = re.compile(r"(\d+)(m|[KMGT]i|)")
SCHEMAS = files("kubernetes_validate") / "kubernetes-json-schema" / "v1.37.0-local"
DEFINITIONS = json.loads((SCHEMAS / "_definitions.json").read_text())["$defs"]


def normal(quantity: str) -> bool:
    """Tell whether the API server would write a quantity in the same way."""
    match = QUANTITY.fullmatch(quantity)
    step = {"": 1e9, "m": 1000}.get(match[2], 1024) if match else 1
    return match is not None and int(match[1]) % step != 0


def unlike_the_server(value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:  # noqa: ANN401
    """Yield what the API server keeps in another form: kubectl would change it at each apply.

    That is a quantity which is not in its normal form, and a default which is missing where kubectl
    replaces a list as a whole, since its items have no key.
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name.endswith(".Quantity") and not normal(str(value)):
            yield f"{path}: {value}"
        schema = DEFINITIONS[name] | {key: schema[key] for key in schema if key != "$ref"}
    if isinstance(value, dict):
        further = schema.get("additionalProperties", {})
        for key, each in value.items():
            within = schema.get("properties", {}).get(key, further)
            yield from unlike_the_server(each, within, f"{path}.{key}")
    elif isinstance(value, list):
        item = schema["items"]
        known = DEFINITIONS[item["$ref"].rpartition("/")[2]] if "$ref" in item else {}
        for each in value:
            yield from unlike_the_server(each, item, f"{path}[]")
            if "x-kubernetes-patch-merge-key" not in schema:
                for name, about in known.get("properties", {}).items():
                    if name not in each and "defaults to" in about.get("description", ""):
                        yield f"{path}[].{name} is missing"


def test_an_apply_of_what_is_there_already_changes_nothing(bake: Bake) -> None:
    for answers in CLUSTERS:
        for each in manifests(bake(**answers), "production"):
            group, _, version = each["apiVersion"].rpartition("/")
            words = [each["kind"].lower(), *filter(None, [group.partition(".")[0]]), version]
            schema = SCHEMAS / f"{'-'.join(words)}.json"
            if each["kind"] == "ScaledObject":  # Kubernetes knows nothing of its fields
                continue
            assert not [*unlike_the_server(each, json.loads(schema.read_text()), each["kind"])]


def asked(pod: dict[str, Any], resource: str) -> float:
    """Return the cores or GiB that a pod asks for: the most of its containers, one at a time."""
    [container] = pod["containers"]
    each = [container, *pod.get("initContainers", [])]
    quantities = [QUANTITY.fullmatch(one["resources"]["requests"][resource]) for one in each]
    return max(int(found[1]) * UNITS[found[2]] for found in quantities if found)


def test_a_node_of_two_cores_has_room_for_a_rollout(bake: Bake) -> None:
    for answers in CLUSTERS:
        objects = manifests(bake(**answers), "production")
        counts = {each["metadata"]["name"]: each["spec"].get("replicas", 1) for each in objects
                  if each["kind"] in {"Deployment", "Job"}}  # fmt: skip
        [scaler] = [each["spec"] for each in objects if each["kind"] == "ScaledObject"]
        counts[scaler["scaleTargetRef"]["name"]] = scaler["minReplicaCount"]
        every = pods(objects)
        assert counts.keys() == every.keys()
        jobs = {each["metadata"]["name"] for each in objects if each["kind"] == "Job"}
        # By default, one pod more than replicas: a quarter of them, rounded up.
        surge = {name: 0 if name in jobs else -(-count // 4) for name, count in counts.items()}
        for resource, room in NODE.items():
            total = sum(
                asked(pod, resource) * (counts[name] + surge[name]) for name, pod in every.items()
            )
            assert total <= room, (resource, total)
        # Old pods that still end their tasks keep their share: at most, all beside all new ones.
        cores = sum(asked(pod, "cpu") * counts[name] * (1 if name in jobs else 2)
                    for name, pod in every.items())  # fmt: skip
        assert cores <= NODE["cpu"], cores
