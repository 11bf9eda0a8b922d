"""S3, Google Cloud Storage and Azure: the same words as a disk, and no secret said aloud."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from denoise import errors
from denoise.errors import ImageError
from denoise.storage import files, inputs, listing, pages, references, stores, uris
from denoise.storage.entry import source_of
from denoise.storage.found import LeftOut
from denoise.verbs.extract import ExtractConfig, extract
from denoise.verbs.noise import NoiseConfig, noise
from tests import running, servers
from tests.conftest import encoded, photo
from tests.test_archives import pack

pytestmark = pytest.mark.stores


@pytest.fixture(scope="module", params=["s3", "gcs", "azure"])
def store(request: pytest.FixtureRequest) -> Iterator[servers.Store]:
    if request.param == "azure":
        try:
            servers.azurite_program()
        except RuntimeError as reason:
            pytest.skip(str(reason))
    with getattr(servers, request.param)() as store, servers.visible(store):
        yield store


@contextmanager
def faulty_s3(rule: servers.Rule) -> Iterator[str]:
    """The root of an S3 store of its own, whose answers go wrong by a rule."""
    with servers.s3() as store, servers.faulty(store.endpoint, rule) as endpoint:
        env = store.env | {"AWS_ENDPOINT_URL": endpoint}
        with servers.visible(servers.Store(store.root, endpoint, env)):
            yield store.root


def test_what_is_written_is_read_back_listed_and_removed(store: servers.Store):
    top = f"{store.root}/round trip"
    paths = ["a.png", "b/ü #1.png", "b/c/d.png"]
    for path in paths:
        files.write(f"{top}/{path}", path.encode() * 1000)
    found = {entry.path: entry for entry in listing.listing(top) if not entry.is_folder}
    assert sorted(found) == sorted(paths)
    assert files.names(top) == ["a.png", "b"]
    for path, entry in found.items():
        assert files.read(entry.uri) == path.encode() * 1000
        assert entry.size == len(path.encode()) * 1000
        assert entry.mark
    files.remove(f"{top}/b")
    assert [entry.path for entry in listing.listing(top)] == ["a.png"]
    files.remove(f"{top}/b")  # nothing is there any more, and that is fine


def test_what_is_removed_is_what_is_called_so_and_nothing_that_is_like_it(store: servers.Store):
    top = f"{store.root}/patterns"
    for name in ("a[1].png", "a1.png", "b*.png", "bc.png", "run[3]/x.png", "run3/x.png"):
        files.write(f"{top}/{name}", b"x")
    for name in ("a[1].png", "b*.png", "run[3]"):
        files.remove(f"{top}/{name}")
    left = sorted(entry.path for entry in listing.listing(top) if not entry.is_folder)
    assert left == ["a1.png", "bc.png", "run3/x.png"]
    files.check_writable(f"{top}/run[4]")


def test_a_second_writing_replaces_the_first_and_changes_its_mark(store: servers.Store):
    uri = f"{store.root}/twice/a.bin"
    files.write(uri, b"first")
    before = files.info(uri).mark
    files.write(uri, b"second")
    assert files.read(uri) == b"second"
    assert files.info(uri).mark != before


def test_what_is_not_there_is_said_in_the_same_words_everywhere(store: servers.Store):
    nothing = f"{store.root}/nowhere/a.png"
    assert not files.exists(nothing)
    assert files.names(f"{store.root}/nowhere") == []
    with pytest.raises(FileNotFoundError) as raised:
        files.read(nothing)
    assert errors.words_of(raised.value) == "no such file"


def test_a_large_folder_is_listed_a_page_at_a_time(store: servers.Store, monkeypatch):
    monkeypatch.setattr(pages, "_PAGE", 3)
    monkeypatch.setattr(pages, "_AHEAD", 2)
    top = f"{store.root}/large"
    names = [f"{number}.png" for number in range(10)] + [
        f"{number}/deep.png" for number in range(6)
    ]
    for name in names:
        files.write(f"{top}/{name}", b"x")
    assert sorted(one.path for one in _files(top)) == sorted(names)
    begun = _files(top)
    next(begun)
    for name in names:
        files.remove(f"{top}/{name}")
    assert len(list(begun)) < 6  # what the first two pages had


@pytest.mark.parametrize("most", [2, 100])
def test_a_reference_is_found_in_a_folder_of_any_size(store: servers.Store, monkeypatch, most: int):
    monkeypatch.setattr(references, "_MANY", most)
    references._names.cache_clear()
    top = f"{store.root}/references"
    for name in ("1.png", "1.txt", "10.png", "2.jpg", "3.jpg", "3.png", "bare"):
        files.write(f"{top}/{name}", b"x")
    for asked, there in (("1.png", "1.png"), ("1.tif", "1.png"), ("2.png", "2.jpg")):
        assert references.reference_of(top, asked).uri == f"{top}/{there}"
    assert references.reference_of(top, "bare").uri == f"{top}/bare"
    for asked, number in (("4.png", "no"), ("3.tif", "2")):
        with pytest.raises(ImageError, match=f"{number} references of that name"):
            references.reference_of(top, asked)


def _files(top: str) -> Iterator[files.Found]:
    return (one for one in listing.listing(top) if not one.is_folder)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.png", ["a.png"]),
        ("**/*.png", ["a.png", "c/d.png", "c/e/f.png"]),
        ("c/**", ["d.png", "e/f.png"]),
        ("*/?.png", ["c/d.png"]),
        ("[bc]*/[!e].png", ["c/d.png"]),
        ("b*.*", ["b.jpg"]),
        ("c*/**/f.png", ["c/e/f.png"]),
    ],
)
def test_a_glob_finds_files_by_their_path(store: servers.Store, pattern: str, found: list[str]):
    for name in ("a.png", "b.jpg", "c/d.png", "c/e/f.png"):
        files.write(f"{store.root}/glob/{name}", b"x")
    entries = {
        entry.path: entry.uri
        for entry in listing.matches(f"{store.root}/glob/{pattern}")
        if not entry.is_folder
    }
    assert list(entries) == found
    assert all(files.read(uri) == b"x" for uri in entries.values())


def test_a_file_has_the_same_mark_however_it_is_asked_for(store: servers.Store):
    uri = f"{store.root}/mark/a.png"
    files.write(uri, b"x")
    (listed,) = _files(f"{store.root}/mark")
    assert listed.mark and listed.mark == files.info(uri).mark


def test_a_bucket_that_is_not_there_holds_nothing(store: servers.Store):
    assert files.names(f"{store.root}-missing/photos") == []
    with pytest.raises(FileNotFoundError):
        list(listing.listing(f"{store.root}-missing/photos"))


def test_a_bucket_has_no_wildcards():
    with pytest.raises(errors.SettingsError, match="a bucket's name has no wildcards"):
        listing.matches("s3://buck*/a.png")


def test_a_page_that_a_store_refuses_at_first_is_asked_for_again(monkeypatch):
    monkeypatch.setattr(pages, "_PAGE", 3)
    refused: list[str] = []

    def rule(number: int, method: str, path: str) -> str | None:
        if "continuation-token" in path and path not in refused:
            refused.append(path)
            return "throttle"
        return None

    with faulty_s3(rule) as root:
        names = [f"{number}.png" for number in range(10)]
        for name in names:
            files.write(f"{root}/faults/{name}", b"x")
        assert [one.path for one in _files(f"{root}/faults")] == names
    assert len(refused) == 3


def test_a_listing_that_breaks_off_is_an_error_and_one_that_ends_is_not():
    page = {"Contents": [{"Key": "a/1.png", "Size": 1}], "IsTruncated": True}
    store = SimpleNamespace(call_s3=lambda *asked, **options: page, req_kw={})
    with pytest.raises(OSError, match="names no next page"):
        pages._page_of_s3(store, "bucket", "a/", "/", None)
    page = page | {"IsTruncated": False, "NextContinuationToken": "again"}
    files, following = pages._page_of_s3(store, "bucket", "a/", "/", None)
    assert [one["name"] for one in files] == ["bucket/a/1.png"] and following == ""


def test_a_key_with_an_empty_part_is_listed_too(store: servers.Store):
    top = f"{store.root}/parts"
    for name in ("a.png", "/b.png", "sub//c.png", "sub/d.png"):
        files.write(f"{top}/{name}", name.encode())
    found = {one.path: one.uri for one in _files(top)}
    assert set(found) == {"a.png", "sub/d.png", "__/b.png", "sub/__/c.png"}
    assert all(files.read(uri).decode() in uri for uri in found.values())


def test_a_file_of_twelve_megabytes_arrives_whole(store: servers.Store):
    content = os.urandom(12_000_000)
    files.write(f"{store.root}/large.bin", content)
    assert files.read(f"{store.root}/large.bin") == content
    with files.open_input(f"{store.root}/large.bin") as file:
        file.seek(-1000, os.SEEK_END)
        assert file.read() == content[-1000:]


def test_twenty_writers_at_once_lose_nothing(store: servers.Store):
    names = [f"{number:02}.bin" for number in range(20)]
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda n: files.write(f"{store.root}/many/{n}", n.encode()), names))
    assert files.names(f"{store.root}/many") == names


def test_a_bucket_that_is_not_there_is_told_before_any_work(store: servers.Store):
    elsewhere = store.root.replace("bucket", "no-such-bucket")
    with pytest.raises(errors.SettingsError, match="cannot write to"):
        files.check_writable(f"{elsewhere}/output")


def test_infer_runs_from_store_to_store_and_says_no_secret(store: servers.Store):
    running.pictures(f"{store.root}/images", 6)
    model = running.tiny_model(f"{store.root}/tiny")
    output = f"{store.root}/denoised"
    flags = ["--images", f"{store.root}/images", "--output", output, "--model", model]
    done = running.run("infer", *flags, "--reference", f"{store.root}/images", env=store.env)
    assert done.code == 0, done.err
    rows = running.rows_of(output)
    assert [row["error"] for row in rows] == [None] * 6
    assert all(row["mse_noisy"] == 0 and row["mse"] > 0 for row in rows)
    again = running.run("infer", *flags, "--reference", f"{store.root}/images", env=store.env)
    assert again.summary["nothing_to_do"]
    _check_no_secret(store, output, done, again)


def test_noise_and_train_run_from_store_to_store_and_say_no_secret():
    with servers.s3() as store, servers.visible(store):
        running.pictures(f"{store.root}/images", 8)
        pairs, model = f"{store.root}/pairs", f"{store.root}/model"
        flags = ["--images", f"{store.root}/images", "--output", pairs, "--save", "both"]
        noised = running.run("noise", *flags, env=store.env)
        assert noised.code == 0, noised.err
        assert len(list(listing.matches(f"{pairs}/images/**/*.png"))) == 8
        few = ["--steps", "2", "--batch-size", "2", "--patch", "32", "--architecture", "classic"]
        trained = running.run("train", "--images", pairs, "--output", model, *few, env=store.env)
        assert trained.code == 0, trained.err
        assert files.exists(f"{model}/config.json")
        _check_no_secret(store, pairs, noised)
        _check_no_secret(store, model, trained)


def _check_no_secret(store: servers.Store, output: str, *jobs: running.Done) -> None:
    """Neither what the jobs said nor what they wrote holds a key."""
    keys = [
        store.env.get("AWS_SECRET_ACCESS_KEY"),
        store.env.get("AZURE_STORAGE_CONNECTION_STRING"),
    ]
    for key in filter(None, keys):
        for job in jobs:
            assert key not in job.out + job.err
        for found in listing.listing(output):
            if not found.is_folder:
                assert key.encode() not in files.read(found.uri), found.path


def test_a_writer_that_is_killed_leaves_nothing_under_the_name():
    writer = (
        "import sys; from denoise.storage.files import write; write(sys.argv[1], bytes(200 << 20))"
    )
    with servers.s3() as store:
        process = subprocess.Popen(
            [sys.executable, "-c", writer, f"{store.root}/whole.bin"], env=os.environ | store.env
        )
        with servers.visible(store):
            try:
                process.wait(0.9)
            except subprocess.TimeoutExpired:
                process.kill()
            process.wait()
            if files.exists(f"{store.root}/whole.bin"):
                assert files.info(f"{store.root}/whole.bin").size == 200_000_000


PASSING = ["error", "throttle", "cut"]


@pytest.mark.parametrize("fault", PASSING)
def test_a_passing_fault_of_a_store_is_tried_again(fault: str):
    def rule(number: int, method: str, path: str) -> str | None:
        return fault if number % 3 == 1 else None

    content = os.urandom(100_000)
    with faulty_s3(rule) as root:
        for number in range(4):
            files.write(f"{root}/{number}.bin", content)
            assert files.read(f"{root}/{number}.bin") == content


def test_a_store_that_is_not_there_is_an_error_without_its_secret(monkeypatch):
    monkeypatch.setattr(stores, "_ATTEMPTS", 1)  # s3fs tries again by itself, too
    env = servers.s3_environment(f"http://127.0.0.1:{servers.free_port()}")
    with servers.visible(servers.Store("s3://bucket", "", env)):
        with pytest.raises(OSError) as raised:
            files.read("s3://bucket/a.png")
        assert servers.SECRET not in str(raised.value)
        assert servers.SECRET not in errors.words_of(raised.value)


def test_a_uri_with_a_password_is_shown_without_it():
    assert uris.redact("sftp://user:pass-word@host/a") == "sftp://host/a"
    assert "abc123" not in uris.redact("https://x.blob.core.windows.net/a?sv=1&sig=abc123")


def test_archives_are_listed_and_read_by_ranges(store: servers.Store, tmp_path: Path):
    top = f"{store.root}/archives"
    inside = {f"{k}.png": encoded(photo(seed=k)) for k in range(4)} | {"0.json": b"{}"}
    for kind in (".tar", ".tar.gz", ".zip"):
        files.write(f"{top}/00000{kind}", pack(tmp_path / f"a{kind}", inside).read_bytes())
    files.write(f"{top}/00001.tar", files.read(f"{top}/00000.tar")[:300])
    left_out = LeftOut()
    listed = {entry.path: entry for entry in inputs.entries(top, left_out)}
    assert listed.pop("00001.tar").error and left_out.counts == {"no image": 3}
    assert len(listed) == 12
    for path, entry in listed.items():
        assert source_of(entry).encoded == inside[path.rpartition("/")[2]]
    braced = list(inputs.entries(f"{top}/{{00000..00002}}.tar", left_out))
    errors = [entry.path for entry in braced if entry.error]
    assert len(braced) == 6 and errors == ["00001.tar", "00002.tar"]


def test_archives_of_references_and_of_a_list_lie_on_a_store(store: servers.Store, tmp_path: Path):
    top = f"{store.root}/pairs"
    clean = {f"{k}.png": encoded(photo(seed=k)) for k in range(3)}
    for name in ("clean.tar", "noisy/a.zip", "same/a.zip"):
        kind = name[name.rindex(".") :]
        files.write(f"{top}/{name}", pack(tmp_path / f"a{kind}", clean).read_bytes())
    files.write(f"{top}/list.txt", b"noisy/a.zip\nnoisy/gone.tar\n")
    listed = {one.path: one for one in inputs.entries(f"{top}/list.txt", LeftOut())}
    assert listed.pop("noisy/gone.tar").error == "no such file"
    assert [*listed] == [f"noisy/a.zip/{name}" for name in clean]
    for path in (f"a.zip/{name}" for name in clean):
        for reference in (f"{top}/clean.tar", f"{top}/same"):
            found = source_of(references.reference_of(reference, path))
            assert found.encoded == clean[path.rpartition("/")[2]]


def test_tar_shards_on_a_store_have_the_bytes_of_those_on_a_disk(
    store: servers.Store, tmp_path: Path
):
    (tmp_path / "in").mkdir()
    for number in range(5):
        (tmp_path / "in" / f"{number}.png").write_bytes(encoded(photo(seed=number)))
    outputs = f"{store.root}/shards", str(tmp_path / "out")
    for output in outputs:
        noise(NoiseConfig(images=str(tmp_path / "in"), output=output, save="tar"))
    ours, theirs = (
        {name: files.read(f"{output}/images/{name}") for name in files.names(f"{output}/images")}
        for output in outputs
    )
    assert ours == theirs and "shard-00000.tar" in ours
    into = str(tmp_path / "into")
    assert extract(ExtractConfig(output=outputs[0], into=into))["written"] == 5
    noise(NoiseConfig(images=str(tmp_path / "in"), output=outputs[0], overwrite=True))
    assert files.names(f"{outputs[0]}/images") == []
