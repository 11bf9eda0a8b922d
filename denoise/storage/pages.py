"""An object store's folders, listed in pages: of any number of files a few thousand are in memory.

fsspec's `ls` holds all of a folder. Its S3, Google and Azure file systems (`stores`
makes them) let their store be asked for a page; of any other store `ls` is all there is.

obstore was tried and not taken: it lists a folder's children only all at once, fails where a key
has an empty part, and knows neither AWS's profiles nor fsspec's settings; Google's emulator does
not speak the API that it uses. It takes a twentieth of botocore's processor time for a page.
"""

import asyncio
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

from denoise.storage.found import Found
from denoise.storage.uris import join, name_of

NAMELESS = "__"  # the name of an empty part of a key, as in `photos//a.png`
_PAGE = 1000  # names: S3 gives no more
_AHEAD = 5  # pages of a folder that are asked for beside those of other folders
_MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated")

_Details = dict[str, Any]  # of a file or folder, as `ls` gives them
_Page = tuple[list[_Details], str]  # by name, folders' ending with "/"; and where the next begins
_Ask = Callable[..., Any]  # calls a store, with retries after passing faults


def children(fs: Any, prefix: str, folder: str, ask: _Ask, begins: str = "") -> Iterator[Found]:
    """A folder's children; where a store looks for that, those that begin so. A few pages are asked
    for at once, each other one when what came before it has been taken. Raises OSError."""
    top = fs._strip_protocol(folder).rstrip("/")
    # what is named NAMELESS has no name that a store could look for
    pages = _pages(fs, top, ask, "" if NAMELESS.startswith(begins) else begins)
    ahead = list(islice(pages, _AHEAD))
    return (
        child
        for page in chain(ahead, pages)
        for details in page
        for child in _children(fs, prefix, folder, top, details, ask)
    )


def names(fs: Any, top: str, ask: _Ask, begins: str = "") -> Iterator[str]:
    """The names of a folder's children that begin so, as `children` asks for them."""
    top = top.rstrip("/")
    for page in _pages(fs, top, ask, begins):
        for details in page:
            path = details["name"].rstrip("/")
            name = name_of(path)
            if path != top and name.startswith(begins):  # a folder's marker is no child of it
                yield name


def are_found_by_beginning(fs: Any) -> bool:
    """Whether a store looks for names that begin in some way without a look at all the others."""
    return _package(fs) in _PAGES


def found(path: str, uri: str, details: _Details) -> Found:
    """What `ls` and `info` say of a file or folder."""
    kind, size = details["type"], int(details.get("size") or 0)
    is_folder, is_special = kind == "directory", kind == "other"
    return Found(path, uri, size, _mark(details), is_folder, is_special)


def _mark(details: _Details) -> str:
    """What tells one version of a file from another, in each store's own field."""
    for key in _MARKS:
        if details.get(key):
            return str(details[key])
    return ""


def has_mark(details: _Details, mark: str) -> bool:
    """Whether what `info` says of a file has a mark that a listing gave: some stores put an ETag
    in quotes here and not there."""
    return mark.strip('"') in {str(details.get(key)).strip('"') for key in _MARKS}


def _children(
    fs: Any, prefix: str, folder: str, top: str, details: _Details, ask: _Ask
) -> Iterator[Found]:
    name = details["name"].rstrip("/")[len(top) :].lstrip("/")
    if name:
        yield found(prefix + name, join(folder, name), details)
    elif details["type"] == "directory":  # or a store's marker of the folder: nothing is there
        yield from _below_nameless(fs, prefix, folder, top, ask)


def _below_nameless(fs: Any, prefix: str, folder: str, top: str, ask: _Ask) -> Iterator[Found]:
    """The files behind an empty part of a key, which no listing of one folder enters."""
    for page in _pages(fs, top, ask, "/", delimiter=""):
        for details in page:
            key = details["name"][len(top) + 1 :]
            if key.startswith("/") and not key.endswith("/"):
                path = "/".join(part or NAMELESS for part in key.split("/"))
                yield found(prefix + path, join(folder, key), details)


