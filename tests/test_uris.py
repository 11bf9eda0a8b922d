"""URIs as text: absolute, put together, compared, and shown without credentials."""

from pathlib import Path

import pytest

from denoise.errors import ImageError
from denoise.storage import files, uris

SECRET_FIELDS = "code jwt pwd passwd auth Authorization access sas key api_key token sig".split()
SECRET_FIELDS += "signature session ticket credential X-Amz-Security-Token x".split()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://KEY:ab/cd+ef@bucket/x", "s3://bucket/x"),
        ("https://TOKEN@host/x", "https://host/x"),
        ("https://host/x?X-Amz-Date=1&X-Amz-Signature=def&y=1", "https://host/x"),
        *((f"https://host/x?{name}=SECRET", "https://host/x") for name in SECRET_FIELDS),
        *((f"s3://bucket/x?{name}=SECRET", "s3://bucket/x") for name in SECRET_FIELDS[:-1]),
        ("https://host/x?page=1", "https://host/x"),
        ("https://host/x#access_token=SECRET", "https://host/x"),
        ("HTTP://host/x?SECRET", "HTTP://host/x"),
        ("simplecache::https://host/x?SECRET", "simplecache::https://host/x"),
        ("s3://bucket/why?.png", "s3://bucket/why?.png"),
        ("s3://bucket/sigma=0.1/monkey=1.png", "s3://bucket/sigma=0.1/monkey=1.png"),
        ("/home/sigma=0.1/monkey=1.png", "/home/sigma=0.1/monkey=1.png"),
        ("https://host:8080/a@2x.png", "https://host:8080/a@2x.png"),
        ("s3://bucket/a@2x.png", "s3://bucket/a@2x.png"),
        ("abfs://photos@account.dfs.core.windows.net/a", "abfs://photos@account.dfs.core.windows.net/a"),
    ],
)  # fmt: skip
def test_a_uri_is_shown_without_its_secrets_and_otherwise_whole(uri: str, shown: str):
    assert uris.redact(uri) == shown


@pytest.mark.parametrize(
    ("folder", "named", "uri"),
    [
        ("/lists", "../a.png", "/a.png"),
        ("/lists", "/b/a.png", "/b/a.png"),
        ("s3://bucket/lists", "../photos/./a.png", "s3://bucket/photos/a.png"),
        ("s3://bucket/lists", "gs://other/a.png", "gs://other/a.png"),
    ],
)
def test_a_name_in_a_file_is_relative_to_the_folder_of_the_file(folder: str, named: str, uri):
    assert uris.resolve(folder, named) == uri


@pytest.mark.parametrize("name", [*SECRET_FIELDS, "page"])
def test_a_recorded_uri_tells_queries_apart_and_keeps_none(name: str):
    one, other = (uris.to_record(f"https://host/list.csv?{name}={value}") for value in ("A", "B"))
    is_signature = name in ("sig", "signature")
    assert (one == other) == is_signature
    assert one.startswith("https://host/list.csv") and "A" not in one.removeprefix("https://host")


@pytest.mark.parametrize(
    "uri", ["/home/a?b=1", "https://host/x", "s3://b/x", "https://host/x?X-Amz-Signature=1"]
)
def test_a_recorded_uri_without_a_query_of_its_own_is_as_shown(uri: str):
    assert uris.to_record(uri) == uris.redact(uri)


@pytest.mark.parametrize(
    ("folder", "named"),
    [
        ("/set", "/etc/hostname"),
        ("/set", "file:///etc/hostname"),
        ("/set", "FILE:///etc/hostname"),
        ("/set", "file://localhost/etc/hostname"),
        ("/set", "local:///etc/hostname"),
        ("/set", "~/.ssh/id_rsa"),
        ("/set", "../etc/hostname"),
        ("/set", "a/../../etc/hostname"),
        ("/set", "/set/../etc/hostname"),
        ("/set", "/settle/a.png"),
        ("/set", "file:///set/%2e%2e/etc/hostname"),
        ("/set", "http://127.0.0.1/"),
        ("/set", "s3://bucket/a.png"),
        ("/set", "memory://a.png"),
        ("/set", "simplecache::file:///etc/hostname"),
        ("/set", "reference://a::file:///etc/hostname"),
        ("/set", "data:image/png;base64,AAAA://"),
        ("/set", ""),
        ("/set", "."),
        ("/set", None),
        ("/set", 7),
        ("/set", b"a.png"),
        ("s3://bucket/set", "/etc/hostname"),
        ("s3://bucket/set", "file:///etc/hostname"),
        ("s3://bucket/set", "../../other/a.png"),
        ("s3://bucket/set", "../../../a.png"),
        ("s3://bucket/set", "s3://other/a.png"),
        ("s3://bucket/set", "gs://bucket/a.png"),
        ("s3://bucket/set", "simplecache::s3://bucket/a.png"),
        ("s3://bucket/set", "s3://bucket/a.png::file:///etc/hostname"),
        ("https://host/set", "http://host/a.png"),
        ("https://host/set", "https://127.0.0.1/a.png"),
        ("https://host/set", "https://host:81/a.png"),
        ("https://host/set", "https://host@127.0.0.1/a.png"),
        ("https://host/set", "https://host.evil/a.png"),
        ("https://host/set", "//127.0.0.1/a.png"),
    ],
)
def test_a_name_in_a_table_leads_nowhere_else(folder: str, named: object):
    with pytest.raises(ImageError, match="it is elsewhere than its table"):
        uris.resolve_inside(folder, named)


