"""KubeRay's RayJob as a tree of names and types, reduced from its CRD, and a strict schema of it.

    python -m tests.kuberay 1.7.0 ray.io_rayjobs.yaml > tests/kuberay.json

writes the tree again; the CRD lies in KubeRay's repository (ray-operator/config/crd/bases). A leaf
of the tree is a type (`string`), several (`integer or string`) or the words allowed (`one of v1,
v2`); an array is a list of one; a map of any names has the key `*`; a pod's template is `pod`, and
checked as Kubernetes checks it.
"""

import json
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

POD = "pod"
_KUBERNETES = "1.37"
# what the CRD leaves open, or says in a rule of its own
_KNOWN = {
    "managedBy": "one of ray.io/kuberay-operator, kueue.x-k8s.io/multikueue",
    "serviceType": "one of ClusterIP, NodePort, LoadBalancer",
    "submissionMode": "one of K8sJobMode, HTTPMode, InteractiveMode, SidecarMode",
}


def tree_of(crd: dict[str, Any]) -> dict[str, Any]:
    """The fields of `spec`, with their types, of the version of a CRD that is stored."""
    stored = next(version for version in crd["spec"]["versions"] if version["storage"])
    tree: dict[str, Any] = _node(stored["schema"]["openAPIV3Schema"]["properties"]["spec"])
    return tree


def _node(schema: dict[str, Any]) -> Any:
    fields = schema.get("properties", {})
    if "containers" in fields.get("spec", {}).get("properties", {}):
        return POD
    if fields:
        return {name: _KNOWN.get(name) or _node(field) for name, field in fields.items()}
    if "items" in schema:
        return [_node(schema["items"])]
    if isinstance(of_all := schema.get("additionalProperties"), dict):
        return {"*": _node(of_all)}
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    return f"one of {', '.join(schema['enum'])}" if "enum" in schema else schema["type"]


def schema_of(tree: Any) -> dict[str, Any]:
    """The JSON schema of a tree; a name that is not in it is a mistake."""
    if isinstance(tree, list):
        return {"type": "array", "items": schema_of(tree[0])}
    if isinstance(tree, dict) and "*" in tree:
        return {"type": "object", "additionalProperties": schema_of(tree["*"])}
    if isinstance(tree, dict):
        fields = {name: schema_of(field) for name, field in tree.items()}
        return {"type": "object", "properties": fields, "additionalProperties": False}
    if tree == POD:
        return {"type": "object", "required": ["spec"]}
    if tree.startswith("one of "):
        return {"enum": tree.removeprefix("one of ").split(", ")}
    kinds = tree.split(" or ")
    return {"type": kinds} | ({"minimum": 0} if kinds == ["integer"] else {})


def with_every_field(tree: Any) -> Any:
    """A value that has every field of a tree, once."""
    if isinstance(tree, list):
        return [with_every_field(tree[0])]
    if isinstance(tree, dict):
        return {name: with_every_field(field) for name, field in tree.items()}
    if tree == POD:
        return {"spec": {"containers": [{"name": "a", "image": "b"}]}}
    if tree.startswith("one of "):
        return tree.removeprefix("one of ").split(", ")[0]
    values = {"string": "1", "integer": 1, "number": 0.5, "boolean": True, "object": {}}
    return values[tree.split(" or ")[0]]


def job_schema(tree: dict[str, Any]) -> dict[str, Any]:
    """The schema of a whole RayJob that brings a cluster, whose groups say how large they are."""
    spec = schema_of(tree)
    cluster = spec["properties"]["rayClusterSpec"]
    groups = cluster["properties"]["workerGroupSpecs"]["items"]
    spec["required"] = ["entrypoint", "rayClusterSpec"]
    cluster["required"] = ["headGroupSpec", "rayVersion"]
    groups["required"] = ["groupName", "minReplicas", "maxReplicas", "template"]
    for deadline in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        spec["properties"][deadline]["minimum"] = 1
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    names = {"name": {"type": "string"}, "namespace": {"type": "string"}}
    return {
        "type": "object",
        "properties": {
            "apiVersion": {"const": "ray.io/v1"},
            "kind": {"const": "RayJob"},
            "metadata": {
                "type": "object",
                "properties": names | {"labels": texts, "annotations": texts},
                "additionalProperties": False,
                "required": ["name"],
            },
            "spec": spec,
        },
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
    }


def check_rules(spec: dict[str, Any]) -> None:
    """Raises ValueError for what the operator refuses beyond its CRD (`validation.go`)."""
    rules = spec.get("deletionStrategy", {}).get("deletionRules", [])
    scales = spec["rayClusterSpec"].get("enableInTreeAutoscaling", False)
    if rules and spec.get("shutdownAfterJobFinishes"):
        raise ValueError("deletionRules and shutdownAfterJobFinishes exclude each other")
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        raise ValueError("ttlSecondsAfterFinished takes shutdownAfterJobFinishes: true")
    if scales and any(rule["policy"] == "DeleteWorkers" for rule in rules):
        raise ValueError("DeleteWorkers and enableInTreeAutoscaling exclude each other")


def check_pod(template: dict[str, Any]) -> None:
    """Raises kubernetes_validate.ValidationError where Kubernetes would refuse or ignore it."""
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}}
    kubernetes_validate.validate(pod | {"template": template}, _KUBERNETES, strict=True)


def check_object(thing: dict[str, Any]) -> None:
    """The same of an object of Kubernetes' own."""
    kubernetes_validate.validate(thing, _KUBERNETES, strict=True)


def main() -> None:
    version, file = sys.argv[1:]
    found = {"version": version, "spec": tree_of(yaml.safe_load(Path(file).read_text()))}
    sys.stdout.write(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
