"""Which files, and members of archives, are images: by name, else by content."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby, islice

from denoise.images.sniff import HEAD, IMAGE_SUFFIXES, looks_like_image
from denoise.storage import archives, files, pages, uris
from denoise.storage.entry import Entry, entry_of_member, unique
from denoise.storage.found import Found, LeftOut
from denoise.storage.spans import Member
from denoise.storage.stores import ASKERS, ask, filesystem, pattern

# Files and folders of thumbnails, deleted files and such, in small letters: what Windows, macOS,
# Synology and QNAP leave behind. Those whose names begin with a dot are hidden anyway.
_OF_A_SYSTEM = frozenset(
    (
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "lost+found"),
        *("system volume information", "found.000", "__macosx", "network trash folder"),
        *("temporary items", "@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@database"),
        *("@recycle", "@recently-snapshot", "@upload_cache", "@qmap", "@transcode"),
    )
)
_UNFINISHED = {".crdownload", ".part", ".partial", ".download", ".opdownload", ".filepart"}
# What stands beside an image in WebDataset's archives is known by its name: a million of them need
# no look.
_BESIDE = frozenset(
    ".json .jsonl .txt .cls .cls2 .csv .tsv .xml .yaml .yml .html .md .npy .npz .pt .pth .pkl"
    " .index .parquet .safetensors .mp3 .wav .flac .mp4".split()
)
CHAIN = re.compile(r"(zip|tar)://(.*?)::(.+)", re.DOTALL)  # an archive by fsspec's words
UNSURE = "its name does not tell"


def images_among(found: Iterator[Found], left_out: LeftOut, output: str | None) -> Iterator[Entry]:
    """The images among files: by suffix, and by content where the suffix tells nothing."""
    with ThreadPoolExecutor(ASKERS) as pool:
        while batch := list(islice(found, 1000)):
            by_name = [reason_by_name(one) for one in batch]
            unsure = [one for one, why in zip(batch, by_name, strict=True) if why is UNSURE]
            by_content = pool.map(_reason_by_content, unsure)  # a thread each, for the store's sake
            for one, why in zip(batch, by_name, strict=True):
                reason = next(by_content) if why is UNSURE else why
                if is_inside(one.uri, output):
                    reason = "" if one.is_folder else "inside the output folder"
                if reason is None:
                    yield Entry(uris.key(one.path), one.uri, one.size, one.mark)
                elif reason:
                    left_out.add(reason, one.path)


def images_in_archives(packed: Iterator[Found], root: str, left_out: LeftOut) -> Iterator[Entry]:
    """The images in archives, in the order of each archive and each under a path of its own.

    An archive that cannot be listed is an entry itself, and its error says why.
    """

    def wants_head(name: str) -> int:
        return HEAD if _needs_look(name) else 0

    listed = archives.members(packed, wants_head)
    for _, of_one in groupby(listed, key=lambda each: each[0].uri):
        yield from unique(_images_of(of_one, left_out), root, left_out)


def _images_of(listed: Iterator[tuple[Found, str, Member]], left_out: LeftOut) -> Iterator[Entry]:
    """The images among the members of an archive: by their names, and by their first bytes where
    these tell nothing."""
    for archive, kind, one in listed:
        if not one.name:
            yield Entry(uris.key(archive.path), archive.uri, 0, archive.mark, error=one.error)
            continue
        name = uris.key(one.name)
        reason = one.left_out or _reason_of_member(name)
        if reason is UNSURE:
            reason = None if looks_like_image(one.head) else "no image"
        if reason is not None:
            left_out.add(reason, f"{uris.key(archive.path)}/{name}")
            continue
        yield entry_of_member(uris.key(f"{archive.path}/{name}"), archive, kind, one)


def images_of_chain(kind: str, inner: str, archive: str, left_out: LeftOut) -> Iterator[Entry]:
    """The images in an archive that a chained URI names: one of them, a folder of it or a glob."""
    archive = uris.absolute(archive)
    whole = f"{kind}://::{archive}"
    fs, _ = filesystem(whole)
    details = ask(fs, whole, fs.find, "", detail=True)
    mark = files.info(archive).mark  # members have none of their own
    inner = inner.strip("/")
    if inner in details:
        like = re.compile(re.escape(inner))
    elif re.search(r"[*?\[]", inner):
        like = pattern(inner)
    else:
        like = re.compile(re.escape(inner + "/" if inner else "") + ".*", re.DOTALL)
    members = [name for name in sorted(details) if like.fullmatch(name)]
    images = [name for name in members if uris.suffix(name) in IMAGE_SUFFIXES]  # by name alone
    if len(images) < len(members):
        left_out.add("no image", count=len(members) - len(images))
    found = (pages.found(one, f"{kind}://{one}::{archive}", details[one]) for one in images)
    return (replace(one, mark=mark) for one in images_among(found, left_out, None))


def reason_by_name(found: Found) -> str | None:
    """Why a file is no input; None if it is one, empty for a folder, which counts as nothing, and
    UNSURE where its bytes decide."""
    if found.is_folder:
        return ""  # also one that is named like an image: what lies in it is listed
    if found.path.startswith(".") or "/." in found.path:
        return "hidden"
    if found.is_special:
        return "neither file nor folder"
    if not _OF_A_SYSTEM.isdisjoint(found.path.lower().split("/")):
        return "made by a system (thumbnails, deleted files)"
    if uris.suffix(found.path) in _UNFINISHED:
        return "unfinished download"
    return None if uris.suffix(found.path) in IMAGE_SUFFIXES else UNSURE


def _reason_of_member(name: str) -> str | None:
    """Why a member of an archive is no input; None if it is one, UNSURE where its bytes decide."""
    if archives.is_archive(name):
        return "an archive in an archive"
    reason = reason_by_name(Found(name, name, 0, ""))
    return "no image" if reason is UNSURE and uris.suffix(name) in _BESIDE else reason


def _needs_look(name: str) -> bool:
    """Whether the first bytes of a member decide: of a million members nearly none."""
    suffix = uris.suffix(name)
    is_known = suffix in IMAGE_SUFFIXES or suffix in _BESIDE
    return not is_known and _reason_of_member(uris.key(name)) is UNSURE


def _reason_by_content(found: Found) -> str | None:
    """As `reason_by_name`, never unsure. What is unreadable is an input: its row says so."""
    if not found.size and not found.uri.startswith("http"):  # which does not say
        return "no image"  # stores refuse to give a part of nothing
    try:
        return None if looks_like_image(files.head(found.uri, HEAD)) else "no image"
    except (FileNotFoundError, PermissionError):
        return "no image"  # neither its name nor its content says that it is one
    except OSError:
        return None


def is_inside(uri: str, folder: str | None) -> bool:
    """As `uris.lies_in`, of URIs of one listing: cheap, as it is asked for every file."""
    return folder is not None and uris.join(uri, "").startswith(uris.join(folder, ""))
