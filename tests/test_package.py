"""Model packages: what is saved comes back, and nothing else is taken for it."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as encode

from denoise.errors import SettingsError
from denoise.nets import limits, package
from denoise.nets.networks import UNKNOWN_SIGMA, build
from denoise.verbs.models import ModelsConfig, models

SMALL = {"widths": [4, 6], "blocks": 1}


def saved(folder: Path, *, half: bool = False) -> torch.nn.Module:
    """A small network with weights of its own, in a package there."""
    torch.manual_seed(3)
    model = build("unet", SMALL)
    torch.nn.init.normal_(model.tail.weight, std=0.1)
    fields = {"architecture": "unet", "sigma": [0.0, 0.2], "card": "# a card"}
    package.save(str(folder), model, fields, half=half)
    return model.eval()


def test_a_package_gives_back_the_same_network(tmp_path: Path):
    model = saved(tmp_path / "small")
    found = package.load(str(tmp_path / "small"))
    noisy, level = torch.rand(1, 3, 9, 7), torch.tensor([UNKNOWN_SIGMA])
    assert torch.equal(found.model(noisy, level), model(noisy, level))
    assert found.name == "small" and found.id.startswith("small@")
    assert found.config["sigma"] == [0.0, 0.2]
    assert (tmp_path / "small" / "README.md").read_text() == "# a card"


def test_half_precision_costs_less_than_a_step_of_an_8_bit_pixel(tmp_path: Path):
    model = saved(tmp_path / "half", half=True)
    found = package.load(str(tmp_path / "half"))
    assert all(weight.dtype == torch.float32 for weight in found.model.parameters())
    noisy, level = torch.rand(1, 3, 32, 32), torch.tensor([0.1])
    difference = (found.model(noisy, level) - model(noisy, level)).abs().max()
    assert 0 < difference < 1 / 255


def test_saving_twice_gives_the_same_bytes(tmp_path: Path):
    saved(tmp_path / "a")
    saved(tmp_path / "b")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_folder_that_is_called_as_a_shipped_model_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.chdir(tmp_path)
    shipped = package.id_of("cae-s")
    assert caplog.text == ""
    saved(tmp_path / "cae-s")
    assert package.id_of("cae-s") == shipped != package.id_of("./cae-s")
    assert "cae-s is the shipped model; ./cae-s would be the one here" in caplog.text


@pytest.mark.parametrize("name", package.shipped_names())
def test_tables_name_a_shipped_model_without_loading_torch(name: str):
    code = f"from denoise.nets import package; print(package.id_of({name!r}))"
    shown = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == [package.load(name).id, "False"]


def test_changed_weights_are_refused(tmp_path: Path):
    saved(tmp_path)
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    with pytest.raises(SettingsError, match="not the ones it was saved with"):
        package.load(str(tmp_path))


def changed_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


UNET = {"widths": [4, 6], "blocks": [1, 1, 1]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architecture": "vgg"}, "one of classic"),
        ({"architecture": ["unet"]}, r"architecture in config.json is \['unet'\]"),
        (
            {"architecture": "os:system"},
            "os:system, which is code of its own: .* DENOISE_NETWORKS",
        ),
        ({"arguments": {"depth": 3}}, "no such arguments"),
        ({"arguments": []}, r"arguments in config.json is \[\]"),
        ({"arguments": "x"}, "arguments in config.json is 'x'"),
        ({"digest": 7}, "digest in config.json is 7"),
        ({"digest": None}, "digest in config.json is None"),
        ({"arguments": UNET | {"widths": [8, 6]}}, r"by config.json"),
        ({"arguments": UNET | {"widths": [4, 6, 8], "blocks": 1}}, "are missing"),
        ({"arguments": UNET | {"blocks": [1, 0, 1]}}, "are not of this network"),
        ({"arguments": UNET | {"blocks": 300_000}}, "600,000|900,000 residual blocks, at most"),
        ({"arguments": UNET | {"blocks": [1, 10**9, 1]}}, "residual blocks, at most 1,000 may be"),
        ({"arguments": UNET | {"blocks": 1.5}}, "blocks must be a whole number or a few"),
        ({"arguments": UNET | {"blocks": "2"}}, "blocks must be a whole number or a few"),
        ({"arguments": UNET | {"blocks": True}}, "blocks must be a whole number or a few"),
        ({"arguments": UNET | {"blocks": [[1], 1, 1]}}, "blocks must be a whole number or a few"),
        ({"arguments": UNET | {"blocks": [-1, 1, 1]}}, "from 0 up"),
        ({"arguments": UNET | {"blocks": [1, 600, 1]}}, "pixels of receptive radius"),
        ({"arguments": UNET | {"widths": 7}}, "widths must be 1..8 numbers"),
        ({"arguments": UNET | {"widths": []}}, "widths must be 1..8 numbers"),
        ({"arguments": UNET | {"widths": [4] * 40}}, "widths must be 1..8 numbers"),
        ({"arguments": UNET | {"widths": [4, "6"]}}, "widths must be whole numbers"),
        ({"arguments": UNET | {"widths": [4, 6.0]}}, "widths must be whole numbers"),
        ({"arguments": UNET | {"widths": [4, None]}}, "widths must be whole numbers"),
        ({"arguments": UNET | {"widths": [4, 0]}}, "widths must be whole numbers"),
        ({"arguments": UNET | {"widths": [4, 10**30]}}, "widths must be whole numbers"),
        ({"arguments": UNET | {"widths": [4000, 4000]}}, "parameters, at most 100,000,000 may be"),
        ({"arguments": {"widths": [900, 4], "blocks": [2, 1, 2]}}, "multiply-adds a pixel"),
        ({"architecture": "classic", "arguments": {"width": 4096}}, "parameters, at most"),
        ({"architecture": "classic", "arguments": {"width": "32"}}, "width must be whole numbers"),
        ({"architecture": "classic", "arguments": {"width": 0}}, "width must be whole numbers"),
    ],
)
def test_a_config_of_another_network_is_refused(tmp_path: Path, fields: dict, words: str):
    saved(tmp_path)
    changed_config(tmp_path, **fields)
    with pytest.raises(SettingsError, match=words) as refusal:
        package.load(str(tmp_path))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def test_what_a_config_asks_for_is_never_built_larger_than_its_weights(tmp_path: Path):
    saved(tmp_path)
    changed_config(tmp_path, arguments={"widths": [16, 2000], "blocks": 1})  # 300 MB
    code = (
        "import resource, sys, torch\n"
        "from denoise.errors import SettingsError\n"
        "from denoise.nets import package, networks\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        f"    package.load({str(tmp_path)!r})\n"
        "except SettingsError as error:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)"
    )
    command = [sys.executable, "-c", code]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "by config.json" in grown and int(grown.split()[0]) < 100 << 10  # KiB


@pytest.mark.parametrize("blocks", [0, 2, [1, 2], [1, 0, 3]])
def test_the_parameters_of_a_network_are_known_before_it_is_built(blocks: object):
    model = build("unet", {"widths": [5, 7], "blocks": blocks})
    counted = sum(weight.numel() for weight in model.parameters())
    assert limits.unet_parameters([5, 7], model.arguments["blocks"]) == counted


def reweighed(folder: Path, encoded: bytes) -> None:
    """A package whose weights are these, and known to its config.json."""
    (folder / "model.safetensors").write_bytes(encoded)
    changed_config(folder, digest=sha256(encoded).hexdigest())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float):
    model = saved(tmp_path)
    weights = model.state_dict()
    weights["head.weight"][1, 2, 0, 1] = value
    reweighed(tmp_path, encode(weights))
    with pytest.raises(SettingsError, match=r"head.weight .* not finite"):
        package.load(str(tmp_path))


@pytest.mark.parametrize("kind", [torch.int64, torch.float64, torch.bool, torch.float8_e4m3fn])
def test_weights_of_an_unknown_precision_are_refused(tmp_path: Path, kind: torch.dtype):
    model = saved(tmp_path)
    reweighed(tmp_path, encode({n: w.to(kind) for n, w in model.state_dict().items()}))
    with pytest.raises(SettingsError, match="not one of F16, BF16, F32"):
        package.load(str(tmp_path))


def header(**tensors: object) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"short",
        (1 << 62).to_bytes(8, "little") + b"{}",
        (7).to_bytes(8, "little") + b"no json",
        (2).to_bytes(8, "little") + b"[]",
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
        header(),
        header(**{"\r\n\x1b[2K": {}}),
        header(**{name: 7 for name in build("unet", SMALL).state_dict()}),
        header(**{name: {"shape": "x"} for name in build("unet", SMALL).state_dict()}),
    ],
)
def test_weights_that_are_damaged_are_refused_in_one_line(tmp_path: Path, encoded: bytes):
    saved(tmp_path)
    reweighed(tmp_path, encoded)
    with pytest.raises(SettingsError) as refusal:
        package.load(str(tmp_path))
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 400


def test_offsets_that_lead_out_of_the_weights_are_refused(tmp_path: Path):
    saved(tmp_path)
    encoded = (tmp_path / "model.safetensors").read_bytes()
    size = int.from_bytes(encoded[:8], "little")
    tensors = json.loads(encoded[8 : 8 + size])
    tensors["tail.bias"]["data_offsets"] = [0, 1 << 50]
    reweighed(tmp_path, header(**tensors) + encoded[8 + size :])
    with pytest.raises(SettingsError):
        package.load(str(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_too_large_is_not_even_read(tmp_path: Path, name: str):
    saved(tmp_path)
    with open(tmp_path / name, "r+b") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(SettingsError, match=r"has 1,099,511,627,776 bytes, at most"):
        package.load(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", b"no json", "config.json is no JSON"),
        ("config.json", b"[" * 100_000, "config.json is no JSON"),
        ("config.json", b"\xff", "config.json is no JSON"),
        ("config.json", b"[]", "config.json holds no JSON object"),
        ("config.json", b"7", "config.json holds no JSON object"),
        ("config.json", b'{"architecture": "unet", "arguments": {}}', "has no digest"),
        ("config.json", None, "cannot read config.json"),
        ("model.safetensors", None, "cannot read model.safetensors"),
    ],
)
def test_a_folder_that_is_no_package_is_refused_in_one_line(tmp_path, file, content, words):
    saved(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(SettingsError, match=words) as refusal:
        package.load(str(tmp_path))
    assert "\n" not in str(refusal.value)


def test_an_unknown_name_is_answered_with_the_shipped_ones():
    with pytest.raises(SettingsError, match=r"classic, .*unet"):
        package.load("no-such-model")


def test_weights_that_are_a_pickle_are_never_opened_as_one(tmp_path: Path):
    saved(tmp_path)
    torch.save({"tail.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    digest = sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    changed_config(tmp_path, digest=digest)
    with pytest.raises(SettingsError):
        package.load(str(tmp_path))


@pytest.mark.parametrize("name", package.shipped_names())
def test_shipped_models_are_whole_small_and_say_what_they_are(name: str):
    found = package.load(name)
    assert found.config["training"]["images"] and found.config["metrics"]["validation_psnr"] > 20
    assert found.config["macs_per_pixel"] == round(found.model.macs_per_pixel)
    assert (package.SHIPPED / name / "README.md").read_text().startswith(f"# {name}\n")


def test_the_table_of_models_says_what_each_was_trained_and_validated_on():
    found = models(ModelsConfig())
    headings, *lines = found["table"]
    assert all(name in headings for name in ("CBSD68", "real pairs", "megapixels/s", "choose it"))
    assert [one["name"] for one in found["models"][:2]] == ["photo", "unet"]
    assert max(map(len, lines)) <= 100
    words = " ".join(" ".join(lines).split())
    for one in found["models"]:
        line = next(line for line in lines if line.startswith(f"{one['name']} "))
        assert f"{one['megapixels_per_second']:.1f}" in line and one["choose_if"] in line
        for psnr in (one["cbsd68_psnr"], one["real_pairs_psnr"]):
            assert psnr is None or f"{psnr:.2f} dB" in line
        assert f"trained on {one['trained_on']}; validated on {one['validated_on']}" in words


def test_what_is_shipped_is_under_20_mb_in_all_and_names_no_ones_own_folders():
    files = [path for path in package.SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20e6
    for path in files:
        if path.suffix in (".json", ".md"):
            assert "/home/" not in path.read_text() and "/work/" not in path.read_text()
    assert {config["name"] for config in package.shipped_configs()} >= {"classic", "unet"}
