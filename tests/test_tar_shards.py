"""`--save tar`: shards that WebDataset reads, the same bytes however often and by whom written."""

import io
import json
import re
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from denoise.errors import SettingsError, WriteError
from denoise.output import tables
from denoise.output.tar_shard import append, end, key_of, name_of
from denoise.storage import archives
from denoise.verbs import noise as noise_verb
from denoise.verbs.extract import ExtractConfig, extract
from denoise.verbs.infer import InferConfig, infer
from denoise.verbs.noise import NoiseConfig, noise
from tests.conftest import encoded, photo
from tests.running import rows_of, same, tiny_model

NAMES = ("a/cat.jpg", "a/cat.png", "b.c/v1.2 x.png", "__d__/e.png", "ü.png")


def images_in(folder: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(24, 32, seed=number)))
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def samples_in(folder: Path) -> dict[str, dict[str, bytes]]:
    """Key -> suffix -> content, by WebDataset's rule: neighbours whose names are the same up to the
    first dot after the last slash; what is called like `__this__` is skipped."""
    samples: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        last = None
        with tarfile.open(path) as tar:
            for member in tar:
                assert member.isfile() and not re.match(r"__[^/]*__($|/)", member.name)
                key, suffix = re.fullmatch(r"((?:.*/)?[^./]+)\.([^/]+)", member.name).groups()
                assert key == last or key not in samples, "the members of a key are no neighbours"
                last = key
                fields = samples.setdefault(key, {})
                assert suffix not in fields
                file = tar.extractfile(member)
                assert file is not None
                fields[suffix] = file.read()
    return samples


def shards_of(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (output / "images").iterdir()}


def pairs(images: Path, output: Path, **more: Any) -> list[dict[str, Any]]:
    noise(NoiseConfig(images=str(images), output=str(output), max_error_rate=1, **more))
    return rows_of(output)


def test_a_sample_holds_the_image_that_the_table_would_and_its_row(tmp_path: Path):
    images = images_in(tmp_path / "in")
    rows = pairs(images, tmp_path / "out", save="tar")
    in_table = {row["path"]: row for row in pairs(images, tmp_path / "table")}
    samples = samples_in(tmp_path / "out" / "images")
    assert len(samples) == len(NAMES)
    by_path = {json.loads(fields["json"])["path"]: fields for fields in samples.values()}
    assert set(by_path) == set(NAMES)
    for row in rows:
        expected = in_table[row["path"]]
        assert row["noisy"] is None and row["clean"] is None
        if row["error"] is not None:
            assert row["file"] is None
            continue
        fields = by_path[row["path"]]
        assert fields.keys() == {"png", "clean.png", "json"}
        assert fields["png"] == expected["noisy"]["bytes"]
        assert fields["clean.png"] == expected["clean"]["bytes"]
        about = json.loads(fields["json"])
        assert about["psnr"] == expected["psnr"] and about["seed"] == expected["seed"]
        assert archives.read(str(tmp_path / "out" / row["file"])) == fields["png"]


@pytest.mark.parametrize(
    ("name", "key"),
    [("a/b.png", "a/b"), ("a.b/c.png", "a.b/c"), ("noname", "noname"), ("_a_/b.png", "_a_/b")],
)
def test_a_key_is_the_path_without_its_suffix(name: str, key: str):
    assert key_of(name) == key


def test_keys_hold_no_dot_and_no_two_become_one():
    names = ["a.b.png", "a_b.png", ".a_b.png", "_a_b.png", "x/__y__.z.png", "__m__/a.png", "..png"]
    keys = [key_of(name) for name in names]
    assert len({*keys}) == len(names)
    for key in keys:
        assert "." not in key.rpartition("/")[2] and not re.match(r"__[^/]*__(/|$)", key)


def test_a_tar_has_the_same_bytes_whenever_it_is_written():
    tars = [io.BytesIO(), io.BytesIO()]
    for tar in tars:
        append(tar, "ü" * 200 + ".png", b"content")
        end(tar)
    assert tars[0].getvalue() == tars[1].getvalue()
    tars[0].seek(0)
    with tarfile.open(fileobj=tars[0]) as tar:
        (member,) = tar.getmembers()
    assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o644)
    assert member.name == "ü" * 200 + ".png"


