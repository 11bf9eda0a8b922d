import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from denoise.images.codec import to_floats, to_pixels
from denoise.nets import package
from denoise.nets.denoiser import Denoiser
from denoise.nets.networks import ARCHITECTURES, UNKNOWN_SIGMA, build
from denoise.nets.package import Package
from denoise.nets.picture_tiles import from_network, to_network, use_cores
from denoise.nets.precision import can_do
from tests.conftest import photo

CPU = torch.device("cpu")

SIZES = [(1, 1), (7, 5), (1, 230), (230, 1), (97, 131), (203, 64)]
FRESH = [name for name in ARCHITECTURES if name != "cae-l"]  # as unet, and slow here


@pytest.fixture(scope="module")
def small() -> Package:
    return package_of(build("unet", {"widths": [4, 6], "blocks": 1}))


# --- tiles do not show ---


@pytest.mark.parametrize("name", [*FRESH, *package.shipped_names()])
def test_tiles_equal_the_whole_for_every_architecture_and_every_shipped_model(name: str):
    shipped = name in package.shipped_names()
    loaded = package.load(name) if shipped else package_of(build(name))
    whole, tiled = (Denoiser(loaded, tile=tile, precision="float32") for tile in (100_000, 72))
    for size in SIZES:
        noisy = noise(*size, 3)
        assert np.abs(whole(noisy) - tiled(noisy)).max() <= 1e-5, size


@pytest.mark.parametrize("name", package.shipped_names())
def test_in_bfloat16_tiles_and_whole_differ_by_one_level_at_most(name: str):
    needs_bfloat16()
    loaded = package.load(name)
    whole, tiled = (Denoiser(loaded, tile=tile, precision="bfloat16") for tile in (100_000, 72))
    for size in [*SIZES, (300, 300)]:
        noisy = to_pixels(noise(*size, 3), 8)
        gap = np.abs(whole(noisy).astype(int) - tiled(noisy))
        assert gap.max() <= 1, size


def test_small_tiles_are_really_used(small: Package):
    seen: list[tuple[int, ...]] = []
    small.model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    denoiser = Denoiser(small, tile=32, precision="float32")
    seen.clear()  # of the test tile
    denoiser(noise(200, 100, 3))
    assert len(seen) == 7 * 4
    assert max(height for _, _, height, _ in seen) < 32 + 2 * (small.model.reach + 8)


def test_integers_in_tiles_are_those_of_the_whole_but_for_ties(small: Package):
    noisy = photo(150, 110)
    whole = Denoiser(small, tile=1000)(to_floats(noisy))
    tiled = Denoiser(small, tile=40)(noisy)
    assert (to_pixels(whole - 1e-5, 8) <= tiled).all()
    assert (tiled <= to_pixels(whole + 1e-5, 8)).all()


# --- the same kind out ---


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
def test_what_comes_out_is_of_the_kind_that_went_in(small: Package, kind, channels):
    noisy = noise(20, 30, channels or 1)
    if kind != np.float32:
        noisy = to_pixels(noisy, 8 * np.dtype(kind).itemsize)
    noisy = noisy if channels else noisy[..., 0]
    denoised = Denoiser(small)(noisy)
    assert (denoised.shape, denoised.dtype) == (noisy.shape, noisy.dtype)
    if channels in (2, 4):
        assert np.array_equal(denoised[..., -1], noisy[..., -1])  # alpha
    colours = slice(None) if channels in (None, 1, 3) else slice(-1)
    assert not np.array_equal(denoised[..., colours], noisy[..., colours])


def test_gray_is_the_mean_of_what_the_network_makes_of_three_equal_planes(small: Package):
    gray = noise(20, 30, 1)
    denoiser = Denoiser(small)
    three = denoiser(np.repeat(gray, 3, axis=2))
    assert np.allclose(denoiser(gray), three.mean(axis=2, keepdims=True), atol=1e-6)


def test_integers_are_what_floats_round_to(small: Package):
    denoiser, noisy = Denoiser(small), photo(40, 50)
    assert np.array_equal(denoiser(noisy), to_pixels(denoiser(to_floats(noisy)), 8))


@pytest.mark.parametrize("kind", [">u2", ">f4"])
def test_the_order_of_bytes_changes_nothing(small: Package, kind: str):
    picture = (photo(24, 32) / np.float32(255)).astype(np.float32)
    native = picture if kind == ">f4" else (picture * 65535).astype(np.uint16)
    assert (Denoiser(small)(native.astype(kind)) == Denoiser(small)(native)).all()


