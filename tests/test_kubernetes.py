"""What is under cluster/kubernetes is what KubeRay and Kubernetes take, and what it should be."""

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from denoise import flags
from denoise.__main__ import _config_of
from tests import kuberay

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
KUBERNETES = CLUSTER / "kubernetes"
KUBERAY = json.loads((ROOT / "tests/kuberay.json").read_text())["spec"]
SCHEMA = kuberay.job_schema(KUBERAY)
JOBS = ("infer", "train")
OVERLAYS = ("eks", "gke")
needs_kubectl = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="kubectl is not here; kustomize comes with it"
)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_what_kuberay_takes(job: str):
    check_ray_job(_job(job))


def test_every_other_object_is_what_kubernetes_takes():
    plain = [one for one in _objects() if not one["apiVersion"].startswith("ray.io/")]
    kinds = {"Namespace", "ServiceAccount", "NetworkPolicy", "PodDisruptionBudget"}
    assert {one["kind"] for one in plain} == kinds
    for one in plain:
        kuberay.check_object(one)


def test_every_field_that_kuberay_has_is_accepted():
    job = _job("infer") | {"spec": kuberay.with_every_field(KUBERAY)}
    jsonschema.validate(job, SCHEMA)


@pytest.mark.parametrize(
    "field",
    [  # what 1.6 and 1.7 brought
        "preRunningDeadlineSeconds",
        "deletionStrategy.deletionRules.0.condition.jobDeploymentStatus",
        "rayClusterSpec.authOptions.secretName",
        "rayClusterSpec.gcsFaultToleranceOptions.backend",
        "rayClusterSpec.historyServerOptions.collectorOptions.image",
        "rayClusterSpec.networkPolicy.mode",
        "rayClusterSpec.tlsOptions.enabled",
        "rayClusterSpec.workerGroupSpecs.0.priority",
    ],
)
def test_a_field_of_the_newest_versions_is_known(field: str):
    assert _at(KUBERAY, field) is not None


def test_a_typo_at_any_depth_of_a_job_is_refused():
    full = _job("infer") | {"spec": kuberay.with_every_field(KUBERAY)}
    validator = jsonschema.validators.validator_for(SCHEMA)(SCHEMA)
    paths = [path for path in _objects_in(KUBERAY) if "*" not in path]
    assert len(paths) > 60
    for path in paths:
        job = copy.deepcopy(full)
        _at(job["spec"], ".".join(path))["tpyo"] = "1"
        assert not validator.is_valid(job), path


@pytest.mark.parametrize(
    ("where", "typo"),
    [
        ("spec.rayClusterSpec.headGroupSpec.template.spec", "serviceAcountName"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0", "resource"),
        ("spec.submitterPodTemplate.spec.containers.0.securityContext", "runAsNoneRoot"),
        ("spec.rayClusterSpec.autoscalerOptions.securityContext", "runAsNoneRoot"),
    ],
)
def test_a_typo_in_a_pod_is_refused(where: str, typo: str):
    job = _job("infer")
    _at(job, where)[typo] = 1
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)) as raised:
        check_ray_job(job)
    assert typo in str(raised.value)


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("spec", "activeDeadlineSeconds", 0),
        ("spec", "preRunningDeadlineSeconds", 0),
        ("spec", "ttlSecondsAfterFinished", "300"),
        ("spec", "submissionMode", "K8sJob"),
        ("spec.rayClusterSpec.autoscalerOptions", "upscalingMode", "Fast"),
        ("spec.rayClusterSpec.headGroupSpec", "serviceType", "Cluster"),
        ("spec.rayClusterSpec.headGroupSpec", "rayStartParams", {"num-cpus": 0}),
        # the operator's own rules
        ("spec", "shutdownAfterJobFinishes", False),
        ("spec", "deletionStrategy", {"deletionRules": [{"policy": "DeleteCluster"}]}),
    ],
)
def test_a_wrong_value_in_a_job_is_refused(where: str, name: str, value: Any):
    job = _job("infer")
    _at(job, where)[name] = value
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        check_ray_job(job)


