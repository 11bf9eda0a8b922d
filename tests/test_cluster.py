"""The files under cluster/ are what `ray up`, Docker and pip take; test_kubernetes has the rest."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.conftest import make_photos

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "cluster"
CONSTRAINTS = dict(
    re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
)
EXTRAS = ("s3", "gcs", "azure", "formats")  # of the image


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_ray_up_takes_the_cluster_file(cloud: str):
    validate_config(prepare_config(_yaml(f"{cloud}.yaml")))


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
@pytest.mark.parametrize("typo", ["max_worker", "dockers"])
def test_a_typo_in_a_cluster_file_is_found(cloud: str, typo: str):
    with pytest.raises(jsonschema.ValidationError, match=typo):
        validate_config(prepare_config(_yaml(f"{cloud}.yaml") | {typo: 1}))


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_cluster_has_an_idle_head_and_one_gpu_worker_until_a_job_asks_for_more(cloud: str):
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
def test_where_spot_nodes_do_not_come_there_are_others_to_switch_on(cloud: str):
    nodes = _yaml(f"{cloud}.yaml")["available_node_types"]
    assert not _is_spot(nodes["gpu-on-demand"]["node_config"])
    assert nodes["gpu-on-demand"]["max_workers"] == 0  # until somebody wants them
    assert nodes["gpu-on-demand"]["docker"] == nodes["gpu"]["docker"]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_no_node_starts_from_the_image_that_ray_would_take(cloud: str):
    for node in _yaml(f"{cloud}.yaml")["available_node_types"].values():
        config = node["node_config"]
        if cloud == "aws":
            assert config["ImageId"].startswith("resolve:ssm:/aws/service/")
        else:
            disk = config["disks"][0]["initializeParams"]
            assert "/images/family/" in disk["sourceImage"]
            assert isinstance(config.get("scheduling", {}), dict)  # the API knows one object


def test_the_head_on_ec2_may_start_workers_with_their_role_and_none_with_another():
    nodes = _yaml("aws.yaml")["available_node_types"]
    profiles = {name: node["node_config"]["IamInstanceProfile"] for name, node in nodes.items()}
    assert profiles["cpu"] == profiles["gpu"] == profiles["gpu-on-demand"] != profiles["head"]
    head, bucket = (_policy(f"aws-{name}.json") for name in ("head", "bucket"))
    passed = [one for one in head if "iam:PassRole" in one["Action"]]
    assert [one["Resource"] for one in passed] == [
        f"arn:aws:iam::ACCOUNT:role/{profiles['cpu']['Name']}"
    ]
    assert not [
        one for one in bucket if not json.dumps(one["Action"]).startswith(('"s3:', '["s3:'))
    ]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_a_cluster_asks_for_a_token_and_shows_its_dashboard_to_nobody(cloud: str):
    cluster = _yaml(f"{cloud}.yaml")
    head, workers = cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in commands[-1] for commands in (head, workers))
    assert "--dashboard-host=127.0.0.1" in head[-1]
    assert list(cluster["file_mounts"].values()) == ["~/.ray/auth_token"]


def test_ray_here_and_in_every_file_is_one_version():
    assert ray.__version__ == CONSTRAINTS["ray"]
    assert f"ARG RAY={ray.__version__}\n" in (CLUSTER / "Dockerfile").read_text()
    for job in ("infer", "train"):
        assert f"rayVersion: {ray.__version__}\n" in _text(f"kubernetes/{job}/job.yaml")


def test_every_file_names_the_image_of_this_version():
    version = re.search(r'__version__ = "(.+)"', (ROOT / "denoise/__init__.py").read_text())
    assert version
    files = ["Dockerfile", "README.md", "aws.yaml", "gcp.yaml"]
    files += [f"kubernetes/{job}/job.yaml" for job in ("infer", "train")]
    for file in files:
        tags = set(re.findall(r"denoise:([\d.]+)-[cg]pu", (CLUSTER / file).read_text()))
        assert tags == {version[1]}, file


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
        assert any(source.startswith(line[1:]) for line in ignored if line[0] == "!"), source
    assert re.findall(r"^USER (\d+)", dockerfile, re.MULTILINE)[-1] != "0"


def test_a_change_of_the_readme_installs_nothing_again():
    steps = re.split(r"^(?=COPY|RUN|FROM)", (CLUSTER / "Dockerfile").read_text(), flags=re.M)
    last_download = max(i for i, step in enumerate(steps) if "pip install --no-cache-dir" in step)
    readme = next(i for i, step in enumerate(steps) if step.startswith("COPY") and "README" in step)
    assert readme > last_download
    own = next(step for step in steps[readme:] if "pip install" in step)
    assert "--no-index" in own and "--no-build-isolation" in own and "--no-deps" in own


def test_what_the_image_downloads_has_a_hash_and_the_version_of_the_constraints():
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    assert "--require-hashes --requirement cluster/requirements.txt" in dockerfile
    for name, version in _locked("requirements.txt").items():
        assert CONSTRAINTS[name] == version, name
    assert _locked("torch-cpu.txt")["torch"] == f"{CONSTRAINTS['torch']}+cpu"
    assert f"torch=={CONSTRAINTS['torch']}" in dockerfile  # of the CUDA builds


def test_the_image_has_what_our_package_needs_and_its_extras_for_stores_and_formats():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(name for e in EXTRAS for name in extras[e])]
    names = {re.split(r"[\[>]", one)[0] for one in wanted}
    assert names - {"torch"} <= _locked("requirements.txt").keys()


def test_ci_installs_its_tools_with_hashes_of_the_same_versions():
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert "--require-hashes --requirement cluster/requirements-ci.txt" in workflow
    locked = _locked("requirements-ci.txt")
    assert {"pytest", "ruff", "mypy"} <= locked.keys()
    for name, version in locked.items():
        assert CONSTRAINTS[name] == version.removesuffix("+cpu"), name


def test_the_sizing_table_in_the_readme_is_what_the_script_computes():
    spec = importlib.util.spec_from_file_location("sizing", CLUSTER / "sizing.py")
    assert spec and spec.loader
    sizing = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sizing)
    assert sizing.table(sizing.MEASURED) in (CLUSTER / "README.md").read_text()


def test_the_sizing_is_measured_on_a_folder_that_holds_other_files_too(tmp_path: Path):
    make_photos(tmp_path)
    (tmp_path / "photos" / "notes.md").write_text("no image")
    command = [sys.executable, "-m", "cluster.sizing", "--measure", str(tmp_path / "photos")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "one vCPU, stage by stage" in done.stdout


def _yaml(file: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTER / file).read_text())
    return loaded


def _policy(file: str) -> list[dict[str, Any]]:
    statements: list[dict[str, Any]] = json.loads((CLUSTER / "policies" / file).read_text())[
        "Statement"
    ]
    return statements


def _locked(file: str) -> dict[str, str]:
    """The versions in a file of requirements; every one of them has a hash."""
    text = (CLUSTER / file).read_text().replace("\\\n", "")
    lines = [line for line in text.splitlines() if line and line[0] not in "#-"]
    found = [re.fullmatch(r"([\w.-]+)==(\S+)( +--hash=sha256:[0-9a-f]{64})+", one) for one in lines]
    assert found and all(found), [
        line for line, match in zip(lines, found, strict=True) if not match
    ]
    return {match[1]: match[2] for match in found if match}


def _is_spot(node: dict[str, Any]) -> bool:
    return "spot" in json.dumps(node).lower() or '"preemptible": true' in json.dumps(node)


def _text(file: str) -> str:
    return (CLUSTER / file).read_text()