def test_after_a_kill_the_shards_are_those_of_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images, whole, output = images_in(tmp_path / "in"), tmp_path / "whole", tmp_path / "out"
    rows = pairs(images, whole, save="tar")
    made, kills = noise_verb.row_of, {"a/cat.png"}  # of the second shard, and only once

    def row_of(pair: Any, **more: Any) -> Any:
        if pair.path in kills:
            kills.clear()
            raise KeyboardInterrupt
        return made(pair, **more)

    monkeypatch.setattr(noise_verb, "row_of", row_of)
    with pytest.raises(KeyboardInterrupt):
        pairs(images, output, save="tar")
    half = shards_of(output)
    assert len(half) < len(shards_of(whole)) and half.items() <= shards_of(whole).items()
    part = tables.parts(str(output))[0]  # as a kill between tar and part file leaves it
    Path(part).unlink()
    assert not same(pairs(images, output, save="tar"), rows)
    assert shards_of(output) == shards_of(whole)


def test_images_that_changed_are_packed_anew_beside_those_that_did_not(tmp_path: Path):
    images, output = images_in(tmp_path / "in"), tmp_path / "out"
    pairs(images, output, save="tar")
    before = samples_in(output / "images")
    (images / "broken.png").write_bytes(encoded(photo(24, 32, seed=99)))
    (images / "ü.png").write_bytes(encoded(photo(24, 32, seed=98)))
    rows = pairs(images, output, save="tar")
    assert not any(row["error"] for row in rows)
    assert not same(rows, pairs(images, tmp_path / "anew", save="tar"))
    after = samples_in(output / "images")
    assert after == samples_in(tmp_path / "anew" / "images")
    assert {key for key in after if after[key] != before.get(key)} == {"ü", "broken"}


def test_overwriting_removes_the_shards_of_the_earlier_run(tmp_path: Path):
    images, output = images_in(tmp_path / "in"), tmp_path / "out"
    pairs(images, output, save="tar")
    first, *_ = tables.parts(str(output))
    Path(first).unlink()  # as a kill leaves it: a shard that no part file names
    for mine in ("mine.tar", name_of(777)):
        (output / "images" / mine).write_bytes(b"mine")
    pairs(images, output, save="parquet", overwrite=True)
    assert {*shards_of(output)} == {"mine.tar", name_of(777)}


def test_images_that_keep_their_format_and_differ_by_it_alone_are_samples_of_their_own(
    tmp_path: Path,
):
    images = images_in(tmp_path / "in")
    (images / "a" / "cat.jpg").write_bytes(encoded(photo(24, 32), "JPEG"))
    output = tmp_path / "out"
    rows = pairs(images, output, save="tar", format="same")
    samples = samples_in(output / "images")
    assert {json.loads(fields["json"])["path"] for fields in samples.values()} == set(NAMES)
    whole = shards_of(output)
    pairs(images, output, save="tar", format="same", retry_errors=True)
    assert shards_of(output) == whole and not same(rows, rows_of(output))


def test_a_shard_that_is_gone_is_named_where_its_rows_stay(tmp_path: Path):
    images, output = images_in(tmp_path / "in"), tmp_path / "out"
    pairs(images, output, save="tar")
    tars = [*(output / "images").iterdir()]
    for tar in tars:
        tar.unlink()
    with pytest.raises(WriteError, match=r"shard-00000.tar has no .*put the shard back"):
        pairs(images, output, save="tar", retry_errors=True)


@pytest.mark.parametrize("save", ["files", "tar"])
def test_a_table_that_holds_no_clean_images_is_measured_by_their_folder(tmp_path: Path, save: str):
    images = images_in(tmp_path / "in")
    pairs(images, tmp_path / "pairs", save=save)
    config = InferConfig(
        images=str(tmp_path / "pairs"),
        output=str(tmp_path / "out"),
        model=tiny_model(tmp_path / "model"),
        reference=str(images),
        max_error_rate=1,
    )
    infer(config)
    noisy = [row["psnr_noisy"] for row in rows_of(tmp_path / "out") if row["error"] is None]
    assert len(noisy) == len(NAMES) and all(18 < one < 25 for one in noisy)