def test_workers_cannot_be_deleted_before_the_head_where_ray_scales_them():
    job = _job("train")
    job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] = True
    with pytest.raises(ValueError, match="DeleteWorkers"):
        check_ray_job(job)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_ends_soon_whatever_goes_wrong_and_buys_no_second_cluster(job: str):
    spec = _job(job)["spec"]
    assert spec["backoffLimit"] == 0  # exit codes 2 and 3 too would be tried again
    assert "submitterConfig" not in spec  # a dead submitter is started again
    assert spec["preRunningDeadlineSeconds"] <= 3600
    assert spec["activeDeadlineSeconds"] < 86400


@pytest.mark.parametrize("job", JOBS)
def test_of_a_job_that_ended_or_never_began_nothing_is_left_after_ten_minutes(job: str):
    spec = _job(job)["spec"]
    if spec.get("shutdownAfterJobFinishes"):
        assert spec["ttlSecondsAfterFinished"] <= 600
        assert all(group["minReplicas"] <= 1 for group in _groups(spec))
        return
    rules = spec["deletionStrategy"]["deletionRules"]
    ends = [
        rule["condition"].get("jobStatus", rule["condition"].get("jobDeploymentStatus"))
        for rule in rules
        if rule["policy"] == "DeleteCluster" and rule["condition"]["ttlSeconds"] <= 600
    ]
    assert sorted(ends) == ["FAILED", "Failed", "SUCCEEDED"]
    at_once = [rule["condition"] for rule in rules if rule["policy"] == "DeleteWorkers"]
    assert {one["jobStatus"]: one["ttlSeconds"] for one in at_once} == {"FAILED": 0, "SUCCEEDED": 0}


