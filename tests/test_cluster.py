"""The files under cluster/ are what Kubernetes, KubeRay, `ray up` and Docker take."""

import copy
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
CONSTRAINTS = dict(
    re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
)


def test_every_plain_object_is_what_kubernetes_takes():
    plain = [thing for thing in _objects() if not thing["apiVersion"].startswith("ray.io/")]
    assert {thing["kind"] for thing in plain} == {"ServiceAccount", "NetworkPolicy"}
    for thing in plain:
        kubernetes_validate.validate(thing, "1.37", strict=True)


def test_every_job_is_what_kuberay_takes():
    assert [job["metadata"]["name"] for job in _jobs()] == ["denoise-infer", "denoise-train"]
    for job in _jobs():
        check_ray_job(job)


TYPOS = [
    ("spec", "shutdownAfterJobFinish"),
    ("spec.submitterConfig", "backOffLimit"),
    ("spec.rayClusterSpec", "enableInTreeAutoscalling"),
    ("spec.rayClusterSpec.authOptions", "secret"),
    ("spec.rayClusterSpec.autoscalerOptions", "idleTimeout"),
    ("spec.rayClusterSpec.autoscalerOptions.resources", "request"),
    ("spec.rayClusterSpec.autoscalerOptions.securityContext", "runAsNoneRoot"),
    ("spec.rayClusterSpec.workerGroupSpecs.0", "maxReplica"),
    ("spec.rayClusterSpec.headGroupSpec.template.spec", "serviceAcountName"),
    ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.containers.0", "resource"),
]


@pytest.mark.parametrize(("place", "typo"), TYPOS, ids=lambda word: word)
def test_a_typo_in_a_job_is_found(place: str, typo: str):
    job = copy.deepcopy(_jobs()[0])
    part: Any = job
    for step in place.split("."):
        part = part[int(step)] if step.isdigit() else part[step]
    part[typo] = 1
    with pytest.raises(jsonschema.ValidationError, match=typo):
        check_ray_job(job)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("spec", "activeDeadlineSeconds", 0),
        ("spec", "ttlSecondsAfterFinished", "300"),
        ("spec", "submissionMode", "K8sJob"),
        ("spec.rayClusterSpec.autoscalerOptions", "upscalingMode", "Fast"),
        ("spec.rayClusterSpec.headGroupSpec", "serviceType", "Cluster"),
        ("spec.rayClusterSpec.headGroupSpec", "rayStartParams", {"num-cpus": 0}),
    ],
)
def test_a_wrong_value_in_a_job_is_found(place: str, name: str, value: Any):
    job = copy.deepcopy(_jobs()[0])
    part: Any = job
    for step in place.split("."):
        part = part[step]
    part[name] = value
    with pytest.raises(jsonschema.ValidationError):
        check_ray_job(job)


@pytest.mark.parametrize("job", ["denoise-infer", "denoise-train"])
def test_a_job_ends_tidies_up_and_is_never_submitted_twice(job: str):
    spec = _job(job)["spec"]
    assert spec["submitterConfig"] == {"backoffLimit": 0}
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] <= 3600
    assert 0 < spec["activeDeadlineSeconds"] <= 7 * 86400


@pytest.mark.parametrize("job", ["denoise-infer", "denoise-train"])
def test_nothing_of_a_job_is_open_to_the_world(job: str):
    cluster = _job(job)["spec"]["rayClusterSpec"]
    assert cluster["authOptions"]["mode"] == "token"
    head = cluster["headGroupSpec"]
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    policy = next(thing for thing in _objects() if thing["kind"] == "NetworkPolicy")
    for template in _pods(_job(job)):
        labels = template["metadata"]["labels"].items()
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert "hostNetwork" not in template["spec"]


@pytest.mark.parametrize("job", ["denoise-infer", "denoise-train"])
def test_every_container_asks_for_what_it_may_use(job: str):
    pods = [container for pod in _pods(_job(job)) for container in pod["spec"]["containers"]]
    for container in (*pods, _autoscaler(_job(job))):
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert all(":latest" not in container["image"] for container in pods)


def test_both_jobs_have_the_same_head_submitter_and_gpu_workers():
    infer, train = (job["spec"] for job in _jobs())
    assert infer["submitterPodTemplate"] == train["submitterPodTemplate"]
    assert infer["rayClusterSpec"]["headGroupSpec"] == train["rayClusterSpec"]["headGroupSpec"]
    gpus = [spec["rayClusterSpec"]["workerGroupSpecs"][-1]["template"] for spec in (infer, train)]
    assert gpus[0] == gpus[1]


