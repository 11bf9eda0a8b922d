"""Images in archives are inputs as loose ones are: same pixels, same numbers, any archive."""

import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from denoise.errors import ImageError, SettingsError
from denoise.images.pairs import PairConfig
from denoise.output import manifest, tables
from denoise.storage import archives, files, inputs, spans, uris, zips
from denoise.storage.entry import Entry, source_of
from denoise.storage.fetch import load_pair
from denoise.storage.found import Found, LeftOut
from denoise.storage.member_table import MemberTable
from denoise.storage.references import reference_of
from denoise.storage.spans import Member
from denoise.storage.tars import TOO_MUCH
from denoise.training.photos import decode_photos
from denoise.verbs.infer import InferConfig, infer
from denoise.verbs.job_inputs import inputs_of
from denoise.verbs.noise import NoiseConfig, noise
from denoise.verbs.plan import PlanConfig, plan
from tests.conftest import encoded, photo
from tests.running import rows_of, same, tiny_model

DAMAGED = "truncated or damaged archive"
KINDS = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".zip", "-stored.zip")


def found(images: object) -> tuple[dict[str, Entry], Counter[str]]:
    left_out = LeftOut()
    listed = list(inputs.entries(str(images), left_out))
    by_path = {entry.path: entry for entry in listed}
    assert len(by_path) == len(listed), "a path was listed twice"
    return by_path, left_out.counts