def test_the_input_stays_as_it_was(small: Package):
    noisy = photo(40, 50)
    before = noisy.copy()
    Denoiser(small)(noisy)
    assert np.array_equal(noisy, before)


def test_views_and_read_only_arrays_are_fine(small: Package):
    noisy = photo(40, 50)
    noisy.flags.writeable = False
    expected = Denoiser(small)(np.ascontiguousarray(noisy[::-1, ::2]))
    assert np.array_equal(Denoiser(small)(noisy[::-1, ::2]), expected)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (np.zeros((4, 4, 3)), "got float64"),
        (np.zeros((4, 4), np.int32), "got int32"),
        ([[1, 2], [3, 4]], "got list"),
        (np.zeros((4, 4, 5), np.uint8), r"got \[4, 4, 5\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"got \[2, 4, 4, 3\]"),
        (np.zeros((0, 4), np.uint8), r"got \[0, 4\]"),
        (np.zeros(4, np.uint8), r"got \[4\]"),
        (np.full((2, 2), np.nan, np.float32), "got nan"),
        (np.full((2, 2), -np.inf, np.float32), "got -inf"),
        (np.full((2, 2), 200, np.float32), r"scale 0\.\.1, got 200"),
        (np.full((2, 2), -9, np.float32), r"scale 0\.\.1, got -9"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_value(small: Package, wrong, words: str):
    with pytest.raises(ValueError, match=words):
        Denoiser(small)(wrong)


def test_noise_far_outside_of_the_scale_is_no_mistake(small: Package):
    strong = np.array([[-5.5, 6.5], [0, 1]], np.float32)
    assert np.isfinite(Denoiser(small)(strong)).all()


def test_nonsense_settings_are_refused_with_the_value(small: Package):
    with pytest.raises(ValueError, match="got 0"):
        Denoiser(small, tile=0)
    with pytest.raises(ValueError, match="got 25"):
        Denoiser(small, sigma=25)


# --- batches ---


class Counting(nn.Module):
    """Adds up what it is shown; knows no more pixels at a time than its memory holds."""

    stride, reach = 4, 3

    def __init__(self, memory: int = 1 << 62) -> None:
        super().__init__()
        self.memory, self.shapes, self.sigmas = memory, [], []

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        if noisy.shape[0] * noisy.shape[2] * noisy.shape[3] > self.memory:
            raise torch.OutOfMemoryError("out of memory")
        self.shapes.append(tuple(noisy.shape))
        self.sigmas.append(sigma.tolist())
        return noisy / 2


def test_a_picture_comes_out_the_same_whatever_goes_with_it(small: Package):
    pictures = [photo(40, 50, seed=seed) for seed in range(3)] + [photo(20, 90), photo(300, 40)]
    together = Denoiser(small, tile=64).denoise(pictures)
    for picture, denoised in zip(pictures, together, strict=True):
        assert np.array_equal(Denoiser(small, tile=64)(picture), denoised)


def test_on_a_gpu_pictures_of_equal_size_share_batches():
    network = Counting()
    denoiser = as_on_a_gpu(full(network), batch_pixels=3 * 40 * 50)
    pictures = [noise(40, 50, 3, seed) for seed in range(4)] + [noise(10, 10, 1)]
    denoised = denoiser.denoise(pictures)
    assert all(np.allclose(a, b / 2) for a, b in zip(denoised, pictures, strict=True))
    assert network.shapes == [(2, 3, 40, 52), (2, 3, 40, 52), (1, 3, 12, 12)]


def test_on_a_gpu_thumbnails_of_unlike_sizes_cost_no_more_than_their_own_pixels():
    network = Counting()
    denoiser = as_on_a_gpu(full(network), batch_pixels=1 << 20)
    sizes = [(40, 50), (39, 51), (30, 8), (64, 64), (38, 49)]
    pictures = [noise(*size, 3) for size in sizes]
    denoised = denoiser.denoise(pictures)
    assert all(np.allclose(a, b / 2) for a, b in zip(denoised, pictures, strict=True))
    assert network.shapes == [(3, 3, 40, 52), (1, 3, 32, 8), (1, 3, 64, 64)]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", package.shipped_names())
def test_neither_other_pictures_nor_threads_change_a_bit(name: str, precision):
    if precision == "bfloat16":
        needs_bfloat16()
    denoiser = Denoiser.load(name, tile=96, precision=precision)
    pictures = [noise(40, 50, 3, 1), noise(40, 50, 3, 2), noise(150, 70, 3), noise(9, 20, 1)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [denoiser(picture) for picture in pictures]
        torch.set_num_threads(2)
        together = Denoiser.load(name, tile=96, precision=precision).denoise(pictures[::-1])[::-1]
    finally:
        torch.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_no_pictures_are_no_work(small: Package):
    assert Denoiser(small).denoise([]) == []


def test_the_network_is_told_the_level_where_it_is_known():
    network = Counting()
    full(network, sigma=0.25)(noise(8, 8, 3))
    full(network)(noise(8, 8, 3))
    assert network.sigmas == [[0.25], [UNKNOWN_SIGMA]]


def test_out_of_memory_halves_the_batch_and_then_the_tile_and_says_so():
    network = Counting(memory=100 * 100)
    denoiser = as_on_a_gpu(full(network, tile=256), batch_pixels=1 << 18)
    pictures = [noise(300, 300, 3, seed) for seed in range(2)]
    denoised = denoiser.denoise(pictures)
    assert all(np.allclose(a, b / 2) for a, b in zip(denoised, pictures, strict=True))
    assert any("batches of 131072 pixels" in note for note in denoiser.notes)
    assert any("tiles of 64 pixels" in note for note in denoiser.notes)
    notes = set(denoiser.notes)
    denoiser.denoise(pictures)
    assert denoiser.notes == notes  # what fits is remembered


def test_out_of_memory_with_the_smallest_tile_is_raised():
    denoiser = full(Counting(memory=10))
    with pytest.raises(MemoryError):
        denoiser(noise(300, 300, 3))


class Greedy(Counting):
    """Runs out of a CPU's memory, of which torch has no exception of its own."""

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        if noisy.shape[2] * noisy.shape[3] > 100 * 100:
            torch.empty(1 << 50)
        return super().forward(noisy, sigma)


def test_out_of_a_cpus_memory_takes_smaller_tiles_too():
    denoiser = full(Greedy())
    picture = noise(300, 300, 3)
    assert np.allclose(denoiser(picture), picture / 2)
    assert any("out of memory" in note for note in denoiser.notes)


class Crowded(Counting):
    """Has memory for one picture at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.room = threading.Semaphore(1)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        if not self.room.acquire(blocking=False):
            raise torch.OutOfMemoryError("out of memory")
        time.sleep(0.05)  # the other threads come meanwhile
        self.room.release()
        return super().forward(noisy, sigma)


def test_what_fits_the_memory_only_by_itself_is_computed_by_itself():
    denoiser = full(Crowded(), threads=4)
    pictures = [noise(30, 40, 3, seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as threads:
        for picture, denoised in zip(pictures, threads.map(denoiser, pictures), strict=True):
            assert np.array_equal(denoised, picture / 2)
    assert not denoiser.notes  # tiles are as large as before


# --- half precision ---


class InHalf(Counting):
    """Is off by so much, or makes infinity of bright pictures, where it computes in half."""

    def __init__(self, off: float = 0.0) -> None:
        super().__init__()
        self.off = off

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        denoised = super().forward(noisy, sigma)
        if torch.is_autocast_enabled("cpu"):
            bright = noisy.mean(dim=(1, 2, 3), keepdim=True) > 0.9
            denoised = torch.where(bright, torch.inf, denoised + self.off)
        return denoised


@pytest.fixture
def has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("denoise.nets.precision._cpu_has_bfloat16", lambda: True)


@pytest.mark.usefixtures("has_bfloat16")
@pytest.mark.parametrize("batch_pixels", [0, 1 << 20])
def test_a_picture_that_overflows_is_computed_again_in_float32_and_counted(batch_pixels: int):
    denoiser = as_on_a_gpu(Denoiser(package_of(InHalf()), precision="bfloat16"), batch_pixels)
    pictures = [noise(20, 30, 3), np.ones((20, 30, 3), np.float32), noise(20, 30, 3, 1)]
    denoised = denoiser.denoise(pictures)
    assert all(np.allclose(a, b / 2) for a, b in zip(denoised, pictures, strict=True))
    assert denoiser.recomputed == 1
    assert any("recomputed in float32" in note for note in denoiser.notes)


@pytest.mark.usefixtures("has_bfloat16")
@pytest.mark.parametrize(("off", "precision"), [(0.01, "bfloat16"), (0.2, "float32")])
def test_a_processor_that_computes_wrongly_is_not_used_for_half(off: float, precision: str):
    denoiser = Denoiser(package_of(InHalf(off)), precision="bfloat16")
    assert denoiser.precision == precision
    assert bool(denoiser.notes) == (precision == "float32")
    assert all("bfloat16 is off by 0.2 on a test tile" in note for note in denoiser.notes)


def test_pictures_too_small_for_half_precision_are_computed_in_float32():
    needs_bfloat16()
    tiny = [noise(*size, 3) for size in [(8, 8), (1, 300), (300, 5)]]
    half, full = (Denoiser.load("cae-s", precision=kind) for kind in ("bfloat16", "float32"))
    assert all(np.array_equal(half(picture), full(picture)) for picture in tiny)
    assert half.recomputed == 0 and not half.notes


@pytest.mark.parametrize("name", package.shipped_names())
def test_bfloat16_moves_few_pixels_by_more_than_a_level(name: str):
    needs_bfloat16()
    noisy = to_pixels(noise(60, 90, 3), 8)
    half, full = (Denoiser.load(name, precision=kind)(noisy) for kind in ("bfloat16", "float32"))
    gap = np.abs(half.astype(int) - full)
    assert 0 < gap.max() <= 8
    assert gap.mean() < 0.5


def needs_bfloat16() -> None:
    if not can_do("bfloat16", CPU):
        pytest.skip("this CPU has no bfloat16 arithmetic")


def test_the_two_layouts_turn_into_each_other():
    pictures = np.stack([noise(5, 7, 3, seed) for seed in range(2)])
    inside = to_network(pictures)
    assert inside.shape == (2, 3, 5, 7)
    assert inside[1, 2, 3, 4] == pictures[1, 3, 4, 2]
    assert inside.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(from_network(inside), pictures)


def noise(height: int, width: int, channels: int, seed: int = 0) -> np.ndarray:
    """float32 [H, W, C], somewhat outside of 0..1."""
    shape = height, width, channels
    return np.random.default_rng(seed).normal(0.5, 0.3, shape).astype(np.float32)


def package_of(model: nn.Module) -> Package:
    """A package of a network with fresh weights, none of them zero: a zero would hide seams."""
    torch.manual_seed(0)
    for weight in model.parameters():
        if not weight.any():
            nn.init.normal_(weight, 0, 0.05)
    return Package("fresh", "0" * 64, model.eval(), {})


def full(model: nn.Module, **options: object) -> Denoiser:
    """In float32, where no test tile is computed first."""
    return Denoiser(package_of(model), precision="float32", **options)


def as_on_a_gpu(denoiser: Denoiser, batch_pixels: int) -> Denoiser:
    """Batches as on a GPU, on the CPU."""
    denoiser._batch_pixels = batch_pixels
    return denoiser


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_the_number_of_threads_changes_nothing(precision):
    noisy = [photo(90, 130, seed=seed) for seed in range(5)]
    one, three = (
        Denoiser.load("cae-s", precision=precision, threads=threads, tile=64) for threads in (1, 3)
    )
    for mine, theirs in zip(one.denoise(noisy), three.denoise(noisy), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_picture_computed_beside_others_comes_out_as_by_a_call(precision):
    one, three = (
        Denoiser.load("cae-s", precision=precision, threads=threads, tile=64) for threads in (1, 3)
    )
    pictures = [photo(40, 50), photo(90, 130), photo(2, 2), photo(60, 60)[..., 0]]
    pictures += [to_floats(photo(33, 64)), photo(64, 64, seed=1)]
    with ThreadPoolExecutor(3, initializer=use_cores, initargs=(1,)) as threads:
        for denoiser in (one, three):
            for picture, denoised in zip(pictures, threads.map(denoiser, pictures), strict=True):
                assert np.array_equal(denoised, one(picture))


def test_no_strength_leaves_a_picture_as_it_was_and_half_goes_half_the_way():
    noisy = photo(40, 50)
    whole = Denoiser.load("cae-s", precision="float32")(noisy).astype(float)
    half = Denoiser.load("cae-s", precision="float32", strength=0.5)(noisy)
    assert np.array_equal(Denoiser.load("cae-s", strength=0.0)(noisy), noisy)
    assert np.abs(half - (whole + noisy) / 2).max() <= 1
