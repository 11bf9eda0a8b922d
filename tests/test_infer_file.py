"""One photograph to one file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denoise import InferConfig, NoiseConfig, TrainConfig, infer, noise, train
from denoise.errors import SettingsError
from denoise.images.codec import decode
from denoise.nets.denoiser import Denoiser
from denoise.storage.found import LeftOut
from denoise.verbs.infer import prepare
from denoise.verbs.job_inputs import inputs_of
from tests.conftest import encoded, photo


def config_of(photos: Path, model: str, output: str, **more: object) -> InferConfig:
    flags = {"images": str(photos / "0.png"), "output": str(photos / output), "model": model}
    return InferConfig(**flags | more)


def test_that_file_is_written_and_nothing_else(photos: Path, model: str):
    before = set(photos.rglob("*"))
    found = infer(config_of(photos, model, "clean.png"))
    assert set(photos.rglob("*")) - before == {photos / "clean.png"}
    stored = decode((photos / "clean.png").read_bytes()).pixels
    wanted = Denoiser.load(model)(decode((photos / "0.png").read_bytes()).pixels)
    assert (stored == wanted).all()
    assert found["output"] == str(photos / "clean.png") and 0 < found["removed"] < 1


@pytest.mark.parametrize("name", ["clean.jpg", "clean.JPEG", "clean.webp", "clean.tif"])
def test_the_name_says_the_format(photos: Path, model: str, name: str):
    infer(config_of(photos, model, name))
    assert decode((photos / name).read_bytes()).pixels.shape == photo().shape


def test_the_quality_is_of_the_format_that_the_name_says(photos: Path, model: str):
    for name, quality in (("low.jpg", 20), ("high.jpg", 95)):
        infer(config_of(photos, model, name, quality=quality, save="files"))
    low, high = ((photos / f"{name}.jpg").stat().st_size for name in ("low", "high"))
    assert low < high


def test_with_noise_added_it_is_measured(photos: Path, model: str):
    found = infer(config_of(photos, model, "clean.png", add_noise=0.1))
    assert found["psnr_noisy"] == pytest.approx(20, abs=0.5) and found["psnr"] > 0


@pytest.mark.parametrize(
    ("output", "more", "words"),
    [
        ("1.png", {}, "is there already; --overwrite replaces it"),
        ("0.png", {"overwrite": True}, "is the input itself"),
        ("clean.gif", {}, "cannot write .gif files: name one with"),
        ("clean.png", {"images": "{photos}"}, "are several: name a folder for the output"),
        ("clean.png", {"limit": 1}, "--limit is for many images, and .*clean.png is the file of"),
        ("clean.png", {"include": ("*.png",)}, "--include is for many images"),
        ("clean.png", {"keep_columns": ("a",)}, "--keep-columns is for many images"),
        ("clean.png", {"workers": 2}, "--workers is for many images"),
        ("clean.png", {"save": "tar"}, "--save tar is for many images"),
        (
            "clean.png",
            {"format": "jpeg"},
            "will be png by its name, and --format is jpeg",
        ),
        (
            "clean.png",
            {"quality": 50},
            "quality is for jpeg, webp and avif, and .* is png",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(
    photos: Path, model: str, output: str, more: dict[str, object], words: str
):
    more = {name: str(photos) if value == "{photos}" else value for name, value in more.items()}
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    with pytest.raises(SettingsError, match=words):
        infer(config_of(photos, model, output, **more))
    assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before


def test_verbs_that_write_a_folder_refuse_the_name_of_an_image(photos: Path):
    flags = {"images": str(photos), "output": str(photos / "noisy.png")}
    for verb, config in ((noise, NoiseConfig(**flags)), (train, TrainConfig(**flags))):
        with pytest.raises(SettingsError, match="names an image file, and this writes a folder"):
            verb(config)
    assert not (photos / "noisy.png").exists()
    (photos / "noisy.png").mkdir()
    assert noise(NoiseConfig(**flags, limit=1))["images"] == 1


def test_a_photograph_that_does_not_decode_is_told_in_words(photos: Path, model: str):
    with pytest.raises(RuntimeError, match=r"broken\.png: "):
        infer(config_of(photos, model, "clean.png", images=str(photos / "broken.png")))
    assert not (photos / "clean.png").exists()


def test_the_first_so_many_images_can_be_tried(photos: Path, model: str, tmp_path: Path):
    (photos / "more" / "x.png").write_bytes(encoded(photo(seed=11)))
    flags = {"images": str(photos), "output": str(tmp_path / "out"), "model": model}
    assert infer(InferConfig(**flags, limit=3))["images"] == 3
    assert infer(InferConfig(**flags))["images"] == 9


def test_neither_the_input_nor_a_reference_is_replaced(photos: Path, model: str):
    (photos / "link").symlink_to(".")
    before = {name: (photos / name).read_bytes() for name in ("0.png", "1.png")}
    for output, reference, words in (
        ("link/0.png", None, "is the input itself"),
        ("1.png", photos / "1.png", "is one of the references"),
        ("1.png", photos, "is one of the references"),
    ):
        with pytest.raises(SettingsError, match=words):
            infer(config_of(photos, model, output, overwrite=True, reference=reference))
    assert before == {name: (photos / name).read_bytes() for name in before}


def test_globs_of_paths_choose_what_is_an_input(photos: Path, model: str, tmp_path: Path):
    flags = {"images": str(photos), "model": model, "save": "none"}
    every = infer(InferConfig(**flags, output=str(tmp_path / "all")))
    chosen = InferConfig(
        **flags, output=str(tmp_path / "some"), include=("more/*", "[12].png"), exclude=("*gray*",)
    )
    found = infer(chosen)
    assert (every["images"], found["images"]) == (8, 3)
    assert found["left_out"] == every["left_out"] | {"not included": 4, "excluded": 1}
    with pytest.raises(SettingsError, match=r"no image is left of .* globs of paths below"):
        infer(InferConfig(**flags, output=str(tmp_path / "none"), include=("*.gif",)))


@pytest.mark.parametrize(
    ("glob", "chosen"),
    [
        ("**/*.jpg", {"x.jpg", "a/x.jpg", "a/b/x.jpg"}),
        ("a/**/x.jpg", {"a/x.jpg", "a/b/x.jpg"}),
        ("**/b/**/x.*", {"a/b/x.jpg"}),
        ("*.{jpg,gif}", {"x.jpg", "a/x.jpg", "a/b/x.jpg"}),
        ("{x,y}.png", {"x.png", "{x,y}.png"}),
    ],
)
def test_a_glob_may_have_alternatives_and_folders_at_any_depth(
    tmp_path: Path, glob: str, chosen: set[str]
):
    for name in ("x.jpg", "a/x.jpg", "a/b/x.jpg", "x.png", "{x,y}.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(photo(8, 8), "JPEG"))
    config = InferConfig(images=str(tmp_path), output="out", include=(glob,))
    assert {entry.path for entry in inputs_of(config, LeftOut())} == chosen


def test_in_python_paths_may_be_paths_and_one_glob_a_string(photos: Path, model: str):
    config = InferConfig(
        images=photos, output=photos / "clean", model=Path(model), include="*.png", exclude=["0*"]
    )
    assert config == InferConfig(
        images=str(photos),
        output=f"{photos}/clean",
        model=model,
        include=("*.png",),
        exclude=("0*",),
    )
    assert TrainConfig(images=photos, output=photos).images == str(photos)
    pixels = decode((photos / "0.png").read_bytes()).pixels
    assert (Denoiser.load(Path(model))(pixels) == Denoiser.load(model)(pixels)).all()


def test_auto_is_the_gaussian_model_where_a_table_says_that_such_noise_was_added(
    photos: Path, tmp_path: Path
):
    pairs, grainy = str(tmp_path / "pairs"), str(tmp_path / "grainy")
    noise(NoiseConfig(images=str(photos), output=pairs))
    noise(NoiseConfig(images=str(photos), output=grainy, kind="camera"))

    def chosen(images: str) -> str:
        """The model, the same for a folder and for one file."""
        outputs = (str(tmp_path / name) for name in ("out", "out.png"))
        (found,) = {prepare(InferConfig(images=images, output=one))[0].model for one in outputs}
        return found

    assert {chosen(f"{pairs}{below}") for below in ("", "/data", "/data/*.parquet")} == {"unet"}
    assert {chosen(one) for one in (grainy, f"{grainy}/data", str(photos))} == {"photo"}


def test_what_the_format_cannot_hold_is_told_in_words(photos: Path, model: str):
    deep = np.zeros((20, 30), np.uint16) + 300
    Image.fromarray(deep).save(photos / "deep.png")
    with pytest.raises(RuntimeError, match=r"deep\.png: .*16"):
        infer(config_of(photos, model, "clean.jpg", images=str(photos / "deep.png")))
    assert not (photos / "clean.jpg").exists()


def test_overwriting_with_a_pattern_that_fits_nothing_removes_nothing(
    photos: Path, model: str, tmp_path: Path
):
    config = InferConfig(images=str(photos), output=str(tmp_path / "out"), model=model)
    infer(config)
    with pytest.raises(SettingsError, match="no image is left"):
        infer(replace(config, include=("typo*",), overwrite=True))
    with pytest.raises(SettingsError, match="no GPU that torch"):
        infer(replace(config, device="gpu", overwrite=True))
    assert infer(config)["nothing_to_do"]