def pack(archive: Path, contents: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    """An archive of the kind that its name says."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    pairs = contents.items() if isinstance(contents, dict) else contents
    if archive.suffix == ".zip":
        how = zipfile.ZIP_STORED if "stored" in archive.name else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(archive, "w", how) as packed:
            for name, content in pairs:
                packed.writestr(name, content)
        return archive
    plain = io.BytesIO()
    mode = "w:gz" if archive.name.endswith(("gz",)) else "w"
    with tarfile.open(fileobj=plain, mode=mode) as tar:
        for name, content in pairs:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    whole = plain.getvalue()
    if archive.name.endswith(".zst"):
        whole = pa.compress(whole, "zstd", asbytes=True)
    archive.write_bytes(whole)
    return archive


def pictures(count: int) -> dict[str, bytes]:
    return {f"{k:05d}.png": encoded(photo(24, 32, seed=k)) for k in range(count)}


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_by_their_offset_in_any_order(tmp_path: Path, kind: str):
    inside = pictures(9) | {"deep/er/x.jpg": encoded(photo(seed=9), "JPEG")}
    inside["a" * 150 + "/ü.png"] = encoded(photo(seed=10))  # a long name, and not of ASCII
    archive = pack(tmp_path / f"some{kind}", inside)
    listed, left_out = found(archive)
    assert list(listed) == [f"{archive.name}/{name}" for name in inside] and not left_out
    for name in sorted(inside, reverse=True):
        assert source_of(listed[f"{archive.name}/{name}"]).encoded == inside[name]


def test_a_tar_as_webdataset_writes_it_gives_its_images_alone(tmp_path: Path):
    inside = {}
    for key, picture in pictures(3).items():
        inside |= {key: picture, key[:-4] + ".json": b"{}", key[:-4] + ".txt": b"a cat"}
    inside |= {"._a.png": b"x", "__MACOSX/a.png": b"x", ".hidden/b.png": b"x", "c.cls": b"7"}
    inside |= {"no_suffix": encoded(photo(seed=5)), "inner.zip": b"PK"}
    listed, left_out = found(pack(tmp_path / "00000.tar", inside))
    names = [*pictures(3), "no_suffix"]
    assert [*listed] == [f"00000.tar/{name}" for name in names]
    assert left_out == {
        "no image": 7,
        "hidden": 2,
        "made by a system (thumbnails, deleted files)": 1,
        "an archive in an archive": 1,
    }


def test_a_folder_holds_loose_images_and_archives(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(photo()))
    for number in range(3):
        pack(tmp_path / "sub" / f"{number}.tar", pictures(2))
    pack(tmp_path / "b.zip", pictures(1))
    whole, _ = found(tmp_path)
    tars = {f"sub/{k}.tar/{name}" for k in range(3) for name in pictures(2)}
    assert set(whole) == {"a.png", "b.zip/00000.png"} | tars
    by_glob, _ = found(tmp_path / "sub" / "[01].tar")
    assert set(by_glob) == {f"{k}.tar/{name}" for k in range(2) for name in pictures(2)}


def test_braces_stand_for_each_archive_and_one_that_is_missing_is_a_row(tmp_path: Path):
    for number in (8, 9, 11):
        pack(tmp_path / f"{number:05d}.tar", pictures(1))
    listed, _ = found(tmp_path / "{00008..00011}.tar")
    errors = {path: entry.error for path, entry in listed.items()}
    assert errors == {
        **{f"{number:05d}.tar/00000.png": "" for number in (8, 9, 11)},
        "00010.tar": "no such file",
    }
    with pytest.raises(SettingsError, match="no such file"):
        found(tmp_path / "{1..3}.tar")


@pytest.mark.parametrize(
    ("uri", "named"),
    [
        ("s3://b/{08..11}.tar", ["08", "09", "10", "11"]),
        ("s3://b/{3..1}.tar", ["3", "2", "1"]),
        ("s3://b/{a,bc}.tar", ["a", "bc"]),
        ("s3://b/{a,a/b}.tar", ["a", "a/b"]),
    ],
)
def test_braces_are_expanded_as_a_shell_does(uri: str, named: list[str]):
    assert uris.expand_braces(uri) == [f"s3://b/{name}.tar" for name in named]
    assert uris.expand_braces("s3://b/{x}/a.tar") == []
    assert len(uris.expand_braces("{0..9}/{a,b}{1..3}")) == 60
    with pytest.raises(SettingsError, match="more than"):
        uris.expand_braces("{0..999}{0..99999}")


@pytest.mark.parametrize("braces", ["{a*,ab*}.png", "{a,ab,a}.png", "{sub,sub/in}"])
def test_what_several_parts_in_braces_name_is_one_input(tmp_path: Path, braces: str):
    for name in ("a.png", "ab.png", "sub/in/a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(photo()))
    listed, left_out = found(f"{tmp_path}/{braces}")
    is_below = braces.startswith("{sub")
    assert set(listed) == ({"sub/b.png", "sub/in/a.png"} if is_below else {"a.png", "ab.png"})
    assert left_out == {"named twice": 1}


def test_links_folders_and_devices_in_a_tar_are_no_inputs(tmp_path: Path):
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        member = tarfile.TarInfo("last.png")
        member.size = len(content := encoded(photo()))
        tar.addfile(member, io.BytesIO(content))
    listed, left_out = found(archive)
    assert [*listed] == ["a.tar/last.png"] and source_of(listed["a.tar/last.png"]).encoded
    assert left_out == {"link in an archive": 2, "neither file nor folder": 1}


@pytest.mark.parametrize("kind", [".tar", ".zip"])
def test_names_that_lead_out_or_come_twice_are_paths_below(tmp_path: Path, kind: str):
    one, two = encoded(photo(seed=1)), encoded(photo(seed=2))
    names = ["../../x.png", "/etc/y.png", "./z.png", "twice.png", "twice.png"]
    with pytest.warns(UserWarning) if kind == ".zip" else io.StringIO():
        contents = [one] * 4 + [two]
        archive = pack(tmp_path / f"a{kind}", list(zip(names, contents, strict=True)))
    listed, _ = found(archive)
    top = archive.name
    first = [f"{top}/__/__/x.png", f"{top}/etc/y.png", f"{top}/z.png", f"{top}/twice.png"]
    assert [*listed][:4] == first and [*listed][4].startswith(f"{top}/twice.png~")
    assert [source_of(entry).encoded for entry in listed.values()] == [one] * 4 + [two]


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_archive_costs_its_own_row_and_what_is_whole_stays(tmp_path: Path, kind: str):
    archive = pack(tmp_path / f"a{kind}", pictures(20))
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2 - 99])
    pack(tmp_path / "b.tar", pictures(1))
    listed, _ = found(tmp_path)
    failed = [entry for entry in listed.values() if entry.error]
    assert [entry.error for entry in failed] == [DAMAGED]
    assert "b.tar/00000.png" in listed
    if kind in (".tar", ".tgz"):  # a zip's directory stands at the end, zstd's are large blocks
        fine = [path for path, entry in listed.items() if not entry.error]
        assert 5 < len(fine) < 20
    for entry in listed.values():
        assert load_pair(entry, PairConfig()).error == (entry.error or None)


@pytest.mark.parametrize("content", [b"", b"no archive" * 100, b"PK\3\4", b"\x1f\x8b\x08junk"])
def test_what_only_is_called_an_archive_is_one_row(tmp_path: Path, content: bytes):
    (tmp_path / "a.tar").write_bytes(content)
    listed, _ = found(tmp_path / "a.tar")
    assert {path: entry.error for path, entry in listed.items()} == {"a.tar": DAMAGED}


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A tar header with this text as its size, its checksum right."""
    block = bytearray(name.ljust(100, b"\0") + bytes(412))
    block[124:136], block[156:157], block[148:156] = size.ljust(12, b"\0"), kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes) -> bytes:
    """A pax header, with what it says of the next member."""
    padded = records.ljust(-(-len(records) // 512) * 512, b"\0")
    return header(b"x", b"%o" % len(records), b"x") + padded


@pytest.mark.parametrize(
    ("block", "error"),
    [
        (header(b"a.png", b"\xff" * 12), DAMAGED),  # a negative size
        (header(b"a.png", b"99999999999"), DAMAGED),  # no octal number
        (header(b"x", b"77777777777", b"x"), TOO_MUCH),  # what is said of a member is 8 GiB
        (header(b"x", b"77777777777", b"L"), TOO_MUCH),
        (pax(b"99 path=a"), DAMAGED),
        (pax(b"-1 path=a"), DAMAGED),
        (pax(b"3 path=a"), DAMAGED),  # it ends within its own key
        (pax(b"5 a=\n" * 1001), TOO_MUCH),  # of 1 MiB of them a worker had for a minute
        (pax(b"5 a=\n") * 17, TOO_MUCH),
    ],
)
def test_a_hostile_header_ends_its_archive(tmp_path: Path, block: bytes, error: str):
    whole = pack(tmp_path / "a.tar", pictures(1)).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole.rstrip(b"\0").ljust(-(-len(whole) // 512) * 512, b"\0"))
    end = next(k for k in range(512, len(whole), 512) if whole[k : k + 512] == bytes(512))
    (tmp_path / "a.tar").write_bytes(whole[:end] + block + bytes(1024))
    listed, _ = found(tmp_path / "a.tar")
    errors = {path: entry.error for path, entry in listed.items()}
    assert errors == {"a.tar/00000.png": "", "a.tar": error}


@pytest.mark.parametrize("kind", [".tar", ".tar.gz"])
@pytest.mark.parametrize(
    "block",
    [
        header(b"a.png", b"77777777777"),
        header(b"a.png", b"\x80" + b"\xff" * 11),  # GNU's binary form
        pax(b"28 size=9999999999999999999\n") + header(b"a.png", b"0"),
    ],
)
def test_a_size_beyond_the_file_is_that_members_error(tmp_path: Path, block: bytes, kind: str):
    archive = tmp_path / f"a{kind}"
    archive.write_bytes((gzip.compress if kind == ".tar.gz" else bytes)(block + bytes(1024)))
    noise(NoiseConfig(images=str(archive), output=str(tmp_path / "out"), max_error_rate=1))
    (row,) = rows_of(tmp_path / "out")
    assert (row["path"], row["error"]) == (f"a{kind}/a.png", DAMAGED)


def test_numbers_of_a_zip_that_no_file_reaches_are_its_members_errors(tmp_path: Path):
    archive, most = tmp_path / "a.zip", (1 << 64) - 1
    pack(archive, {"a.png": encoded(photo()), "b.png": encoded(photo())})
    whole = archive.read_bytes()
    first = whole.index(b"PK\1\2")
    entry = bytearray(whole[first : first + 46 + 5])
    entry[20:28], entry[42:46] = b"\xff" * 8, b"\xff" * 4  # both sizes, and the offset
    wide = struct.pack("<2H3Q", 1, 24, most, most, most)
    entry[30:32] = struct.pack("<H", len(wide))
    directory = bytes(entry) + wide + whole[first + 46 + 5 : whole.index(b"PK\5\6")]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(directory), first, 0)
    archive.write_bytes(whole[:first] + directory + end)
    noise(NoiseConfig(images=str(archive), output=str(tmp_path / "out"), max_error_rate=1))
    errors = {row["path"]: row["error"] for row in rows_of(tmp_path / "out")}
    assert errors == {"a.zip/a.png": "it claims to have more than 2 GiB", "a.zip/b.png": None}


def test_a_member_without_a_name_is_called_as_other_empty_names_are(tmp_path: Path):
    image = encoded(photo())
    blocks = header(b"", b"%o" % len(image)) + image.ljust(-(-len(image) // 512) * 512, b"\0")
    (tmp_path / "a.tar").write_bytes(blocks + bytes(1024))
    with pack(tmp_path / "b-stored.zip", {"x.png": image}).open("r+b") as file:
        whole = file.read().replace(b"x.png", b"\0.png")
        file.seek(0)
        file.write(whole)
    listed, _ = found(tmp_path)
    assert [*listed] == ["a.tar/__", "b-stored.zip/__"]
    assert all(source_of(entry).encoded == image for entry in listed.values())


@pytest.mark.parametrize("kind", [".tar.gz", ".tar.zst"])
def test_a_large_member_of_a_stream_is_read_where_it_begins_like_an_image(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spans, "UNSEEN", 1 << 19)
    monkeypatch.setattr(archives, "_HOLD", 1 << 19)
    large = encoded(photo()).ljust(1 << 20, b"\1")
    inside = {"a.png": bytes(1 << 20), "b.png": large, "c.png": encoded(photo()), "d.png": large}
    listed, _ = found(pack(tmp_path / f"a{kind}", inside))
    for name in ("b.png", "d.png", "c.png", "b.png"):
        assert source_of(listed[f"a{kind}/{name}"]).encoded == inside[name]
    assert load_pair(listed[f"a{kind}/a.png"], PairConfig()).error == (
        "no image, or of a format that is not read"
    )
    monkeypatch.setattr(spans, "LARGEST", 1 << 19)
    errors = {path[-5:]: entry.error for path, entry in found(tmp_path)[0].items()}
    assert errors.pop("c.png") == "" and set(errors.values()) == {
        "it claims to have more than 2 GiB"
    }


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_that_was_replaced_since_gives_no_other_members_pixels(
    tmp_path: Path, kind: str
):
    one, two = encoded(photo(seed=1)), encoded(photo(seed=2))
    size = max(len(one), len(two))
    one, two = one.ljust(size, b"\0"), two.ljust(size, b"\0")
    archive = pack(tmp_path / f"a{kind}", {"a.png": one, "b.png": two})
    entry, _ = found(archive)[0].values()
    assert source_of(entry).encoded == one
    pack(archive, {"b.png": two, "a.png": one})
    os.utime(archive, (1, 1))  # some disks count time in seconds
    assert load_pair(entry, PairConfig()).error == (
        "its archive has changed since it was listed: run again"
    )
    assert source_of(found(archive)[0][entry.path]).encoded == one


def test_a_tar_whose_checksums_are_of_signed_bytes_is_read(tmp_path: Path):
    image = encoded(photo())
    block = bytearray(header("é.png".encode(), b"%o" % len(image)))
    sum_ = 8 * 32 + sum(byte - 256 * (byte > 127) for byte in block[:148] + block[156:])
    block[148:156] = b"%06o\0 " % sum_  # as SunOS counts them
    (tmp_path / "a.tar").write_bytes(bytes(block) + image.ljust(-(-len(image) // 512) * 512, b"\0"))
    listed, _ = found(tmp_path / "a.tar")
    assert source_of(listed["a.tar/é.png"]).encoded == image


def test_a_zip_that_claims_what_it_does_not_hold_is_an_error_of_its_member(tmp_path: Path):
    archive = pack(tmp_path / "a.zip", {"a.png": bytes(1 << 20), "b.png": encoded(photo())})
    whole = archive.read_bytes()
    for claimed in (10, 1 << 21, 1 << 30):  # inflates to more, or to less
        sized = whole.replace(struct.pack("<L", 1 << 20), struct.pack("<L", claimed))
        archive.write_bytes(sized)
        listed, _ = found(archive)
        assert load_pair(listed["a.zip/a.png"], PairConfig()).error is not None
        assert load_pair(listed["a.zip/b.png"], PairConfig()).error is None


@pytest.mark.parametrize("is_quoted", [False, True])
def test_members_of_a_zip_that_share_their_bytes_are_no_more_than_could_lie_apart(
    tmp_path: Path, is_quoted: bool
):
    """Bombs as David Fifield describes them: many names of one content, or of contents that each
    begin with the next one's header."""
    content = encoded(photo(), "BMP")
    head = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(content), *[len(content)] * 2, 1, 0
    )
    packed = (head + b"a") * (50 if is_quoted else 1) + content
    directory = b""
    for number in range(50):
        start = number * len(head + b"a") if is_quoted else 0
        length = len(packed) - start - len(head + b"a")
        fields = (20, 20, 0, 0, 0, 0, zlib.crc32(content), length, length, 6, 0, 0, 0, 0, 0, start)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + b"%02d.bmp" % number
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 50, 50, len(directory), len(packed), 0)
    (tmp_path / "a.zip").write_bytes(packed + directory + end)
    listed, _ = found(tmp_path / "a.zip")
    assert len(listed) == 50  # a row each
    errors = Counter(load_pair(one, PairConfig()).error for one in listed.values())
    assert errors[zips.OVERLAPPING] == 49


def test_a_member_whose_bytes_were_changed_is_an_error_of_a_zip(tmp_path: Path):
    archive = pack(tmp_path / "a-stored.zip", {"a.bmp": (content := encoded(photo(), "BMP"))})
    archive.write_bytes(archive.read_bytes().replace(content[-50:], bytes(50)))
    listed, _ = found(archive)
    assert load_pair(listed["a-stored.zip/a.bmp"], PairConfig()).error == DAMAGED


def test_an_archive_that_is_not_read_says_what_to_do(tmp_path: Path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(SettingsError, match="unpack it"):
        found(tmp_path / "a.rar")


def test_a_folder_called_like_an_archive_beside_it_takes_no_path_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    archive = pack(tmp_path / "a.tar", pictures(1))
    loose = Found("a.tar/00000.png", str(tmp_path / "loose.png"), 5, "1")  # as on a store
    packed = Found("a.tar", str(archive), archive.stat().st_size, "1")
    monkeypatch.setattr(inputs.listing, "listing", lambda *args: iter([packed, loose]))
    assert len(found(tmp_path)[0]) == 2


def infer_all(images: Path, output: Path, model: str, **more: Any) -> list[dict[str, Any]]:
    infer(InferConfig(images=str(images), output=str(output), model=model, **more))
    return rows_of(output)


def test_pixels_and_numbers_are_those_of_the_same_images_in_a_folder(tmp_path: Path):
    model = tiny_model(tmp_path / "model")
    for name, content in (inside := pictures(2)).items():
        (tmp_path / "loose" / "in.tar").mkdir(parents=True, exist_ok=True)
        (tmp_path / "loose" / "in.tar" / name).write_bytes(content)
    pack(tmp_path / "packed" / "in.tar", inside)
    both = (
        infer_all(tmp_path / kind, tmp_path / f"out-{kind}", model, add_noise=0.1, save="both")
        for kind in ("loose", "packed")
    )
    assert not same(*both)  # the same paths, so the same noise
    assert (tmp_path / "out-packed" / "images" / "in.tar" / "00000.png").exists()


def test_a_run_goes_on_in_an_archive(tmp_path: Path):
    archive, output = pack(tmp_path / "in" / "a.tar", pictures(12)), tmp_path / "out"
    config = NoiseConfig(images=str(archive), output=str(output))
    noise(config)
    whole = rows_of(output)
    killed = tables.parts(str(output))[1:]
    for part in killed:  # as a kill leaves it
        Path(part).unlink()
    (output / "_SUCCESS").unlink()
    assert len(manifest.shards_to_do(str(output))) == len(killed) > 0
    noise(config)
    assert not same(rows_of(output), whole)
    assert noise(config)["nothing_to_do"]


def test_plan_counts_members(tmp_path: Path):
    pack(tmp_path / "a.tar", pictures(7))
    model = tiny_model(tmp_path / "model")
    flags = {"images": str(tmp_path / "a.tar"), "output": str(tmp_path / "out"), "model": model}
    assert plan(PlanConfig(**flags))["images"] == 7


def test_the_manifest_says_where_a_member_lies(tmp_path: Path):
    archive = pack(tmp_path / "a.tar", pictures(3))
    output = str(tmp_path / "out")
    listing = manifest.update(output, inputs.entries(str(archive), LeftOut()))
    assert listing.new is not None
    (shard,) = manifest.cut(output, listing.new)
    whole = archive.read_bytes()
    for entry in shard.entries(output):
        assert entry.uri == str(archive)
        assert whole[entry.offset :][: entry.size] == pictures(3)[entry.path.rsplit("/")[-1]]


def test_training_takes_members_as_it_takes_files(tmp_path: Path):
    listed, _ = found(pack(tmp_path / "a.tar", pictures(3)))
    photos, statistics = decode_photos(list(listed.values()), 16)
    assert statistics.photos == 3 and [one.path for one in photos] == [*listed]
    assert (photos[1].pixels == photo(24, 32, seed=1)).all()


@pytest.mark.parametrize("kind", [".tar", ".tar.gz", ".zip"])
def test_a_reference_lies_in_an_archive_or_in_a_folder_under_the_members_path(
    tmp_path: Path, kind: str
):
    clean = pictures(2) | {"deep/er.png": encoded(photo(seed=7)), "er.png": encoded(photo(seed=8))}
    noisy = pack(tmp_path / "noisy" / "a.tar", {name[:-4] + ".webp": b"x" for name in clean})
    by_name = pack(tmp_path / "clean" / f"b{kind}", clean)
    for name, content in clean.items():
        (tmp_path / "loose" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "loose" / name).write_bytes(content)
    pack(tmp_path / "same" / "a.tar", clean)
    for path in found(noisy)[0]:
        expected = clean[path.removeprefix("a.tar/")[:-5] + ".png"]
        for reference in (by_name, tmp_path / "loose", tmp_path / "same"):
            assert source_of(reference_of(str(reference), path)).encoded == expected
    with pytest.raises(ImageError, match="no references of that name"):
        reference_of(str(by_name), "a.tar/x.png")


def test_metrics_against_references_in_an_archive_are_those_of_loose_ones(tmp_path: Path):
    model = tiny_model(tmp_path / "model")
    clean, noisy = pictures(3), {name: encoded(photo(24, 32, seed=9)) for name in pictures(3)}
    pack(tmp_path / "noisy.tar.gz", noisy)
    for name, content in clean.items():
        (tmp_path / "clean").mkdir(exist_ok=True)
        (tmp_path / "clean" / name).write_bytes(content)
    packed = pack(tmp_path / "clean.tar.gz", clean)
    both = (
        infer_all(tmp_path / "noisy.tar.gz", tmp_path / f"out{k}", model, reference=str(reference))
        for k, reference in enumerate((tmp_path / "clean", packed))
    )
    assert not same(*both)


def test_a_damaged_archive_of_references_says_so(tmp_path: Path):
    archive = pack(tmp_path / "clean.tar", pictures(20))
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2 - 99])
    assert reference_of(str(archive), "00000.png").size
    with pytest.raises(ImageError, match="the archive of its reference: truncated or damaged"):
        reference_of(str(archive), "00019.png")


@pytest.mark.parametrize("name", ["list.txt", "list.csv", "list.parquet"])
def test_a_list_names_archives_and_its_columns_come_along(tmp_path: Path, name: str):
    (tmp_path / "loose.png").write_bytes(encoded(photo()))
    named = ["loose.png", "0.tar", str(pack(tmp_path / "sub" / "1.zip", pictures(1))), "gone.tar"]
    pack(tmp_path / "0.tar", pictures(2))
    archive = tmp_path / name
    if archive.suffix == ".parquet":
        pq.write_table(pa.table({"uri": named, "licence": [*"abcd"]}), archive)
    elif archive.suffix == ".csv":
        rows = (f"{uri},{licence}" for uri, licence in zip(named, "abcd", strict=True))
        archive.write_text("\n".join(["uri,licence", *rows]))
    else:
        archive.write_text("\n".join([*named, "0.tar"]))
    listed, left_out = found(archive)
    errors = {path: entry.error for path, entry in listed.items()}
    inside = ["0.tar/00000.png", "0.tar/00001.png", "sub/1.zip/00000.png"]
    assert errors == dict.fromkeys(["loose.png", *inside], "") | {"gone.tar": "no such file"}
    assert left_out == ({"named twice": 1} if archive.suffix == ".txt" else {})
    output = tmp_path / "out"
    noise(NoiseConfig(images=str(archive), output=str(output), save="none", max_error_rate=1))
    rows = {row["path"]: row for row in rows_of(output)}
    if archive.suffix != ".txt":
        assert [rows[path]["licence"] for path in inside] == ["b", "b", "c"]
    assert rows[inside[2]]["error"] is None and rows["gone.tar"]["error"] == "no such file"


def test_a_list_names_members_as_our_tables_do(tmp_path: Path):
    inside = pictures(2)
    pack(tmp_path / "b.tar", inside)
    (tmp_path / "list.txt").write_text("b.tar/00001.png\nb.tar/gone.png\n")
    listed, _ = found(tmp_path / "list.txt")
    assert source_of(listed["b.tar/00001.png"]).encoded == inside["00001.png"]
    assert load_pair(listed["b.tar/gone.png"], PairConfig()).error == "no such file"


def test_a_folder_called_like_an_archive_leads_to_archives_inside(tmp_path: Path):
    inside = pictures(2)
    for root in ("noisy", "clean"):
        pack(tmp_path / root / "out.tar" / "in.zip" / "a.tar", inside)
    (path, entry), _ = found(tmp_path / "noisy")[0].items()
    assert path == "out.tar/in.zip/a.tar/00000.png"
    for encoded_image in (
        archives.read(f"{tmp_path}/noisy/{path}"),
        source_of(reference_of(f"{tmp_path}/clean", path)).encoded,
        source_of(reference_of(f"{tmp_path}/clean/out.tar/in.zip/a.tar", path)).encoded,
    ):
        assert encoded_image == source_of(entry).encoded == inside["00000.png"]


def test_members_are_found_by_name_and_by_stem_as_in_a_folder():
    names = [f"{k % 7}/{k % 100}.{suffix}" for k in range(500) for suffix in ("png", "jpg", "txt")]
    table = MemberTable(Member(name, offset) for offset, name in enumerate(names))
    for name in names:
        assert table.get(f"./{name}") == Member(f"./{name}", names.index(name))
        alike = {names.index(f"{name[:-4]}.{suffix}") for suffix in ("png", "jpg")}
        assert {one.offset for one in table.alike(f"{name[:-4]}.webp")} == alike
    assert "7/1.png" not in table and not table.alike("7/1.png")
    assert len(table) == len(set(names)) and not len(MemberTable([]))
    assert not MemberTable([]).alike("a.png") and MemberTable([]).get("a.png") is None


def test_indexes_of_archives_are_kept_while_they_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archives, "_INDEXED", 2500)
    each = [str(pack(tmp_path / f"{k}.tar", pictures(2))) for k in range(4)]
    archives._indexes.clear()
    for archive in (*each, each[0]):
        assert len(archives.index_of(archive).members) == 2
    assert [uri for uri, *_ in archives._indexes] == [each[3], each[0]]


def test_globs_choose_among_members_by_their_paths(tmp_path: Path):
    for number in range(2):
        inside = pictures(2) | {"sub/x.jpg": encoded(photo(), "JPEG")}
        pack(tmp_path / "in" / f"{number}.tar", inside)

    def chosen(**globs: tuple[str, ...]) -> set[str]:
        config = NoiseConfig(images=str(tmp_path / "in"), output=str(tmp_path / "out"), **globs)
        return {entry.path for entry in inputs_of(config, LeftOut())}

    assert chosen(include=("0.tar/*",)) == {f"0.tar/{name}" for name in (*pictures(2), "sub/x.jpg")}
    assert chosen(include=("*.jpg",)) == {"0.tar/sub/x.jpg", "1.tar/sub/x.jpg"}
    assert chosen(exclude=("*/sub/*", "1.tar/*")) == {f"0.tar/{name}" for name in pictures(2)}
    assert chosen(include=("*/00001.png",), exclude=("0.*",)) == {"1.tar/00001.png"}


@pytest.mark.parametrize(("size", "share"), [(3 << 20, 0.03), (3000, 1.1)])
def test_listing_an_archive_on_a_store_asks_for_little_of_large_members_and_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, share: float
):
    count = 20
    archive = pack(
        tmp_path / "a.tar", {f"{k}.jpg": b"\xff\xd8\xff".ljust(size) for k in range(count)}
    )
    whole, asked = archive.read_bytes(), list[int]()
    files.write("memory://bucket/a.tar", whole)
    read_range = files.read_range

    def counted(uri: str, start: int, stop: int) -> bytes:
        asked.append(stop - start)
        return read_range(uri, start, stop)

    monkeypatch.setattr(files, "read_range", counted)
    assert len(found("memory://bucket/a.tar")[0]) == count
    assert sum(asked) <= share * len(whole)
    assert len(asked) <= (count + 3 if size > 1 << 20 else 1)
