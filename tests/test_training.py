"""Training: a function of seed and step, whatever dies. It ends in a package, record and card."""

import io
import json
import math
import os
import shutil
import signal
import socket
import tempfile
import threading
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from denoise.errors import SettingsError, WriteError
from denoise.nets import package
from denoise.nets.networks import UNKNOWN_SIGMA, build
from denoise.output.discard import CHECKPOINT, SPLIT
from denoise.output.folder import Output
from denoise.runners.resources import Resources
from denoise.storage import files
from denoise.storage.entry import Entry
from denoise.training import model_card, worker
from denoise.training.batches import Worker, batches, pairs_of, slices_of
from denoise.training.learner import Learner, load_checkpoint
from denoise.training.loop import (
    Diverged,
    learn,
    learning_rate_at,
    loss_of,
    threads,
    without_denormals,
)
from denoise.training.packed import pack
from denoise.training.photo_store import (
    Limits,
    PhotoStore,
    WindowStream,
    decode_in_threads,
    parts_of,
    stores_of,
    window_of,
)
from denoise.training.photos import DecodeStatistics, Photo, decode_photos
from denoise.training.recipe import Loss, Optimizer, Recipe
from denoise.training.samples import (
    CROPS,
    GRAY,
    LEVEL_GIVEN,
    UNCLIPPED,
    Sampler,
    crop,
    draws,
    order_of,
)
from denoise.training.start import start_of
from denoise.training.validation import HIGHEST, Validator
from denoise.verbs import train as verb
from denoise.verbs.train import TrainConfig, train
from denoise.verbs.train_run import _note, check_cluster
from tests.conftest import encoded, photo
from tests.running import Job, pictures, wait_until

SMALL = {"widths": [16, 24], "blocks": 1}  # wide enough for Muon
RECIPE = Recipe(
    steps=8, batch_size=4, patch=16, save_every=4, sigma=(0.0, 0.2), precision="float32"
)
ODD = replace(RECIPE, steps=6, batch_size=16, save_every=2)  # for three workers: 5, 5 and 6
PHOTOS = [Photo(f"{k}.png", photo(24 + k, 32, seed=k)) for k in range(5)]


def sampler(recipe: Recipe = RECIPE, photos: list[Photo] = PHOTOS) -> Sampler:
    return Sampler(recipe, lambda window: photos)


def trained(recipe: Recipe = RECIPE, state=None, **options) -> tuple[Learner, list[dict]]:
    """Trains a small network here, and what would have been saved each time."""
    torch.manual_seed(0)
    saved = []

    def save(learner: Learner) -> None:
        out = io.BytesIO()  # through a file, as a checkpoint goes
        torch.save(learner.state(), out)
        saved.append(out.getvalue())

    learner = learn(
        recipe, build("unet", SMALL), sampler(recipe), PHOTOS[:2], save, state=state, **options
    )
    return learner, [torch.load(io.BytesIO(one), weights_only=True) for one in saved]


def quality_of(model: torch.nn.Module, photos: list[Photo], recipe: Recipe = RECIPE) -> float:
    with threads() as pool:
        return Validator(recipe, photos, Worker(), pool).psnr_of(model)


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


# --- samples ---


def test_sample_i_is_the_same_in_whatever_batch_it_comes():
    together = sampler().patches(7, 6)
    for k in range(6):
        alone = sampler().patches(7 + k, 1)
        assert alone.paths[0] == together.paths[k]
        for name in ("pixels", "sigma", "seeds", "clipped", "level_given", "gray"):
            assert np.array_equal(getattr(alone, name)[0], getattr(together, name)[k])


def test_draws_are_uniform_and_another_seed_draws_others():
    u = draws(1, 0, 5000)
    assert np.allclose(u.mean(axis=0), 0.5, atol=0.02)
    assert np.allclose(u.var(axis=0), 1 / 12, atol=0.01)
    assert not np.intersect1d(u, draws(2, 0, 5000)).size


def test_patches_come_in_all_eight_orientations_and_from_everywhere():
    pixels = photo(20, 30)
    seen = {crop(pixels[:16, :16], 16, row).tobytes() for row in draws(0, 0, 200)}
    assert len(seen) == 8
    corners = {crop(pixels, 16, u).tobytes() for u in ([0, 0, 0, 0], [0, 0.999, 0.999, 0])}
    expected = {pixels[:16, :16].tobytes(), pixels[4:, 14:].tobytes()}
    assert corners == expected