@pytest.mark.parametrize(
    ("folder", "named", "uri"),
    [
        ("/set", "a.png", "/set/a.png"),
        ("/set", "./a/../b.png", "/set/b.png"),
        ("/set", "/set/deep/a.png", "/set/deep/a.png"),
        ("/set", "file:///set/a.png", "/set/a.png"),
        ("file:///set", "..a/b..png", "/set/..a/b..png"),
        ("s3://bucket/set", "a.png", "s3://bucket/set/a.png"),
        ("s3://bucket/set", "../images/a.png", "s3://bucket/images/a.png"),
        ("s3://bucket/set", "s3://bucket/images/a.png", "s3://bucket/images/a.png"),
        ("https://me:pw@host/set", "https://host/a.png?x=1", "https://host/a.png?x=1"),
    ],
)
def test_a_name_in_a_table_stands_for_a_file_below_it_or_on_its_own_store(folder, named, uri):
    assert uris.resolve_inside(folder, named) == uri


def test_a_table_may_name_any_file_where_its_user_says_so():
    where = uris.resolve_inside("/set", "../etc/hostname", allow_elsewhere=True)
    assert where == "/etc/hostname"


@pytest.mark.parametrize(
    ("uri", "folder", "called"),
    [
        ("/lists/x/a.png", "/lists", "x/a.png"),
        ("/photos/a.png", "/lists", "../photos/a.png"),
        ("/a.png", "/", "a.png"),
        ("s3://bucket/photos/a.png", "s3://bucket/lists", "../photos/a.png"),
        ("s3://bucket/a.png", "gs://bucket", "s3://bucket/a.png"),
        ("https://me:pw@host/x/a.png?sig=1", "https://host/y", "../x/a.png"),
    ],
)
def test_a_uri_has_a_name_as_seen_from_a_folder(uri: str, folder: str, called: str):
    assert uris.relative(uri, folder) == called


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://host/i?id=1&api_key=a", "https://host/i?id=2&api_key=a", False),
        ("https://host/i?id=1&keyword=cat", "https://host/i?id=2&keyword=cat", False),
        ("https://host/i?se=1", "https://host/i?se=2", False),
        ("https://host/i?se=1&sig=a&id=3", "https://host/i?se=2&sig=b&id=3", True),
        ("https://host/i?X-Amz-Date=1&X-Amz-Signature=a", "https://host/i?X-Amz-Signature=b", True),
        ("https://host/i?se=1&sig=a", "https://host/i", True),
        ("https://me:pw@host/i", "https://you:word@host/i", True),
        ("abfs://one@account/i", "abfs://two@account/i", False),
        ("/home/i?sig=1", "/home/i?sig=2", False),
    ],
)
def test_uris_are_told_apart_but_not_by_their_signatures(one: str, other: str, same: bool):
    assert (uris.identity(one, "/lists") == uris.identity(other, "/lists")) == same


def test_a_path_lies_in_a_folder_whatever_links_lead_there(tmp_path: Path):
    (tmp_path / "real" / "photos").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    real, link = (str(tmp_path / name / "photos") for name in ("real", "link"))
    assert uris.lies_in(f"{real}/out", link) and uris.lies_in(link, real)
    assert not uris.lies_in(f"{real}-2", link)
    assert uris.by_way_of(link, f"{real}/out") == f"{link}/out"
    assert uris.by_way_of(link, "s3://bucket/out") == "s3://bucket/out"


def test_a_chain_of_stores_is_no_local_path(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"here")
    uri = f"simplecache::file://{tmp_path}/a.txt"
    assert not uris.is_local(uri) and uris.absolute(uri) == uri
    assert files.read(uri) == b"here"


def test_local_uris_are_made_absolute_and_others_left_alone(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert uris.absolute("photos/") == str(tmp_path / "photos")
    assert uris.absolute(f"file://{tmp_path}/x") == str(tmp_path / "x")
    assert uris.absolute("s3://bucket/x/") == "s3://bucket/x"


def test_a_file_uri_is_a_path_as_pathlib_writes_it_unless_one_is_called_so(tmp_path: Path):
    path = tmp_path / "my photos" / "50%25.png"
    path.parent.mkdir()
    path.write_bytes(b"here")
    for uri in (path.as_uri(), f"file://{path}", path.as_uri().replace("//", "//localhost", 1)):
        assert uris.absolute(uri) == str(path) and files.read(uri) == b"here"
    assert uris.absolute(f"{tmp_path}/my%20photos") == f"{tmp_path}/my%20photos"


def test_a_glob_begins_at_its_last_folder_without_a_wildcard():
    assert [uris.glob_base(one) for one in ("/*.png", "/a/*/b.png", "*.png")] == ["/", "/a", "."]