@pytest.mark.parametrize("job", JOBS)
def test_nothing_of_a_job_is_open_to_the_world(job: str):
    cluster = _job(job)["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    head = cluster["headGroupSpec"]
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    policy = _named("NetworkPolicy", "denoise")["spec"]
    for template in _pods(_job(job)):
        labels = template["metadata"]["labels"].items()
        assert policy["podSelector"]["matchLabels"].items() <= labels
        assert "hostNetwork" not in template["spec"]
    operators = [
        peer["podSelector"]["matchLabels"] for rule in policy["ingress"] for peer in rule["from"]
    ]
    assert {"app.kubernetes.io/name": "kuberay-operator"} in operators  # by helm
    assert {"app.kubernetes.io/component": "kuberay-operator"} in operators  # by kustomize


@pytest.mark.parametrize("policy", ["denoise", "denoise-head"])
def test_no_pod_reaches_the_metadata_server(policy: str):
    spec = _named("NetworkPolicy", policy)["spec"]
    assert "Egress" in spec["policyTypes"]
    blocks = [
        peer["ipBlock"]
        for rule in spec["egress"]
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    assert blocks
    for block in blocks:
        assert block["cidr"] != "0.0.0.0/0" or "169.254.0.0/16" in block["except"]
    open_to_all = [rule["ports"] for rule in spec["egress"] if "to" not in rule]
    assert all(port["port"] == 53 for ports in open_to_all for port in ports)


@pytest.mark.parametrize("job", JOBS)
def test_every_container_is_locked_and_asks_for_what_it_may_use(job: str):
    pods = list(_pods(_job(job)))
    containers = [container for pod in pods for container in pod["spec"]["containers"]]
    for container in (*containers, *_autoscaler(_job(job))):
        locked = container["securityContext"]
        assert locked["allowPrivilegeEscalation"] is False
        assert locked["readOnlyRootFilesystem"] is True
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert {"mountPath": "/tmp", "name": "tmp"} in container["volumeMounts"]
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
    for pod in pods:
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    for container in containers:
        asked = container["resources"]
        assert asked["requests"]["ephemeral-storage"] == asked["limits"]["ephemeral-storage"]
        assert ":latest" not in container["image"]


@pytest.mark.parametrize("job", JOBS)
def test_only_a_head_that_scales_has_a_token_of_kubernetes(job: str):
    scales = _job(job)["spec"]["rayClusterSpec"].get("enableInTreeAutoscaling", False)
    for pod in _pods(_job(job)):
        part = pod["metadata"]["labels"]["part"]
        account = pod["spec"].get("serviceAccountName", "default")
        assert account == {"head": "denoise-head", "worker": "denoise-worker"}.get(part, "default")
        has_token = pod["spec"].get("automountServiceAccountToken", True)
        assert has_token == (part == "head" and scales)


@pytest.mark.parametrize("job", JOBS)
def test_a_worker_fits_a_node_of_eight_cpus_and_two_fit_one_of_sixteen(job: str):
    for group in _groups(_job(job)["spec"]):
        asked = group["template"]["spec"]["containers"][0]["resources"]
        assert asked["requests"] == asked["limits"]
        # what Kubernetes leaves of a node, with half a CPU for what runs on every node
        assert float(asked["requests"]["cpu"]) <= 7.91 - 0.5
        assert 2 * float(asked["requests"]["cpu"]) <= 15.89 - 0.5
        assert int(asked["requests"]["memory"].removesuffix("Gi")) <= 28 - 2


@pytest.mark.parametrize("job", JOBS)
def test_what_must_last_is_protected_from_eviction(job: str):
    budget = _named("PodDisruptionBudget", f"denoise-{job}")["spec"]
    lasting = [
        pod
        for pod in _pods(_job(job))
        if pod["metadata"]["labels"]["part"] in ("head", "submitter")
    ]
    assert budget["minAvailable"] == len(lasting) == 2
    for pod in lasting:
        assert budget["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        annotations = pod["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert annotations["karpenter.sh/do-not-disrupt"] == "true"


def test_both_jobs_have_the_same_head_submitter_and_gpu_workers():
    infer, train = ([_without_job(pod) for pod in _pods(_job(job))] for job in JOBS)
    train[1]["spec"].pop("automountServiceAccountToken")
    assert infer[:3] == train[:3]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_file_holds_one_job_and_a_command_that_denoise_takes(job: str):
    inside = [one for one in _objects_of(f"{job}/job.yaml") if one["kind"] == "RayJob"]
    assert len(inside) == 1
    program, verb, *words = inside[0]["spec"]["entrypoint"].split(" ")
    assert (program, verb) == ("denoise", job)
    # where the overlays write the URIs
    assert words[:4] == ["--images", "IMAGES", "--output", "OUTPUT"]
    flags.read(verb, _config_of(verb), words)


def test_the_training_example_is_the_recipe_of_a_shipped_model():
    card = (ROOT / "denoise/models/kirmizi/README.md").read_text()
    made = re.search(r"^Made with `denoise train (.+)`\.$", card, re.MULTILINE)
    assert made
    recipe = re.sub(r"--(images|validation) \S+ ?", "", made[1])
    assert recipe in _job("train")["spec"]["entrypoint"]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_gives_valid_objects_without_a_gap(overlay: str, tmp_path: Path):
    objects = _built(overlay, tmp_path)
    for one in objects:
        if one["kind"] == "RayJob":
            check_ray_job(one)
        else:
            kuberay.check_object(one)
        assert one["kind"] == "Namespace" or one["metadata"]["namespace"] == "denoise"
        text = json.dumps(one)
        for word in ("IMAGES", "OUTPUT", "REGISTRY", "BUCKET", "ACCOUNT"):
            assert word not in text
    assert {one["metadata"]["name"] for one in objects} >= {"denoise-infer", "denoise-train"}
    assert "settings" not in {one["metadata"]["name"] for one in objects}


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_edit_of_an_overlay_reaches_image_uris_and_role(overlay: str, tmp_path: Path):
    objects = _built(overlay, tmp_path)
    scheme = {"eks": "s3", "gke": "gs"}[overlay]
    for job in JOBS:
        ray_job = next(
            one
            for one in objects
            if one["metadata"]["name"] == f"denoise-{job}" and one["kind"] == "RayJob"
        )
        output = {"infer": "denoised", "train": "models/mine"}[job]
        wanted = (
            f"denoise {job} --images {scheme}://mine/photographs --output {scheme}://mine/{output} "
        )
        assert ray_job["spec"]["entrypoint"].startswith(wanted)
        images = {c["image"] for pod in _pods(ray_job) for c in pod["spec"]["containers"]}
        assert {image.partition(":")[0] for image in images} == {"registry.example/denoise"}
    for account in (one for one in objects if one["kind"] == "ServiceAccount"):
        role = account["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn", "")
        name = account["metadata"]["name"]
        assert role == ("" if overlay == "gke" else f"arn:aws:iam::123456789012:role/{name}")


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_run_on_spot_nodes_and_what_must_last_does_not(overlay: str, tmp_path: Path):
    for job in (one for one in _built(overlay, tmp_path) if one["kind"] == "RayJob"):
        for pod in _pods(job):
            asked = json.dumps(pod["spec"].get("nodeSelector", {}))
            is_worker = pod["metadata"]["labels"]["part"] == "worker"
            assert is_worker == ("spot" in asked), asked
            has_gpu = "nvidia.com/gpu" in json.dumps(pod["spec"]["containers"])
            assert has_gpu == ("l4" in asked)


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_as_it_comes_starts_infer_and_shows_what_to_fill_in(overlay: str):
    text = _kustomized(KUBERNETES / overlay)
    assert text.count("kind: RayJob") == 1 and "name: denoise-infer" in text
    command = next(
        line for line in (CLUSTER / "README.md").read_text().splitlines() if "grep -nE" in line
    )
    words = re.search(r"grep -nE '(.+?)'", command)
    assert words
    holes = set(re.findall(words[1], text))
    assert holes == {"REGISTRY", "BUCKET"} | ({"ACCOUNT"} if overlay == "eks" else set())


def test_the_nodes_of_eks_are_the_ones_that_the_overlay_asks_for():
    pools = [one for one in _objects_of("eks/nodes.yaml") if one["kind"] == "NodePool"]
    overlay = (KUBERNETES / "eks/kustomization.yaml").read_text()
    for pool in pools:
        assert f"karpenter.sh/nodepool: {pool['metadata']['name']}" in overlay
        assert pool["spec"]["limits"], "a pool without a limit"


def check_ray_job(job: dict[str, Any]) -> None:
    """Raises ValidationError or ValueError for what KubeRay or Kubernetes would refuse."""
    jsonschema.validate(job, SCHEMA)
    kuberay.check_rules(job["spec"])
    beside = {"metadata": {"name": "head"}, "spec": {"containers": list(_autoscaler(job))}}
    for template in (*_pods(job), *([beside] if beside["spec"]["containers"] else [])):
        kuberay.check_pod(template)


def _pods(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The templates of the submitter, the head and the workers, in this order."""
    yield job["spec"]["submitterPodTemplate"]
    yield job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    for group in _groups(job["spec"]):
        yield group["template"]


def _groups(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = spec["rayClusterSpec"]["workerGroupSpecs"]
    return groups


def _autoscaler(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The container that KubeRay puts beside the head's, where Ray is to scale."""
    its_own = ("version", "idleTimeoutSeconds", "upscalingMode")
    options = job["spec"]["rayClusterSpec"].get("autoscalerOptions")
    if options:
        yield {"name": "autoscaler"} | {k: v for k, v in options.items() if k not in its_own}


def _without_job(pod: dict[str, Any]) -> dict[str, Any]:
    pod["metadata"]["labels"].pop("job")
    return pod


def _objects_of(file: str) -> list[dict[str, Any]]:
    return copy.deepcopy(_loaded((KUBERNETES / file).read_text()))


@cache
def _loaded(text: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text))


def _objects() -> list[dict[str, Any]]:
    """Whatever is applied with either job."""
    files = ["access/accounts.yaml", "access/network.yaml", *(f"{job}/job.yaml" for job in JOBS)]
    return [one for file in files for one in _objects_of(file)]


def _named(kind: str, name: str) -> dict[str, Any]:
    found = (one for one in _objects() if (one["kind"], one["metadata"]["name"]) == (kind, name))
    return next(found)


def _job(name: str) -> dict[str, Any]:
    return _named("RayJob", f"denoise-{name}")


def _at(value: Any, path: str) -> Any:
    for step in path.split("."):
        value = value[int(step)] if step.isdigit() else value[step]
    return value


def _objects_in(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of everything in a tree that has fields."""
    if isinstance(tree, list):
        yield from _objects_in(tree[0], (*path, "0"))
    elif isinstance(tree, dict):
        if path and "*" not in tree:
            yield path
        for name, field in tree.items():
            yield from _objects_in(field, (*path, name))


def _kustomized(folder: Path) -> str:
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _built(overlay: str, tmp_path: Path) -> list[dict[str, Any]]:
    """What an overlay with both jobs gives once somebody has filled in what is theirs."""
    copied = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copied)
    edited = copied / overlay / "kustomization.yaml"
    theirs = {"REGISTRY": "registry.example", "BUCKET": "mine", "ACCOUNT": "123456789012"}
    text = edited.read_text().replace("  # - ../train", "  - ../train")
    for hole, value in theirs.items():
        text = text.replace(hole, value)
    edited.write_text(text)
    return copy.deepcopy(_loaded(_kustomized(copied / overlay)))
