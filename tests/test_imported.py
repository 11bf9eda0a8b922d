"""Networks of a user's own: found by name, and told what they lack before anything is trained."""

from pathlib import Path

import pytest
import torch
from torch import nn

from denoise.errors import SettingsError
from denoise.nets import package
from denoise.nets.networks import build

MODULE = __name__


class Net(nn.Module):
    """Two convolutions: a pixel is felt two pixels away."""

    def __init__(self, width: int = 4, reach: int = 2) -> None:
        super().__init__()
        self.arguments = {"width": width, "reach": reach}
        self.stride, self.reach, self.macs_per_pixel = 1, reach, 9 * 6 * width
        self.one = nn.Conv2d(3, width, 3, padding=1)
        self.two = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.two.weight)

    def forward(self, noisy, sigma):
        return noisy + self.two(self.one(noisy).relu())


class Boastful(Net):
    def __init__(self) -> None:
        super().__init__(reach=1)


class Global(Net):
    def forward(self, noisy, sigma):
        return noisy - noisy.mean()


class Smaller(Net):
    def forward(self, noisy, sigma):
        return noisy[..., 1:-1, 1:-1]


class Normalised(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, noisy, sigma):
        return super().forward(self.norm(noisy), sigma)


class Dropping(Net):
    def forward(self, noisy, sigma):
        return noisy + self.two(nn.functional.dropout(self.one(noisy), 0.5, self.training))


class Frozen(Net):
    def __init__(self) -> None:
        super().__init__()
        self.one.requires_grad_(False)


class Tied(Net):
    def __init__(self) -> None:
        super().__init__(width=3)
        self.arguments = {}
        self.two = self.one


class Bare(nn.Module):
    def forward(self, noisy, sigma):
        return noisy


def test_a_network_of_ones_own_is_built_and_built_again():
    model = build(f"{MODULE}:Net")
    again = build(f"{MODULE}:Net", model.arguments)
    again.load_state_dict(model.state_dict())
    noisy, sigma = torch.rand(1, 3, 9, 9), torch.tensor([0.1])
    assert torch.equal(model(noisy, sigma), again(noisy, sigma))


def test_a_package_with_such_a_network_runs_its_code_only_where_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = f"{MODULE}:Net"
    package.save(str(tmp_path), build(name), {"architecture": name})
    with pytest.raises(SettingsError, match=f"allow it by DENOISE_NETWORKS={name}"):
        package.load(str(tmp_path))
    monkeypatch.setenv("DENOISE_NETWORKS", f"another:Net,{name}")
    assert isinstance(package.load(str(tmp_path)).model, Net)


def test_weights_that_a_network_uses_twice_are_saved_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = f"{MODULE}:Tied"
    monkeypatch.setenv("DENOISE_NETWORKS", name)
    model = build(name)
    package.save(str(tmp_path), model, {"architecture": name})
    loaded = package.load(str(tmp_path)).model
    assert loaded.one is loaded.two and torch.equal(loaded.one.weight, model.one.weight)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosuchmodule:Net", r"cannot import nosuchmodule.*PYTHONPATH"),
        (f"{MODULE}:Nothing", "is no class of networks: an architecture is a torch.nn.Module"),
        ("subprocess:Popen", "is no class of networks"),
        ("os:system", "is no class of networks"),
        (f"{MODULE}:Bare", "has no arguments, stride, reach, macs_per_pixel: an architecture is"),
        (f"{MODULE}:Boastful", "reach of 1 pixels, but a tile .* is off by"),
        (f"{MODULE}:Global", "looks at the whole picture"),
        (f"{MODULE}:Smaller", "has to give back as many pixels"),
        (f"{MODULE}:Normalised", "norm.running_mean changes while it trains"),
        (f"{MODULE}:Dropping", "draws at random while it trains"),
        (f"{MODULE}:Frozen", "one.weight has requires_grad=False"),
        (":", "or MODULE:CLASS, got :"),
        ("..up:Net", r"or MODULE:CLASS, got \.\.up:Net"),
        ("a..b:Net", "cannot import a..b"),
    ],
)
def test_what_is_no_architecture_is_refused_with_what_is_wrong(name: str, words: str):
    with pytest.raises(ValueError, match=words):
        build(name)


def test_arguments_that_it_does_not_have_are_named():
    with pytest.raises(ValueError, match="unexpected keyword argument 'depth'"):
        build(f"{MODULE}:Net", {"depth": 3})