def test_the_shards_are_inputs_of_the_next_run_and_so_is_the_table(tmp_path: Path):
    model, images = tiny_model(tmp_path / "model"), images_in(tmp_path / "in")
    pairs(images, tmp_path / "out", save="tar")
    chosen = {"model": model, "max_error_rate": 1}
    inputs = {"shards": str(tmp_path / "out" / "images"), "table": str(tmp_path / "out")}
    done: defaultdict[str, list[Any]] = defaultdict(list)
    for kind, uri in inputs.items():
        exclude = ("*.clean.png",)
        config = InferConfig(images=uri, output=str(tmp_path / kind), exclude=exclude, **chosen)
        infer(config)
        for row in rows_of(tmp_path / kind):
            if row["error"] is None:
                done[kind].append(row["image"]["bytes"])
    assert len(done["shards"]) == len(NAMES) and sorted(done["shards"]) == sorted(done["table"])


def test_infer_packs_what_it_denoised_and_the_report_finds_it(tmp_path: Path):
    model, images = tiny_model(tmp_path / "model"), images_in(tmp_path / "in")
    given = {"images": str(images), "model": model, "max_error_rate": 1, "add_noise": 0.1}
    for save in ("tar", "parquet"):
        infer(InferConfig(output=str(tmp_path / save), save=save, **given))
    packed = {fields["png"] for fields in samples_in(tmp_path / "tar" / "images").values()}
    in_table = [row["image"] for row in rows_of(tmp_path / "parquet") if row["image"]]
    assert packed == {image["bytes"] for image in in_table}
    assert (tmp_path / "tar" / "report.html").read_text().count("<img") == (
        tmp_path / "parquet" / "report.html"
    ).read_text().count("<img")


@pytest.mark.parametrize("save", ["parquet", "files", "tar"])
def test_extract_writes_the_shards_that_the_job_would_have_written(tmp_path: Path, save: str):
    images = images_in(tmp_path / "in")
    pairs(images, tmp_path / "tar", save="tar")
    pairs(images, tmp_path / "out", save=save)
    config = ExtractConfig(output=str(tmp_path / "out"), into=str(tmp_path / "into"), save="tar")
    assert extract(config)["written"] == len(NAMES)
    assert extract(config)["already_there"] == len(NAMES)
    expected, found = (samples_in(tmp_path / name) for name in ("tar/images", "into"))
    assert {key: fields["png"] for key, fields in found.items()} == {
        key: fields["png"] for key, fields in expected.items()
    }
    if save == "parquet":
        assert found == expected


def test_extract_takes_files_out_of_shards(tmp_path: Path):
    images = images_in(tmp_path / "in")
    for save in ("tar", "parquet"):
        pairs(images, tmp_path / save, save=save)
        extract(ExtractConfig(output=str(tmp_path / save), into=str(tmp_path / f"{save}-into")))
    taken, expected = (
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*.png")
        }
        for name in ("tar-into", "parquet-into")
    )
    assert taken == expected and len(taken) == len(NAMES)


def test_what_makes_no_sense_is_refused_in_words(tmp_path: Path):
    images = images_in(tmp_path / "in")
    pairs(images, tmp_path / "out", save="tar")
    with pytest.raises(SettingsError, match="images already, as --save tar wrote them"):
        extract(ExtractConfig(output=str(tmp_path / "out"), save="tar"))
    model = tiny_model(tmp_path / "model")
    with pytest.raises(SettingsError, match="is the file of one"):
        one = {"images": str(images / "ü.png"), "output": str(tmp_path / "x.png")}
        infer(InferConfig(**one, model=model, save="tar"))
    with pytest.raises(ValueError, match="save must be one of files, tar"):
        ExtractConfig(output="out", save="zip")  # type: ignore[arg-type]