def test_ray_here_and_in_every_file_is_one_version():
    assert ray.__version__ == CONSTRAINTS["ray"]
    assert f"ARG RAY={ray.__version__}\n" in (CLUSTER / "Dockerfile").read_text()
    for job in _jobs():
        assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__


def test_every_file_names_the_image_of_this_version():
    version = re.search(r'__version__ = "(.+)"', (ROOT / "denoise/__init__.py").read_text())
    assert version
    for file in ("Dockerfile", "kubernetes.yaml", "aws.yaml", "gcp.yaml"):
        tags = set(re.findall(r"REGISTRY/denoise:(\S+)-[cg]pu", (CLUSTER / file).read_text()))
        assert tags == {version[1]}, file


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_up_takes_the_cluster_file(cloud: str):
    validate_config(prepare_config(_yaml(f"{cloud}.yaml")))


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.parametrize("typo", ["max_worker", "dockers"])
def test_a_typo_in_a_cluster_file_is_found(cloud: str, typo: str):
    with pytest.raises(jsonschema.ValidationError, match=typo):
        validate_config(prepare_config(_yaml(f"{cloud}.yaml") | {typo: 1}))


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_cluster_has_an_idle_head_cpu_workers_and_spot_gpu_workers(cloud: str):
    cluster = _yaml(f"{cloud}.yaml")
    nodes = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    assert nodes["head"]["resources"] == {"CPU": 0}
    for kind, fewest in (("cpu", 0), ("gpu", 1)):
        assert nodes[kind]["min_workers"] == fewest  # a job looks for GPUs when it starts
        assert _is_spot(nodes[kind]["node_config"])
    assert not _is_spot(nodes["head"]["node_config"])
    assert nodes["gpu"]["docker"]["worker_image"].endswith("-gpu")


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_cluster_asks_for_a_token_and_shows_its_dashboard_to_nobody(cloud: str):
    cluster = _yaml(f"{cloud}.yaml")
    head, workers = cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in commands[-1] for commands in (head, workers))
    assert "--dashboard-host=127.0.0.1" in head[-1]
    assert list(cluster["file_mounts"].values()) == ["~/.ray/auth_token"]


def test_hadolint_has_nothing_to_say_about_the_dockerfile():
    hadolint = shutil.which("hadolint") or str(Path(sys.executable).parent / "hadolint")
    done = subprocess.run(
        [hadolint, "--no-color", str(CLUSTER / "Dockerfile")], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_holds_everything_that_is_installed_and_runs_as_nobody_special():
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    ignored = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY --chown=\S+ (.+) \S+$", dockerfile, re.MULTILINE)
    for source in " ".join(copied).split():
        assert (ROOT / source).exists(), source
        assert f"!{source.split('/')[0]}" in ignored, source
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = re.search(r'"\.\[(.+)\]"', dockerfile)
    assert wanted and set(wanted[1].split(",")) <= extras["optional-dependencies"].keys()
    assert re.findall(r"^USER (\d+)", dockerfile, re.MULTILINE)[-1] != "0"
    assert "--constraint constraints.txt" in dockerfile


def test_the_sizing_table_in_the_readme_is_what_the_script_computes():
    spec = importlib.util.spec_from_file_location("sizing", CLUSTER / "sizing.py")
    assert spec and spec.loader
    sizing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sizing)
    assert sizing.table(sizing.MEASURED) in (CLUSTER / "README.md").read_text()


# KubeRay's RayJob (ray.io/v1), made strict: a field that is not there is a mistake. The CRD itself
# (ray-operator/config/crd/bases/ray.io_rayjobs.yaml, 1.06 MB, nearly all of it the schema of pods)
# is in no package index, so that this is written after KubeRay's API reference of 1.6.2 and 1.7.0
# (docs/reference/api.md) and its types: what we use or may come to use of RayJobSpec and
# RayClusterSpec, with types and enumerations. Pods, and the container that KubeRay makes of the
# autoscaler's options, are checked with Kubernetes' own schema.
_TEXT, _NUMBER, _YES_NO = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_LIST = {"type": "array", "items": _TEXT}
_POD = {"type": "object", "required": ["spec"]}
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")


