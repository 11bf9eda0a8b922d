"""A denoiser in a data pipeline of one's own: batches in, the same batches denoised out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from denoise import BatchDenoiser, Denoiser
from denoise.errors import SettingsError
from denoise.images.codec import decode
from denoise.images.metrics import mse, psnr
from denoise.images.noise import add_noise
from tests.conftest import encoded, photo

CLEAN = [photo(24, 32, seed=number) for number in range(3)]
MODEL = {"model": "classic", "precision": "float32", "threads": 1}


def noisy_of(clean: np.ndarray) -> np.ndarray:
    return np.rint(255 * add_noise(clean / np.float32(255), sigma=0.1, seed=1).clip(0, 1)).astype(
        np.uint8
    )


NOISY = [noisy_of(clean) for clean in CLEAN]
DENOISED = [Denoiser.load("classic", precision="float32", threads=1)(one) for one in NOISY]


def objects(values: list[Any]) -> np.ndarray:
    """A column of numpy objects, as Ray Data gives what are no numbers."""
    column = np.empty(len(values), object)
    column[:] = values
    return column


def test_encoded_images_come_back_denoised_and_measured():
    batch = {
        "image": objects([encoded(one) for one in NOISY]),
        "clean": objects([encoded(one) for one in CLEAN]),
        "label": np.arange(3),
    }
    made = BatchDenoiser(reference="clean", **MODEL)(batch)
    assert set(made) == {"image", "clean", "label", "mse", "psnr", "error"}
    for number, denoised in enumerate(DENOISED):
        pixels = decode(made["image"][number]).pixels
        assert np.array_equal(pixels, denoised)
        assert made["mse"][number] == mse(pixels, CLEAN[number])
        assert made["psnr"][number] == psnr(made["mse"][number])
    assert made["error"].tolist() == [None] * 3 and made["label"].tolist() == [0, 1, 2]
    assert made["clean"] is batch["clean"]


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("stacked", [True, False])
def test_arrays_come_back_as_arrays_of_their_kind(kind: str, stacked: bool):
    scale = {"uint8": 1, "uint16": 257, "float32": 1 / 255}[kind]
    pictures = [(one.astype(np.float64) * scale).astype(kind) for one in NOISY]
    column = np.stack(pictures) if stacked else objects(pictures)
    made = BatchDenoiser(output="denoised", **MODEL)({"image": column})
    denoiser = Denoiser.load("classic", precision="float32", threads=1)
    assert made["denoised"].dtype == (kind if stacked else object)
    for given, denoised in zip(pictures, made["denoised"], strict=True):
        assert denoised.dtype == kind and np.array_equal(denoised, denoiser(given))
    assert made["image"] is column


def test_one_bad_image_is_an_error_and_the_others_are_denoised():
    values = [encoded(NOISY[0]), b"no image", None, {"bytes": None, "path": "x"}, 7, "name"]
    made = BatchDenoiser(**MODEL)({"image": objects(values)})
    assert np.array_equal(decode(made["image"][0]).pixels, DENOISED[0])
    assert made["error"][0] is None and all(made["error"][1:])
    assert made["error"][4] == "the row holds int, no image"
    assert all(one is None for one in made["image"][1:])


def test_a_bad_array_is_an_error_and_comes_back_as_it_was():
    pictures = np.stack([NOISY[0] / np.float32(255)] * 2)
    pictures[1, 0, 0, 0] = np.nan
    made = BatchDenoiser(**MODEL)({"image": pictures})
    assert made["error"].tolist() == [None, "a picture holds finite numbers, got nan"]
    assert np.array_equal(made["image"][1], pictures[1], equal_nan=True)
    assert not np.array_equal(made["image"][0], pictures[0])


def test_a_reference_that_does_not_fit_is_an_error_of_its_row():
    clean = [encoded(CLEAN[0]), encoded(CLEAN[1][:5]), b"none"]
    batch = {"image": objects([encoded(one) for one in NOISY]), "clean": objects(clean)}
    made = BatchDenoiser(reference="clean", **MODEL)(batch)
    assert made["error"][0] is None and np.isfinite(made["psnr"][0])
    assert made["error"][1] == "its reference is [5, 32, 3], and it is [24, 32, 3]"
    assert made["error"][2].startswith("its reference: ")
    assert np.isnan(made["mse"][1:]).all()


def test_an_arrow_table_comes_back_as_one_with_its_types():
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": encoded(one), "path": f"{k}.png"} for k, one in enumerate(NOISY)]
    table = pa.table({"image": pa.array([*rows, None], image), "label": pa.array([1, 2, 3, 4])})
    made = BatchDenoiser(**MODEL)(table)
    assert made.schema.field("image").type == image
    assert made.schema.field("error").type == pa.string()
    assert np.array_equal(decode(made["image"][2].as_py()["bytes"]).pixels, DENOISED[2])
    assert made["image"][2].as_py()["path"] == "2.png"
    assert made["image"][3].as_py() is None and made["error"][3].as_py()
    assert BatchDenoiser(**MODEL)(made)["error"].to_pylist() == made["error"].to_pylist()


def test_what_is_measured_is_what_a_lossy_format_stores():
    batch = {"image": objects([encoded(NOISY[0])]), "clean": objects([encoded(CLEAN[0])])}
    made = BatchDenoiser(reference="clean", format="jpeg", **MODEL)(batch)
    assert made["image"][0][:2] == b"\xff\xd8"
    assert made["mse"][0] == mse(decode(made["image"][0]).pixels, CLEAN[0])


def test_alpha_stays_and_is_not_measured():
    alpha = np.full((24, 32, 1), 7, np.uint8)
    with_alpha = np.concatenate([NOISY[0], alpha], axis=2)
    batch = {"image": with_alpha[None], "clean": np.concatenate([CLEAN[0], 0 * alpha], 2)[None]}
    made = BatchDenoiser(reference="clean", **MODEL)(batch)
    assert np.array_equal(made["image"][0, ..., 3:], alpha)
    assert made["mse"][0] == mse(made["image"][0, ..., :3], CLEAN[0])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"format": "bmp"}, "format must be one of png.*got bmp"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"model": "nosuch"}, "nosuch"),
        ({"column": "photo"}, r"no column `photo` among \['image'\]"),
        ({"reference": "clean"}, r"no column `clean` among \['image'\]"),
    ],
)
def test_wrong_settings_are_refused(flags: dict[str, Any], words: str):
    with pytest.raises(SettingsError, match=words):
        BatchDenoiser(**MODEL | flags)({"image": objects([encoded(NOISY[0])])})


def test_an_empty_batch_stays_empty():
    assert len(BatchDenoiser(**MODEL)({"image": objects([])})["image"]) == 0
    assert BatchDenoiser(**MODEL)(pa.table({"image": pa.array([], pa.binary())})).num_rows == 0


@pytest.fixture
def ray_data(ray_session: object) -> Iterator[Any]:
    import ray.data

    yield ray.data


@pytest.mark.ray
@pytest.mark.parametrize("batch_format", ["numpy", "pyarrow"])
def test_a_pipeline_of_ray_data_denoises_a_column(ray_data: Any, batch_format: str):
    rows = [
        {"image": encoded(noisy), "clean": encoded(clean), "id": k}
        for k, (noisy, clean) in enumerate(zip(NOISY, CLEAN, strict=True))
    ]
    rows.append({"image": b"no image", "clean": rows[0]["clean"], "id": 3})
    made = ray_data.from_items(rows).map_batches(
        BatchDenoiser,
        fn_constructor_kwargs={"reference": "clean", "output": "denoised", **MODEL},
        compute=ray_data.ActorPoolStrategy(size=1),
        batch_size=2,
        batch_format=batch_format,
    )
    found = sorted(made.take_all(), key=lambda row: row["id"])
    for row, denoised, clean in zip(found, DENOISED, CLEAN, strict=False):
        pixels = decode(row["denoised"]).pixels
        assert np.array_equal(pixels, denoised) and row["error"] is None
        assert row["mse"] == mse(pixels, clean)
    assert found[3]["denoised"] is None and found[3]["error"]


@pytest.mark.ray
def test_a_pipeline_of_ray_data_denoises_arrays(ray_data: Any):
    made = ray_data.from_numpy(np.stack(NOISY)).map_batches(
        BatchDenoiser,
        fn_constructor_kwargs={"column": "data", **MODEL},
        compute=ray_data.ActorPoolStrategy(size=1),
        batch_size=2,
    )
    found = [row["data"] for row in made.take_all()]
    assert {one.tobytes() for one in found} == {one.tobytes() for one in DENOISED}
