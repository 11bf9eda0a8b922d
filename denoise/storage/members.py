"""The images among the members of archives, and in an archive that a chained URI names."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

from denoise.images.codec import IMAGE_SUFFIXES, looks_like_image
from denoise.images.sniff import HEAD
from denoise.storage import archives, files, pages, uris
from denoise.storage.choosing import UNSURE, images_among, needs_look, reason_of_member
from denoise.storage.entry import Entry, entry_of_member, unique
from denoise.storage.found import Found, LeftOut
from denoise.storage.spans import Member
from denoise.storage.stores import ask, filesystem, pattern

CHAIN = re.compile(r"(zip|tar)://(.*?)::(.+)", re.DOTALL)  # an archive by fsspec's words


def images_in_archives(packed: Iterator[Found], root: str, left_out: LeftOut) -> Iterator[Entry]:
    """The images in archives, in the order of each archive and each under a path of its own.

    An archive that cannot be listed is an entry itself, and its error says why.
    """

    def wants_head(name: str) -> int:
        return HEAD if needs_look(name) else 0

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
        reason = one.left_out or reason_of_member(name)
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