def _strict(required: tuple[str, ...] = (), /, **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": fields,
        "required": list(required),
    }


def _one_of(*words: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(words)}


_WORKERS = _strict(
    ("groupName", "rayStartParams", "template", "minReplicas", "maxReplicas"),
    groupName=_TEXT,
    replicas=_NUMBER,
    minReplicas=_NUMBER,
    maxReplicas=_NUMBER,
    numOfHosts=_NUMBER,
    idleTimeoutSeconds=_NUMBER,
    suspend=_YES_NO,
    labels=_TEXTS,
    resources=_TEXTS,
    rayStartParams=_TEXTS,
    scaleStrategy=_strict(workersToDelete=_LIST),
    template=_POD,
)
_HEAD = _strict(
    ("rayStartParams", "template"),
    serviceType=_one_of("ClusterIP", "NodePort", "LoadBalancer"),
    enableIngress=_YES_NO,
    labels=_TEXTS,
    resources=_TEXTS,
    rayStartParams=_TEXTS,
    template=_POD,
)
_AUTOSCALER = _strict(
    version=_one_of("v1", "v2"),
    idleTimeoutSeconds=_NUMBER,
    upscalingMode=_one_of("Default", "Aggressive", "Conservative"),
    image=_TEXT,
    imagePullPolicy=_one_of("Always", "IfNotPresent", "Never"),
    resources=_strict(requests={"type": "object"}, limits={"type": "object"}),
    env={"type": "array"},
    envFrom={"type": "array"},
    volumeMounts={"type": "array"},
    securityContext={"type": "object"},
)
_RAY_CLUSTER = _strict(
    ("headGroupSpec",),
    rayVersion=_TEXT,
    authOptions=_strict(mode=_one_of("token", "disabled"), secretName=_TEXT),
    enableInTreeAutoscaling=_YES_NO,
    autoscalerOptions=_AUTOSCALER,
    headServiceAnnotations=_TEXTS,
    headGroupSpec=_HEAD,
    workerGroupSpecs={"type": "array", "items": _WORKERS},
    managedBy=_one_of(*_MANAGERS),
    suspend=_YES_NO,
)
_RAY_JOB = _strict(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion=_one_of("ray.io/v1"),
    kind=_one_of("RayJob"),
    metadata=_strict(("name",), name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS),
    spec=_strict(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=_TEXT,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        entrypointResources=_TEXT,
        runtimeEnvYAML=_TEXT,
        jobId=_TEXT,
        metadata=_TEXTS,
        clusterSelector=_TEXTS,
        submissionMode=_one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
        submitterConfig=_strict(backoffLimit=_NUMBER),
        submitterPodTemplate=_POD,
        backoffLimit=_NUMBER,
        activeDeadlineSeconds={"type": "integer", "minimum": 1},
        shutdownAfterJobFinishes=_YES_NO,
        ttlSecondsAfterFinished=_NUMBER,
        managedBy=_one_of(*_MANAGERS),
        suspend=_YES_NO,
        rayClusterSpec=_RAY_CLUSTER,
    ),
)


def check_ray_job(job: dict[str, Any]) -> None:
    """Raises jsonschema.ValidationError for what KubeRay or Kubernetes would refuse or ignore."""
    jsonschema.validate(job, _RAY_JOB)
    beside = {"metadata": {"name": "head"}, "spec": {"containers": [_autoscaler(job)]}}
    for template in (*_pods(job), beside):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}}
        kubernetes_validate.validate(pod | {"template": template}, "1.37", strict=True)


def _pods(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    yield job["spec"]["submitterPodTemplate"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]


def _autoscaler(job: dict[str, Any]) -> dict[str, Any]:
    """The container that KubeRay puts beside the head's."""
    its_own = ("version", "idleTimeoutSeconds", "upscalingMode")
    options = job["spec"]["rayClusterSpec"]["autoscalerOptions"].items()
    return {"name": "autoscaler"} | {name: value for name, value in options if name not in its_own}


def _objects() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))


def _jobs() -> list[dict[str, Any]]:
    return [thing for thing in _objects() if thing["kind"] == "RayJob"]


def _job(name: str) -> dict[str, Any]:
    return next(job for job in _jobs() if job["metadata"]["name"] == name)


def _yaml(file: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / file).read_text())
    return loaded


def _is_spot(node: dict[str, Any]) -> bool:
    return "spot" in json.dumps(node) or '"preemptible": true' in json.dumps(node)
