"""The photos of a training: who is held out, and that they are the same when it goes on."""

from pathlib import Path

import pytest

from denoise.errors import SettingsError
from denoise.storage import references
from denoise.storage.found import LeftOut
from denoise.training.split import VALIDATED, Split, held_out, split_of
from tests.conftest import encoded, photo


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for number in range(40):
        (root / f"{number:02d}.png").write_bytes(encoded(photo(8, 8, seed=number % 3)))
    return root


def listed(folder: Path, validation: Path | None = None) -> Split:
    named = validation and str(validation)
    return split_of(str(folder), named, str(folder.parent / "out"), LeftOut())


def test_who_is_held_out_does_not_depend_on_the_others():
    paths = [f"folder/{k}.jpg" for k in range(400)]
    chosen = set(held_out(paths))
    assert 20 < len(chosen) < 60
    assert set(held_out(paths[:200])) == chosen & set(paths[:200])
    assert held_out(["only.png"]) == ["only.png"]


def test_every_photo_is_trained_on_or_held_out(folder: Path):
    split = listed(folder)
    paths = [entry.path for entry in split.training + split.validation]
    assert sorted(paths) == [f"{number:02d}.png" for number in range(40)]
    assert len(split.validation) == split.validation_listed > 0


def test_of_many_photos_to_validate_on_a_few_are_looked_at_wherever_they_stand(folder: Path):
    split = listed(folder, folder)
    paths = [entry.path for entry in split.validation]
    assert (len(paths), split.validation_listed, len(split.training)) == (VALIDATED, 40, 40)
    assert paths == sorted(paths) and paths != [f"{number:02d}.png" for number in range(VALIDATED)]


def test_the_same_photos_are_taken_for_the_same(folder: Path, tmp_path: Path):
    listed(folder).record(str(tmp_path / "out"))
    listed(folder).check(str(tmp_path / "out"))
    listed(folder).check(str(tmp_path / "elsewhere"))


def test_other_photos_are_refused_and_what_differs_is_named(folder: Path, tmp_path: Path):
    out = str(tmp_path / "out")
    before = listed(folder, folder)
    before.record(out)
    (folder / "07.png").write_bytes(encoded(photo(9, 9)))
    (folder / "08.png").unlink()
    (folder / "new.png").write_bytes(encoded(photo(9, 9)))
    now = listed(folder, folder)
    with pytest.raises(
        SettingsError, match=r"started with other images: .*changed since, such as 07"
    ):
        now.check(out)
    with pytest.raises(SettingsError, match=r"gone, such as 08.png; .* new, such as new.png"):
        now.check(out)
    now.record(out)  # the first run's stay
    with pytest.raises(SettingsError, match="other images"):
        now.check(out)
    assert before.digest != now.digest


def test_other_clean_images_are_refused_as_other_photos_are(folder: Path, tmp_path: Path):
    clean, out = tmp_path / "clean", str(tmp_path / "out")
    clean.mkdir()
    for number in range(39):  # the last photo has none, which is its own error
        (clean / f"{number:02d}.bmp").write_bytes(encoded(photo(8, 8, seed=number), format="BMP"))

    def with_references() -> Split:
        references.forget()
        return split_of(str(folder), None, out, LeftOut(), None, str(clean))

    before = with_references()
    assert len(before.references) == 39 and before.digest != listed(folder).digest
    before.record(out)
    with_references().check(out)
    (clean / "07.bmp").write_bytes(encoded(photo(9, 9), format="BMP"))
    (clean / "08.bmp").unlink()
    with pytest.raises(SettingsError, match=r"1 changed since, such as reference/07.png; 1 gone"):
        with_references().check(out)


def test_a_record_of_photos_that_is_damaged_is_told_in_words(folder: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_split.parquet").write_bytes(b"PAR1")
    with pytest.raises(SettingsError, match=r"_split\.parquet is damaged"):
        listed(folder).check(str(tmp_path / "out"))