def _pages(
    fs: Any, top: str, ask: _Ask, begins: str = "", delimiter: str = "/"
) -> Iterator[list[_Details]]:
    """A folder's children that begin so; without a delimiter, all that is below."""
    page_of = _PAGES.get(_package(fs))
    bucket, key, _ = fs.split_path(top) if page_of else ("", "", "")
    if page_of is None or not bucket:
        yield ask(_all, fs, top, begins, delimiter)
        return
    start, token = (f"{key}/" if key else "") + begins, None
    while token != "":
        page, token = ask(page_of, fs, bucket, start, delimiter, token)
        yield page


def _all(fs: Any, top: str, begins: str, delimiter: str) -> list[_Details]:
    if delimiter:
        return sorted(fs.ls(top, detail=True), key=_name)
    return sorted(fs.find(top, detail=True, prefix=begins).values(), key=_name)


def _page_of_s3(fs: Any, bucket: str, start: str, delimiter: str, token: str | None) -> _Page:
    more = {"ContinuationToken": token} if token else {}
    asked = {"Bucket": bucket, "Prefix": start, "Delimiter": delimiter, "MaxKeys": _PAGE}
    page = fs.call_s3("list_objects_v2", **asked, **more, **fs.req_kw)
    files = [_file(bucket, one["Key"], one["Size"], one) for one in page.get("Contents", [])]
    folders = [_folder(bucket, one["Prefix"]) for one in page.get("CommonPrefixes", [])]
    following = (page.get("NextContinuationToken") or None) if page.get("IsTruncated") else ""
    if following in (None, token):
        raise OSError("the store breaks off in the middle of a folder and names no next page")
    return sorted(files + folders, key=_name), following


def _page_of_google(fs: Any, bucket: str, start: str, delimiter: str, token: str | None) -> _Page:
    asked = {"prefix": start, "delimiter": delimiter, "maxResults": _PAGE, "pageToken": token}
    given = {name: value for name, value in asked.items() if value}
    page = fs.call("GET", "b/{}/o", bucket, json_out=True, **given)
    files = [_file(bucket, one["name"], one.get("size"), one) for one in page.get("items", [])]
    folders = [_folder(bucket, prefix) for prefix in page.get("prefixes", [])]
    return sorted(files + folders, key=_name), page.get("nextPageToken") or ""


def _page_of_azure(fs: Any, bucket: str, start: str, delimiter: str, token: str | None) -> _Page:
    from azure.core.exceptions import ResourceNotFoundError

    page = _azure_page(fs, bucket, start, delimiter, token)
    try:
        return asyncio.run_coroutine_threadsafe(page, fs.loop).result()
    except ResourceNotFoundError as error:
        raise FileNotFoundError(bucket) from error  # as adlfs's own calls


async def _azure_page(fs: Any, bucket: str, start: str, delimiter: str, token: str | None) -> _Page:
    container = fs.service_client.get_container_client(bucket)
    asked = {"name_starts_with": start, "include": ["metadata"], "results_per_page": _PAGE}
    if delimiter:
        found = container.walk_blobs(delimiter=delimiter, **asked)
    else:
        found = container.list_blobs(**asked)
    pages = found.by_page(continuation_token=token)
    page = []
    async for one in await anext(pages):
        if not hasattr(one, "size"):
            page.append(_folder(bucket, one.name))
        elif not _marks_folder(one.metadata or {}):  # which is listed as a prefix too
            quoted = '"' + one.etag.strip('"') + '"'  # as `info` has it
            page.append(_file(bucket, one.name, one.size, {"etag": quoted}))
    return sorted(page, key=_name), pages.continuation_token or ""


def _marks_folder(metadata: dict[str, str]) -> bool:
    """Of a blob, by its metadata."""
    known = {key.lower(): value for key, value in metadata.items()}
    return "true" in (known.get("hdi_isfolder"), known.get("is_directory"))


def _file(bucket: str, key: str, size: Any, details: _Details) -> _Details:
    marks = {mark: details[mark] for mark in _MARKS if mark in details}
    return marks | {"name": f"{bucket}/{key}", "type": "file", "size": size}


def _folder(bucket: str, prefix: str) -> _Details:
    return {"name": f"{bucket}/{prefix}", "type": "directory"}


def _name(details: _Details) -> str:
    return str(details["name"])


def _package(fs: Any) -> str:
    return type(fs).__module__.partition(".")[0]


# the package of fsspec's file system -> what asks its store for a page
_PAGES: dict[str, Callable[..., _Page]] = {
    "s3fs": _page_of_s3,
    "gcsfs": _page_of_google,
    "adlfs": _page_of_azure,
}