@pytest.mark.parametrize("channels", [3, 6])
def test_patches_cut_on_the_device_are_the_same_to_the_last_byte(channels: int):
    """A GPU cuts a whole batch by index; here the same code runs on the CPU."""
    photos = [replace(one, pixels=np.tile(one.pixels, channels // 3)) for one in PHOTOS]
    for first, count in ((0, 200), (7, 1)):
        as_views = sampler(photos=photos).patches(first, count)
        there = replace(sampler(photos=photos), packed=pack(photos, torch.device("cpu")))
        by_index = there.patches(first, count)
        assert isinstance(by_index.pixels, torch.Tensor)
        assert np.array_equal(by_index.pixels.numpy(), as_views.pixels)
        for ours, theirs in zip(pairs_of(by_index), pairs_of(as_views), strict=True):
            assert torch.equal(ours, theirs)


def test_the_kinds_of_samples_have_their_shares():
    patches = sampler(replace(RECIPE, patch=8)).patches(0, 4000)
    assert np.mean(~patches.clipped) == pytest.approx(UNCLIPPED, abs=0.03)
    assert np.mean(patches.level_given) == pytest.approx(LEVEL_GIVEN, abs=0.03)
    assert np.mean(patches.gray) == pytest.approx(GRAY, abs=0.03)
    assert patches.sigma.min() < 0.01 and patches.sigma.max() > 0.19


def test_noise_is_as_large_as_its_sigma_and_clipped_noise_is_what_a_file_can_hold():
    gray = [Photo("gray.png", np.full((64, 64, 3), 128, np.uint8))]
    recipe = Recipe(sigma=0.1, patch=64)
    patches = sampler(recipe, gray).patches(0, 24)
    clean, noisy, level = pairs_of(patches)
    assert float((noisy - clean).std()) == pytest.approx(0.1, rel=0.03)
    stored = noisy[torch.from_numpy(patches.clipped)] * 255
    torch.testing.assert_close(stored, stored.round(), rtol=0, atol=1e-4)
    told = torch.from_numpy(patches.level_given)
    torch.testing.assert_close(level[told], torch.full_like(level[told], 0.1))
    assert (level[~told] == UNKNOWN_SIGMA).all()
    channels = noisy[torch.from_numpy(patches.gray)]
    assert torch.equal(channels[:, 0], channels[:, 2])


def test_fixed_pairs_are_taken_as_they_are():
    pair = np.concatenate([photo(16, 16, seed=1), photo(16, 16, seed=2)], axis=2)
    clean, noisy, level = pairs_of(sampler(photos=[Photo("a", pair)]).patches(0, 2))
    assert {float(x) for x in (clean * 255).round().unique()} <= {
        float(x) for x in pair[..., :3].flat
    }
    assert not torch.equal(clean, noisy) and (level == UNKNOWN_SIGMA).all()


def entry(path: Path) -> Entry:
    return Entry(path.name, str(path), 0, "")


def test_photos_of_any_kind_become_rgb_of_at_least_a_patch(tmp_path: Path):
    for name, pixels in {"small": photo(5, 40), "gray": photo(40, 40, channels=1)}.items():
        (tmp_path / name).write_bytes(encoded(pixels))
    Image.fromarray(np.full((20, 20), 65535, np.uint16)).save(tmp_path / "deep", "PNG")
    entries = [entry(tmp_path / name) for name in ("small", "gray", "deep")]
    (small, gray, deep), statistics = decode_photos(entries, 16)
    assert small.pixels.shape == (16, 40, 3) and statistics.mirrored == {"small"}
    assert np.array_equal(small.pixels[5], small.pixels[3])
    assert gray.pixels.shape == (40, 40, 3)
    assert (deep.pixels == 255).all()


def test_a_photo_that_does_not_decode_is_left_out_with_the_reason(tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(encoded(photo())[:100])
    names = ["broken.png", "gone.png"]
    photos, statistics = decode_photos([entry(tmp_path / name) for name in names], 16)
    assert photos == [] and list(statistics.errors) == names and all(statistics.errors.values())


def test_of_a_photo_to_validate_on_only_the_middle_is_kept(tmp_path: Path):
    pixels = photo(300, 400)
    (tmp_path / "large.png").write_bytes(encoded(pixels))
    (kept,), _ = decode_photos([entry(tmp_path / "large.png")], 16, middle=True)
    assert np.array_equal(kept.pixels, pixels[22:278, 72:328]) and kept.pixels.base is None


def test_streamed_windows_go_through_all_photos_before_any_comes_again():
    entries = [entry(Path(f"{k}.png")) for k in range(10)]
    row = [one for k in range(10) for one in window_of(entries, 0, range(3 * k, 3 * k + 3))]
    epochs = [row[:10], row[10:20], row[20:30]]
    assert all(sorted(e.path for e in epoch) == sorted(e.path for e in entries) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert not np.array_equal(order_of(0, 0, 10), order_of(1, 0, 10))


# --- the loop ---


def test_a_resumed_run_ends_with_the_very_same_weights():
    whole, states = trained()
    resumed, _ = trained(state=states[0])
    assert states[0]["progress"]["step"] == 4 and whole.step == resumed.step == 8
    assert same(whole.model, resumed.model) and same(whole.average, resumed.average)
    timeless = [
        [{key: record[key] for key in ("step", "loss", "psnr") if key in record} for record in run]
        for run in (whole.history, resumed.history)
    ]
    assert timeless[0] == timeless[1]


def test_another_seed_ends_with_others():
    assert not same(trained()[0].model, trained(replace(RECIPE, seed=1))[0].model)


def rank_of_three(rank: int, port: int, folder: Path) -> None:
    """One of three processes that train together, with torch alone."""
    torch.set_num_threads(1)
    where = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=3)
    for count in (1, 2):
        learner, _ = trained(replace(ODD, accumulate=count), worker=Worker(rank, 3))
        losses = [(record["loss"], record.get("psnr")) for record in learner.history]
        (folder / f"{count}-{rank}.json").write_text(json.dumps(losses))
    whole, states = trained(ODD, worker=Worker(rank, 3))
    resumed, _ = trained(ODD, state=states[0], worker=Worker(rank, 3))
    assert same(whole.model, resumed.model), "the order of three summands changed"
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("size", "world", "accumulate"), [(16, 3, 1), (7, 3, 2), (16, 1, 5)])
def test_workers_cut_a_batch_into_slices_that_differ_by_a_sample_at_most(size, world, accumulate):
    recipe = replace(RECIPE, steps=1, batch_size=size, accumulate=accumulate)
    given = [batches(recipe, sampler(recipe), Worker(rank, world), 0) for rank in range(world)]
    slices = [one for steps in given for batch in steps for one in batch]
    seeds = [seed for one in slices for seed in one.patches.seeds]
    assert seeds == sampler(recipe).patches(0, size).seeds.tolist()
    sizes = [len(one.patches.paths) for one in slices]
    assert max(sizes) - min(sizes) <= 1 and len(sizes) >= world * accumulate
    assert sum(one.weight for one in slices) == pytest.approx(1)


def test_fewer_large_patches_make_a_slice_so_that_their_batches_occupy_threads_too():
    for patch, size, slices in ((64, 16, 4), (128, 16, 8), (128, 4, 2), (1024, 3, 3), (64, 1, 1)):
        assert slices_of(replace(RECIPE, patch=patch, batch_size=size), Worker()) == slices


def rank_of_two(rank: int, where: Path) -> None:
    """One of two processes that train together, with torch alone."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{where / 'group'}", rank=rank, world_size=2
    )
    for precision in ("float32", "bfloat16"):
        learner, _ = trained(replace(EVEN, precision=precision), worker=Worker(rank, 2))
        torch.save(
            (learner.average.state_dict(), measured_of(learner)), where / f"{precision}{rank}"
        )
    torch.distributed.destroy_process_group()


EVEN = replace(RECIPE, batch_size=16, steps=4, save_every=2)  # four slices


def measured_of(learner: Learner) -> list[tuple[float, float | None]]:
    """Each record's loss, and PSNR where there is one."""
    return [(record["loss"], record.get("psnr")) for record in learner.history]


def test_two_workers_have_the_bits_of_one(tmp_path: Path):
    torch.multiprocessing.spawn(rank_of_two, (tmp_path,), nprocs=2)
    for precision in ("float32", "bfloat16"):
        alone, _ = trained(replace(EVEN, precision=precision))
        for rank in range(2):
            weights, losses = torch.load(tmp_path / f"{precision}{rank}", weights_only=True)
            assert losses == measured_of(alone)
            for name, weight in alone.average.state_dict().items():
                assert torch.equal(weights[name], weight), name


def test_three_workers_share_an_odd_batch_have_the_losses_of_one_and_resume_exactly(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(rank_of_three, (port, tmp_path), nprocs=3)
    alone = [(record["loss"], record.get("psnr")) for record in trained(ODD)[0].history]
    for count in (1, 2):
        for rank in range(3):
            together = json.loads((tmp_path / f"{count}-{rank}.json").read_text())
            for (loss, quality), (other, judged) in zip(alone, together, strict=True):
                assert other == pytest.approx(loss, rel=1e-5)
                assert judged == pytest.approx(quality, rel=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_number_of_threads_changes_no_bit(precision: str):
    recipe = replace(RECIPE, batch_size=16, steps=2, save_every=2, precision=precision)
    before = torch.get_num_threads()
    learners = []
    for count in (1, 3):
        torch.set_num_threads(count)
        learners.append(trained(recipe)[0])
        assert torch.get_num_threads() == count  # for those who come after
    torch.set_num_threads(before)
    assert same(learners[0].model, learners[1].model) and same(
        learners[0].average, learners[1].average
    )


def test_a_run_knows_how_good_the_noisy_pictures_and_its_beginning_were():
    learner, states = trained(replace(RECIPE, sigma=0.1))
    first, last = (record for record in learner.history if "psnr" in record)
    assert first["psnr_noisy"] == last["psnr_noisy"] == pytest.approx(20.3, abs=0.4)  # clipped
    torch.manual_seed(0)
    start = quality_of(build("unet", SMALL).eval(), PHOTOS[:2], replace(RECIPE, sigma=0.1))
    assert first["psnr_start"] == start == states[0]["progress"]["baseline"]["psnr_start"]


def test_a_machine_that_will_leave_gets_a_checkpoint_at_once():
    recipe = replace(RECIPE, steps=60, save_every=60)
    whole, _ = trained(recipe)
    _, states = trained(recipe, is_leaving=iter([True, False]).__next__)
    assert [state["progress"]["step"] for state in states] == [20, 60]
    resumed, _ = trained(recipe, state=states[0])
    assert same(whole.model, resumed.model)


def test_accumulating_parts_changes_the_losses_by_rounding_only():
    losses = [
        [record["loss"] for record in trained(replace(RECIPE, accumulate=parts))[0].history]
        for parts in (1, 4)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_in_bfloat16_has_other_losses_but_learns_the_same():
    """In the arithmetic alone: weights, losses and judgements stay float32."""
    recipe = replace(RECIPE, steps=80, save_every=80, sigma=0.1, learning_rate=3e-3)
    exact, short = (trained(replace(recipe, precision=one))[0] for one in ("float32", "bfloat16"))
    losses = [[record["loss"] for record in one.history] for one in (exact, short)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert short.best["psnr"] == pytest.approx(exact.best["psnr"], abs=0.02)
    assert {one.dtype for one in short.model.parameters()} == {torch.float32}


def test_in_as_many_steps_muon_learns_more_than_adamw():
    recipe = replace(RECIPE, steps=200, save_every=200, sigma=0.1, learning_rate=1e-2)
    muon, adamw = (
        trained(replace(recipe, optimizer=one))[0].best["psnr"] for one in get_args(Optimizer)
    )
    assert muon > adamw + 0.2


@pytest.mark.parametrize("loss", get_args(Loss))
def test_training_on_any_loss_beats_doing_nothing(loss: str):
    recipe = replace(RECIPE, steps=80, save_every=80, sigma=0.1, loss=loss, learning_rate=3e-3)
    before = quality_of(build("unet", SMALL).eval(), PHOTOS[:2])
    assert trained(recipe)[0].best["psnr"] > before + 0.1


def test_patience_stops_a_run_that_gets_no_better_and_it_stays_stopped():
    recipe = replace(RECIPE, steps=400, save_every=1, patience=3, learning_rate=1e-12)
    learner, states = trained(recipe)
    assert learner.step < 400 and learner.worse == 3
    again, more = trained(recipe, state=states[-1])
    assert again.step == learner.step and not more


def test_a_loss_that_is_no_number_names_its_step_and_its_photos():
    torch.manual_seed(0)
    model = build("unet", SMALL)
    photos = [*PHOTOS, Photo("bad.png", np.zeros((32, 32, 3), np.uint8))]
    recipe = replace(RECIPE, steps=3)
    torch.nn.init.constant_(model.tail.bias, float("nan"))
    with pytest.raises(Diverged, match=r"loss was nan at step 0; its batch came from .*\.png"):
        learn(recipe, model, sampler(recipe, photos), PHOTOS[:1], lambda learner: None)


def test_a_network_that_gives_no_numbers_is_not_the_best_of_all():
    """Its last step may spoil it, after which no loss is computed."""
    torch.manual_seed(0)
    model = build("cae-m")
    recipe = replace(RECIPE, steps=2, save_every=1, learning_rate=1.0, optimizer="adamw")
    saved = []
    with pytest.raises(Diverged, match=r"PSNR of nan after step \d"):
        learn(
            recipe,
            model,
            sampler(recipe),
            PHOTOS[:1],
            lambda learner: saved.append(learner.best["psnr"]),
        )
    assert all(best < HIGHEST for best in saved)


class Black(torch.nn.Module):
    """Gives a picture of nothing."""

    def forward(self, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(noisy)


def test_one_photo_that_is_restored_perfectly_does_not_outweigh_the_others():
    pixels = [np.full((32, 32, 3), level, np.uint8) for level in (0, 51, 255)]
    photos = [Photo(f"{k}.png", each) for k, each in enumerate(pixels)]
    expected = (HIGHEST + 20 * math.log10(5) + 0) / 3  # 51 is a fifth of 255
    assert quality_of(Black(), photos) == pytest.approx(expected)


def test_weights_that_are_trained_already_are_trained_on_more_gently():
    fresh = TrainConfig(images="in", output="out")
    assert fresh.rate == fresh.recipe().rate == Recipe().rate == 3e-3
    trained = replace(fresh, init="unet")
    assert trained.rate == trained.recipe().rate == trained.settings()["learning_rate"] == 3e-4
    assert replace(trained, optimizer="adamw").rate == 1e-4
    assert replace(trained, learning_rate=3e-3).recipe().rate == 3e-3


def test_a_card_names_a_rate_that_goes_without_saying_for_fresh_weights_alone():
    training = {"architecture": "unet", "init": "unet", "learning_rate": Recipe().rate}
    flags = " ".join(model_card._flags(training, is_pairs=False))
    assert flags == "--init unet --architecture unet --learning-rate 0.003"


def test_a_card_asks_for_an_architecture_where_one_was_asked_for_alone():
    """Beside a model to start from, it would be another network."""
    training = {"init": "my-model", "architecture": None}
    assert list(model_card._flags(training, is_pairs=False)) == ["--init my-model"]


def test_a_card_quotes_names_that_a_shell_would_take_apart():
    training = {"init": "my models/first"}
    assert list(model_card._flags(training, is_pairs=False)) == ["--init 'my models/first'"]


def test_the_learning_rate_rises_and_falls():
    recipe = Recipe(steps=1000, learning_rate=1e-3)
    rates = [learning_rate_at(recipe, step) for step in range(1000)]
    assert rates[0] < 2e-5 and max(rates) == pytest.approx(1e-3, rel=0.05)
    assert rates[-1] == pytest.approx(1e-5, rel=0.05)
    assert rates.index(max(rates)) == 99 and rates[99:] == sorted(rates[99:], reverse=True)


def test_losses_are_zero_where_nothing_is_wrong():
    clean = torch.rand(1, 3, 4, 4)
    for loss in ("l1", "mse"):
        assert float(loss_of(replace(RECIPE, loss=loss), clean, clean)) == 0
    for loss in ("charbonnier", "rmse"):
        assert float(loss_of(replace(RECIPE, loss=loss), clean, clean)) == pytest.approx(1e-3)


def test_the_loss_rmse_is_the_mean_of_the_patches_own():
    clean = torch.zeros(2, 3, 4, 4)
    wrong = torch.stack([clean[0] + 0.3, clean[1] + 0.1])
    loss = float(loss_of(replace(RECIPE, loss="rmse"), wrong, clean))
    assert loss == pytest.approx(0.2, abs=1e-5)  # of both together it were 0.22


def test_training_has_no_denormal_numbers_and_leaves_others_theirs():
    tiny = torch.full((4,), 1e-30)
    with without_denormals():
        assert not (tiny * 1e-10).any()
    assert (tiny * 1e-10).all()
    products: list[bool] = []
    trained(log=lambda record: products.append(bool((tiny * 1e-10).any())))
    assert products and not any(products)


def test_the_average_follows_the_weights_and_is_what_is_judged():
    learner, _ = trained(replace(RECIPE, steps=40, save_every=40))
    assert quality_of(learner.average, PHOTOS[:2]) == learner.history[-1]["psnr"]
    assert not same(learner.model, learner.average)


# --- the job ---


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"sigma": 2.0}, "sigma must lie in 0..1.*2.0"),
        ({"sigma": (0.2, 0.1)}, "ascending, got 0.2 0.1"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"patch": 5000}, "patch must be at most 4096, got 5000"),
        ({"workers": 0}, "workers must be N or MIN MAX, at least 1 and ascending, got 0"),
        ({"workers": 17}, "batch-size 16 is too small for workers 17.*at least 17"),
        ({"workers": (1, 5), "accumulate": 4}, "at least 20"),
        ({"learning_rate": -1.0}, "learning-rate must lie in 0..1, got -1.0"),
        ({"learning_rate": 0.0}, "learning-rate must lie in 0..1, got 0.0"),
        ({"loss": "huber"}, "loss must be one of l1, charbonnier, mse, rmse, got huber"),
        ({"optimizer": "sgd"}, "optimizer must be one of muon, adamw, got sgd"),
        ({"precision": "half"}, "precision must be one of auto, float32, bfloat16, got half"),
        ({"memory": 0.0}, "memory must be above 0"),
        ({"memory": float("nan")}, "memory must be above 0 GiB, got nan"),
        ({"max_error_rate": 2.0}, "max-error-rate must lie in 0..1, got 2.0"),
        ({"images": ""}, "images must not be empty"),
    ],
)
def test_nonsense_is_refused_with_its_value(flags: dict, words: str):
    with pytest.raises(ValueError, match=words):
        TrainConfig(**({"images": "a", "output": "b"} | flags))


CONFIG = {
    "architecture": "classic",
    "steps": 40,
    "batch_size": 4,
    "patch": 16,
    "save_every": 20,
    "precision": "float32",  # on any hardware
}


def config(images: Path, output: Path, **flags) -> TrainConfig:
    return TrainConfig(images=str(images), output=str(output), **(CONFIG | flags))


def losses_of(output: Path) -> list[float]:
    return [
        json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("training") / "photos"
    root.mkdir()
    for number in range(12):
        (root / f"{number:02d}.png").write_bytes(encoded(photo(24, 32, seed=number)))
    return root


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The output of one training run."""
    output = folder.parent / "run"
    record = train(config(folder, output))
    assert not record["nothing_to_do"]
    return output


def test_a_run_leaves_a_package_with_its_record_card_and_scalars(run: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = package.load(str(run))
    training = found.config["training"]
    assert (training["steps"], training["seed"]) == (40, 0)
    assert training["photos"] + training["validated_on"] == 12
    card = (run / "README.md").read_text()
    for name in ("curve.png", "samples.jpg"):
        assert f"({name})" in card and Image.open(run / name).width > 300
    assert "| noise level | not taken notice of" in card  # by `classic`
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [20, 40]
    keys = {"loss", "psnr", "learning_rate", "images_per_second", "data_wait", "memory_gib"}
    assert keys <= records[-1].keys()
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    read_back = [(event.step, event.value) for event in events.Scalars("loss")]
    assert read_back == [(r["step"], pytest.approx(r["loss"])) for r in records]


def test_a_run_records_its_flags_versions_and_times(run: Path):
    record = json.loads((run / "_run.json").read_text())
    assert record["flags"]["workers"] == 1 and record["flags"]["save_every"] == 20
    assert record["versions"].keys() >= {"denoise", "ray", "torch"}
    assert record["started"] <= record["ended"] and record["state"] == "done"


@pytest.mark.parametrize("flag", ["images", "validation", "init"])
def test_nothing_is_read_from_the_output_folder(folder: Path, tmp_path: Path, flag: str):
    asked = config(folder, tmp_path / "out")
    (tmp_path / "out" / "more").mkdir(parents=True)
    inside = str(tmp_path / "out" / "more")
    with pytest.raises(SettingsError, match="more lies inside the output folder"):
        train(replace(asked, **{flag: inside}))
    with pytest.raises(SettingsError, match="out lies inside the output folder"):
        train(replace(asked, **{flag: asked.output}))


def test_a_finished_run_does_nothing_and_with_other_settings_it_is_refused(run: Path, folder: Path):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert train(config(folder, run))["nothing_to_do"]
    with pytest.raises(SettingsError, match="steps was 40, now 60") as refused:
        train(config(folder, run, steps=60))
    assert "--overwrite" not in str(refused.value)  # `train` has no such flag
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    assert {p.name for p in before.keys() ^ after.keys()} == set()
    assert package.load(str(run))


def test_a_run_killed_before_its_package_was_written_writes_the_same_one(run: Path, folder: Path):
    copied = folder.parent / "unpacked"
    shutil.copytree(run, copied)
    for name in ("_SUCCESS", "config.json", "model.safetensors"):
        (copied / name).unlink()
    assert not train(config(folder, copied))["nothing_to_do"]
    assert package.load(str(copied)).digest == package.load(str(run)).digest
    assert losses_of(copied) == losses_of(run)


def test_settings_that_mean_the_same_are_the_same(run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(run.parent)
    one = TrainConfig(images="a", output="b", init=run.name, sigma=0.1)
    other = TrainConfig(images="./a", output="c", init=f"./{run.name}", sigma=(0.1, 0.1))
    assert one.settings() == other.settings()
    assert one.settings() != replace(one, sigma=(0.1, 0.2)).settings()


def test_a_run_that_patience_stopped_is_finished(folder: Path):
    output = folder.parent / "patient"
    asked = config(folder, output, save_every=5, steps=400, patience=2, learning_rate=1e-12)
    record = train(asked)
    assert record["training"]["last_step"] < 400 and record["training"]["best_step"] <= 15
    assert train(asked)["nothing_to_do"]


def test_a_run_does_not_go_on_with_other_photos_or_another_model(
    run: Path, folder: Path, tmp_path: Path
):
    photos, init, output = tmp_path / "photos", tmp_path / "init", tmp_path / "run"
    for copy, source in ((photos, folder), (init, run), (output, run)):
        shutil.copytree(source, copy)
    begun = json.loads((run / "_run.json").read_text())
    begun["settings"] |= {"images": str(photos), "init": str(init), "init_digest": "another"}
    (output / "_run.json").write_text(json.dumps(begun))
    with pytest.raises(SettingsError, match=r"init_digest was 'another', now '[0-9a-f]{64}'"):
        train(config(photos, output, init=str(init)))
    begun["settings"] |= {"init": None, "init_digest": None, "network": {"width": 8}}
    (output / "_run.json").write_text(json.dumps(begun))
    with pytest.raises(SettingsError, match=r"network was {'width': 8}, now {'width': 32}"):
        train(config(photos, output))
    begun["settings"] |= {"network": build(begun["settings"]["architecture"]).arguments}
    (output / "_run.json").write_text(json.dumps(begun))
    (photos / "03.png").write_bytes(encoded(photo(30, 30)))
    (photos / "more.png").write_bytes(encoded(photo(30, 30)))
    with pytest.raises(SettingsError, match=r"changed since, such as 03.png; 1 new, such as more"):
        train(config(photos, output))


@pytest.mark.ray
def test_two_workers_have_the_losses_of_one(run: Path, folder: Path, ray_session: Resources):
    if ray_session.cpus < 2 or ray_session.gpus == 1:
        pytest.skip("two workers need two CPUs, or two GPUs where there are any")
    output, ours = folder.parent / "two", signal.getsignal(signal.SIGINT)
    record = train(config(folder, output, workers=2))
    assert record["training"]["workers"] == 2 and "CPU cores" in record["training"]["hardware"]
    assert signal.getsignal(signal.SIGINT) is ours  # Ray Train would leave its own behind
    assert losses_of(output) == pytest.approx(losses_of(run), rel=1e-5)


def test_a_run_begins_with_a_package_and_streams_what_does_not_fit(run: Path, folder: Path):
    output = folder.parent / "tuned"
    many = folder.parent / "many"
    many.mkdir()
    for number in range(40):
        (many / f"{number}.png").write_bytes(encoded(photo(20, 20, seed=number)))
    (many / "0.png").write_bytes(encoded(photo())[:99])  # one of those that are looked at first
    flags = {"architecture": None, "init": str(run), "memory": 2e-5, "learning_rate": 1e-5}
    flags |= {"validation": str(many), "max_error_rate": 0.03}  # of 40, and of the 32 looked at
    record = train(config(many, output, **flags))
    assert record["architecture"] == "classic"
    training = record["training"]
    assert training["started_from"] == package.load(str(run)).digest
    assert (training["photos"], training["undecodable"]) == (39, 1)
    assert (training["validated_on"], training["validation_listed"]) in [(31, 40), (32, 40)]
    text = (output / "README.md").read_text()
    assert f"{training['validated_on']} of 40 photos" in text and "--architecture" not in text
    assert losses_of(output)[0] < losses_of(run)[0]
    window = json.loads((output / "_run.json").read_text())["window"]
    assert 1 <= window < 40
    limits = Limits(patch=16, seed=0, memory=4.0, max_error_rate=0.03)
    entries = [Entry(path.name, str(path), 1000, "") for path in sorted(many.iterdir())]
    with decode_in_threads(2, 16) as decode:  # as the run began, whatever a look finds
        again, _ = stores_of(entries, [], limits, decode, partial(WindowStream, decode), window)
    assert again.stream is not None and again.samples_a_window == window * CROPS


@pytest.mark.parametrize(("size", "count"), [(100_000, 32), (8 << 20, 1), (0, 4)])
def test_no_worker_has_to_decode_more_at_once_than_fits(size: int, count: int):
    entries = [Entry(f"{k}.jpg", f"{k}.jpg", size, "") for k in range(40)]
    parts = parts_of(entries)
    assert max(len(part) for part in parts) == count
    assert [entry for part in parts for entry in part] == entries


@pytest.mark.ray
@pytest.mark.slow
def test_streaming_goes_on_when_the_process_that_does_it_is_killed(
    folder: Path, tmp_path: Path, ray_session: Resources
):
    many, whole, killed = (tmp_path / name for name in ("many", "whole", "killed"))
    pictures(many, 40)
    train(config(many, whole, memory=1e-4, validation=str(folder), steps=600, workers=2))
    asked = flags_of(many, killed, memory=1e-4, validation=folder, steps=600, workers=2)
    job = Job("train", *asked)
    wait_until(lambda: records_in(killed) >= 3, 120)
    assert job.send(signal.SIGKILL, "ray::WindowStream")
    done = job.done()
    assert done.code == 0, done.err
    assert losses_of(killed) == losses_of(whole)


def test_streamed_photos_of_which_too_many_are_broken_end_a_run_in_plain_words(folder: Path):
    """None of those looked at first is broken, and all that come after are."""
    many, output = folder.parent / "broken_later", folder.parent / "not_trained"
    many.mkdir()
    for number in range(96):
        whole = encoded(photo(20, 20, seed=number))
        (many / f"{number:02d}.png").write_bytes(whole if number % 3 == 0 else whole[:60])
    asked = config(many, output, memory=2e-5, validation=str(folder))
    with pytest.raises(RuntimeError, match=r"\d+ of 96 images do not decode, such as \d+.png"):
        train(asked)
    more = replace(asked, max_error_rate=1.0, memory=1e-6)  # windows of one photo
    with pytest.raises(RuntimeError, match="more --memory mixes them with others"):
        train(replace(more, output=str(output) + "2"))


@pytest.mark.ray
def test_a_run_on_the_pairs_of_the_noise_job(folder: Path, ray_session: Resources):
    from denoise.verbs.noise import NoiseConfig, noise

    pairs, output = folder.parent / "pairs", folder.parent / "from_pairs"
    noise(NoiseConfig(images=str(folder), output=str(pairs), sigma=0.2))
    train(config(pairs, output, architecture="cae-s", steps=20))
    record = json.loads((output / "metrics.jsonl").read_text().splitlines()[0])
    assert record["psnr"] < 20  # begins near the pairs' own 14 dB: it is these it is judged on
    found = package.load(str(output)).config
    assert found["sigma"] == [0.2, 0.2] and found["clipping"] != "both"
    card = (output / "README.md").read_text()
    assert "that of the pairs: sigma 0.2" in card and "sigma 0.1" not in card


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("00.png", "one picture, to train on and to validate on"),
        ("0[01].png", "has 1 picture: below"),
    ],
)
def test_validation_that_says_too_little_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, images: str, words: str
):
    train(config(folder / images, tmp_path / "out", steps=4))
    assert words in caplog.text


def test_a_package_that_cannot_be_written_loses_no_steps(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*given: Any) -> None:
        raise SettingsError("its class is gone")

    job = config(folder, tmp_path / "out", steps=4)
    with monkeypatch.context() as patched:
        patched.setattr("denoise.verbs.train_run._pack", refuse)
        with pytest.raises(RuntimeError, match="its class is gone"):
            train(job)
    before = losses_of(tmp_path / "out")
    assert len(before) > 0 and not train(job)["nothing_to_do"]
    assert losses_of(tmp_path / "out") == before  # no step was made again


def test_a_run_that_is_refused_late_keeps_its_checkpoint(tmp_path: Path):
    output = str(tmp_path / "out")
    for made in ("", CHECKPOINT):
        with pytest.raises(SettingsError), Output(output, "train", {}, overwrite=None):
            if made:
                files.write(f"{output}/{made}", b"steps")
            files.write(f"{output}/{SPLIT}", b"")
            raise SettingsError("refused")
        assert ((tmp_path / "out" / "_run.json").exists()) == bool(made)


def test_a_checkpoint_that_does_not_fit_into_memory_is_not_called_damaged(
    run: Path, monkeypatch: pytest.MonkeyPatch
):
    def load(*given: Any, **more: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(RuntimeError, match="allocate memory"):
        load_checkpoint(str(run))


def test_pairs_have_their_own_kind_of_noise_and_no_other_can_be_asked_for(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    from denoise.verbs.noise import NoiseConfig, noise

    pairs = tmp_path / "pairs"
    noise(NoiseConfig(images=str(folder), output=str(pairs), kind="camera"))
    with pytest.raises(SettingsError, match="holds pairs, which bring noise of their own: leave"):
        train(config(pairs, tmp_path / "camera", kind="camera"))
    train(config(pairs / "data", tmp_path / "out", sigma=0.1, steps=4))  # its table says it too
    assert "--sigma is not for them" in caplog.text
    found = package.load(str(tmp_path / "out")).config
    assert found["kind"] == "camera" and found["clipping"] == model_card.OF_PAIRS
    assert "that of the pairs" in (tmp_path / "out" / "README.md").read_text()


def test_a_training_ends_where_another_run_has_its_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("denoise.output.lock._BEAT", 0.05)
    output = tmp_path / "out"

    def take_over() -> None:
        wait_until(lambda: records_in(output) >= 2, 120)
        (output / "_lock.json").unlink()

    other = threading.Thread(target=take_over)
    other.start()
    with pytest.raises(WriteError, match="another run took over"):
        train(config(folder, output, steps=100_000))
    other.join()
    assert not (output / "config.json").exists()


def test_a_checkpoint_that_is_damaged_is_told_in_words(folder: Path, tmp_path: Path):
    output = tmp_path / "out"
    train(config(folder, output, steps=20))
    whole = (output / "checkpoint.pt").read_bytes()
    (output / "_SUCCESS").unlink()
    for damaged in (whole[:5000], b"", b"something else"):
        (output / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(RuntimeError, match=r"checkpoint\.pt is damaged: remove it to begin"):
            train(config(folder, output, steps=20))


def test_what_decides_the_weights_is_asked_for_again_and_nothing_else(folder: Path, tmp_path: Path):
    asked = config(folder, tmp_path / "out")
    for free in ({"workers": 2}, {"memory": 1.0}, {"max_error_rate": 0.5}, {"output": "x"}):
        assert replace(asked, **free).settings() == asked.settings()
    for bound in ({"compile": True}, {"seed": 1}, {"accumulate": 2}, {"precision": "bfloat16"}):
        assert replace(asked, **bound).settings() != asked.settings()


class _FromAnActor(SettingsError):
    """As Ray raises it: the text is a traceback, the cause has the words."""

    cause = SettingsError("9 of 96 images do not decode")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_FromAnActor("ray::WindowStream.window() (pid=1)"), "^9 of 96 images do not decode$"),
        (torch.OutOfMemoryError(), "a batch does not fit into memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "does not fit into memory"),
    ],
)
def test_what_another_try_would_end_in_too_has_words_for_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, words: str
):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("denoise.training.worker.learn", fail)
    store = PhotoStore([], DecodeStatistics(0))
    job = worker.Job(RECIPE, start_of("classic", None), store, store, str(tmp_path), False, {})
    with pytest.raises(worker.Hopeless, match=words):
        worker.train_worker(job, Worker(rank=1, world=2), print)


def test_a_larger_architecture_begins_with_the_pictures_of_a_smaller_model():
    grown = start_of("unet", "cae-s")
    assert grown.architecture == "unet" and grown.digest == package.load("cae-s").digest
    noisy, level = torch.rand(1, 3, 21, 30), torch.tensor([UNKNOWN_SIGMA])
    denoised = grown.network(0).eval()(noisy, level)
    expected = package.load("cae-s").model(noisy, level)
    torch.testing.assert_close(denoised, expected, rtol=0, atol=1e-5)
    assert same(grown.network(0), grown.network(0))
    assert not same(grown.network(0), grown.network(1))  # its new channels are drawn


def test_a_model_goes_on_as_it_is_or_as_its_architecture_is_today(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    older = build("unet", {"widths": [32, 48, 96], "blocks": [1, 3, 2]})
    package.save(str(tmp_path), older, {"architecture": "unet"})
    assert same(start_of(None, str(tmp_path)).network(0), older) and not caplog.text
    today = start_of("unet", str(tmp_path)).network(0)
    assert today.arguments == build("unet").arguments
    assert "has 2 blocks more than unet" in caplog.text  # one down, one up
    kept = older.encoders[1][1].one.weight
    assert torch.equal(today.encoders[1][1].one.weight[:48, :48], kept)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"architecture": "vgg"}, "one of classic"),
        ({"init": "no-such-model"}, "no-such-model"),
        ({"init": "unet", "architecture": "classic"}, "unet, cannot become classic"),
        ({"init": "unet", "architecture": "cae-s"}, "cannot become cae-s: .* is .* there and"),
        ({"images": "nowhere"}, "nowhere"),
    ],
)
def test_wrong_models_and_uris_are_refused_before_any_work(folder, tmp_path, flags, words):
    with pytest.raises(SettingsError, match=words):
        train(replace(config(folder, tmp_path / "out"), **flags))


def test_too_many_broken_images_are_refused_and_fewer_are_counted(folder: Path, tmp_path: Path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    with pytest.raises(SettingsError, match=r"1 of \d+ images do not decode, such as bad.png"):
        train(config(broken, tmp_path / "out", validation=str(folder)))


def test_a_run_does_not_go_on_without_a_photo_that_it_began_with(tmp_path: Path):
    """A store that fails on one photo after a restart must not change the weights in silence."""
    whole = PhotoStore([], DecodeStatistics(9))
    first = PhotoStore([], DecodeStatistics(9, {"b.png": "cut off"}))
    later = PhotoStore([], DecodeStatistics(9, {"b.png": "cut off", "gone.png": "no such file"}))
    with Output(str(tmp_path), "train", {}) as output:
        _note(output, later, whole, goes_on=False)
        _note(output, first, whole, goes_on=False)
        _note(output, first, whole, goes_on=True)
        with pytest.raises(RuntimeError, match=r"gone.png cannot be read now \(no such file\)"):
            _note(output, later, whole, goes_on=True)
        with pytest.raises(RuntimeError, match=r"b.png could not be read then"):
            _note(output, whole, whole, goes_on=True)


def test_the_first_workers_own_words_say_why_a_training_failed():
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    from denoise.training.ray_train import cause_of

    lost = "Traceback (most recent call last):\n  File x\nRuntimeError: connection closed by peer\n"
    full = "Traceback (most recent call last):\n  File x\nOSError: no space\n\nmore of it"
    failed = WorkerGroupError("much", {1: RuntimeError(lost), 0: RuntimeError(full)})
    assert cause_of(failed) == "OSError: no space"
    killed = WorkerGroupError("much", {0: RuntimeError("1 worker was killed:\n  low on memory")})
    assert cause_of(killed) == "1 worker was killed: low on memory"
    assert "no node" in cause_of(ControllerError(ValueError("no node")))


def test_more_workers_than_this_machine_has_are_refused_and_a_cluster_may_grow(folder, tmp_path):
    asked = config(folder, tmp_path / "out", batch_size=64, workers=64)
    two = Resources(2, 0, 1, is_own=True, by_node=({"CPU": 2.0},))
    with pytest.raises(SettingsError, match=r"64 workers.*has 2 CPUs and 0 GPUs, room for 2"):
        check_cluster(asked, two)
    check_cluster(asked, replace(two, is_own=False))  # nodes may come


def joined(rank: int, address: str, listening: Any) -> None:
    """A process of its own: all that it listens on is torch's."""
    from denoise.training.ray_train import join_group

    join_group("gloo", address, rank, 2, timedelta(minutes=1))
    total = torch.ones(1)
    torch.distributed.all_reduce(total)
    ports = psutil.Process().net_connections("inet")
    listening.put((float(total), [port.laddr.ip for port in ports if port.status == "LISTEN"]))


def test_workers_of_one_machine_listen_to_it_alone(tmp_path: Path):
    listening = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(joined, (str(tmp_path / "group"), listening), nprocs=2)
    found = [listening.get() for _ in range(2)]
    assert [total for total, _ in found] == [2, 2]
    assert {ip.removeprefix("::ffff:") for _, ips in found for ip in ips} == {"127.0.0.1"}


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_so_and_leaves_nothing_running(
    folder: Path, tmp_path: Path, sign: signal.Signals
):
    job = Job("train", *flags_of(folder, tmp_path / "out", steps=100000, save_every=20))
    wait_until(lambda: records_in(tmp_path / "out") >= 1, 120)
    os.killpg(job.process.pid, sign)
    done = job.done(60)
    assert done.code == 130, done.err
    assert "interrupted" in done.err and "Traceback" not in done.err
    assert done.left == []


def flags_of(folder: Path, output: Path, **flags: object) -> list[str]:
    """The command line of `config`."""
    settings = {name: getattr(config(folder, output), name) for name in CONFIG} | flags
    named = {"images": folder, "output": output} | settings
    return [word for name, value in named.items() for word in (flag_of(name), str(value))]


def flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


def records_in(output: Path) -> int:
    metrics = output / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def killed_in_the_middle(folder: Path, output: Path, **flags: object) -> None:
    """A run whose process is killed between two checkpoints, after the third."""
    job = Job("train", *flags_of(folder, output, **flags))
    try:
        wait_until(lambda: records_in(output) >= 3, 120)
        job.process.send_signal(signal.SIGKILL)
        job.process.wait()
    finally:
        job.kill()
    assert not (output / "config.json").exists()


def test_a_killed_process_that_is_started_again_changes_no_bit(folder: Path, tmp_path: Path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(config(folder, whole, steps=400))
    killed_in_the_middle(folder, killed, steps=400)
    train(config(folder, killed, steps=400))
    weights = [(output / "model.safetensors").read_bytes() for output in (whole, killed)]
    assert weights[0] == weights[1] and losses_of(whole) == losses_of(killed)


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_begun_in_this_process_goes_on_under_ray_with_the_same_bits(
    folder: Path, tmp_path: Path, ray_session: Resources, monkeypatch: pytest.MonkeyPatch
):
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    train(config(folder, whole, steps=1000))
    killed_in_the_middle(folder, moved, steps=1000)
    monkeypatch.setattr(verb, "_is_for_this_process", lambda config: False)
    train(config(folder, moved, steps=1000))
    weights = [(output / "model.safetensors").read_bytes() for output in (whole, moved)]
    assert weights[0] == weights[1] and losses_of(whole) == losses_of(moved)


@pytest.mark.ray
@pytest.mark.slow
def test_killed_workers_and_drivers_change_no_bit_of_the_weights(
    folder: Path, tmp_path: Path, ray_session: Resources
):
    """kill -9 of one of two workers, then of the driver; the same command again."""
    flags = {"steps": 1200, "workers": 2}
    train(config(folder, tmp_path / "whole", **flags))
    killed = tmp_path / "killed"
    scratch = tempfile.mkdtemp(dir="/tmp")  # short: Ray's sockets have their names in it
    asked = flags_of(folder, killed, **flags)
    job = Job("train", *asked, env={"TMPDIR": scratch})
    try:
        wait_until(lambda: records_in(killed) >= 5, 240)
        assert job.send(signal.SIGKILL, "RayTrainWorker")
        before = records_in(killed)
        wait_until(lambda: records_in(killed) >= before + 5, 240)
        assert job.process.poll() is None
        job.process.send_signal(signal.SIGKILL)
        job.process.wait()
        wait_until(lambda: not job.processes("RayTrainWorker"))  # nobody has to end them
    finally:
        job.kill()
    assert not (killed / "config.json").exists()
    done = Job("train", *asked, env={"TMPDIR": scratch}).done()
    assert done.code == 0, done.err
    left = [path.name for path in Path(scratch).glob("denoise-*")]
    assert len(left) <= 1, "no session but the killed driver's leaves its folder"
    shutil.rmtree(scratch)
    weights = [tmp_path / run / "model.safetensors" for run in ("whole", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert losses_of(tmp_path / "whole") == losses_of(killed)
