"""URIs as text: absolute, joined, compared, braces expanded, redacted for messages and records.

A URI is a local path, `file://`, `s3://`, `gs://`, `az://` or whatever else fsspec knows.

URIs stay text, made absolute where a user's words enter, and are cut apart here. A parsed
type was weighed: a URI is a column of a hundred million rows, a field of every task and a
setting in JSON, so it would be made from text and back at each of these doors, and fsspec takes
text too; it would add more than the few lines elsewhere that it could remove.
"""

import os
import re
from hashlib import blake2b
from posixpath import normpath, relpath
from typing import TypeGuard
from urllib.parse import unquote

from denoise.errors import SECRETS, ElsewhereError, SettingsError, without_user

_SIGNATURE = r"sig|signature|x-[a-z]+-signature"
# a signature, and what S3, Google, CloudFront and Azure put beside one: the next one changes it
_SIGNED = (
    rf"{_SIGNATURE}|x-(?:amz|goog)-.+|awsaccesskeyid|googleaccessid|key-pair-id|expires|policy"
    r"|s[veptrsi]|spr|sip|srt|sdd|ses|skoid|sktid|sk[tesv]|saoid|suoid|scid"
)
_MOST_BRACED = 1_000_000  # URIs that one with braces may stand for


def to_bytes(text: str) -> bytes:
    """A URI or path for a table or a hash: a file's name need not be valid text."""
    return text.encode("utf-8", "surrogateescape")


def from_bytes(encoded: bytes) -> str:
    """What `to_bytes` was given."""
    return encoded.decode("utf-8", "surrogateescape")


def absolute(uri: str) -> str:
    """The URI in a form that means the same in every process: local paths made absolute."""
    protocol, _ = split(uri)
    if protocol != "file":
        return uri.rstrip("/") if len(uri.rstrip("/")) > len(protocol) + 3 else uri
    return local_path(uri)


def local_path(uri: str) -> str:
    """The path on this machine's disks that a plain path or a `file:` URI stands for: of the latter
    `%20` is a space, as `Path.as_uri` writes it, unless a file has that very name."""
    _, path = split(uri)
    if "://" in uri:
        path = path.removeprefix("localhost") if path.startswith("localhost/") else path
        if "%00" not in path and not os.path.lexists(path):
            path = unquote(path, errors="surrogateescape")
    return os.path.abspath(os.path.expanduser(path))


def is_local(uri: str) -> bool:
    """Whether the URI is on this machine's own disks."""
    return split(uri)[0] == "file"


def join(root: str, *parts: str) -> str:
    """A URI below another one; inside of the archive, where it is one of `zip://...::ARCHIVE`."""
    inside, chain, archive = root.partition("::")
    if chain and inside.startswith(("zip://", "tar://")):
        inside = inside if inside.endswith("://") else inside.rstrip("/") + "/"
        return inside + "/".join(parts) + chain + archive
    return "/".join([root.rstrip("/") if root.strip("/") else root, *parts])


def folder_of(uri: str) -> str:
    """The folder of a file, which names inside the file are relative to."""
    return absolute(uri).rsplit("/", 1)[0]


def name_of(uri: str) -> str:
    """The last part of a URI or a path: a file's or a folder's own name."""
    return uri.rstrip("/").rpartition("/")[2]


def resolve(folder: str, named: str) -> str:
    """The URI of a name inside a file, which is relative to the file's own folder."""
    if not is_relative(named):
        return absolute(named)
    protocol, rest = split(folder)
    if protocol == "file":
        return absolute(join(folder, named))
    return f"{folder[: len(folder) - len(rest)]}{normpath(join(rest, named))}"


def resolve_inside(folder: str, named: object, *, allow_elsewhere: bool = False) -> str:
    """The URI of what a table in a folder names: it must lie below that folder or, of a store, in
    the same bucket or on the same host. A table may come from anybody, and would otherwise read
    this machine's files and ask its neighbours. Raises ElsewhereError (an ImageError)."""
    if isinstance(named, str) and named:
        uri = resolve(folder, named)
        if allow_elsewhere:
            return uri
        if is_local(folder):
            if is_local(uri) and _is_below(uri, absolute(folder)):
                return uri
        elif _store_of(uri) == _store_of(folder) and uri.count("::") <= folder.count("::"):
            return uri
    raise ElsewhereError("it is elsewhere than its table (--allow-elsewhere reads it)")


def _is_below(path: str, folder: str) -> bool:
    return path != folder and os.path.commonpath([path, folder]) == folder


def _store_of(uri: str) -> tuple[str, str]:
    """What of a URI stands before its path: the protocols, and the bucket or host."""
    scheme, _, rest = without_user(uri).partition("://")
    return scheme, rest.partition("/")[0]


def is_relative(named: str) -> bool:
    """Whether a name is relative, so that it needs a folder to be a URI."""
    return "://" not in named and not named.startswith(("/", "~"))


def is_normal(name: object) -> TypeGuard[str]:
    """Whether a name is text that leads down from a folder and nowhere else: `a/b.png`, but not
    `/a`, `~/a`, `../a`, `a//b`, `a/./b` or `s3://a`."""
    if not isinstance(name, str) or not is_relative(name) or "\0" in name:
        return False
    return not {"", ".", ".."} & set(name.split("/"))


def relative(uri: str, folder: str) -> str:
    """A URI's path from a folder, by way of `..` where it lies outside, so that both may
    move together; the whole URI on another store. Shows no secrets."""
    return _seen_from(folder, redact(uri))


def identity(uri: str, folder: str) -> str:
    """What tells a URI from all others, as seen from a folder: its query too, but for a signature
    and what came with it. May hold secrets."""
    if "://" not in uri:
        return _seen_from(folder, uri)
    bare, _, query = without_user(uri).partition("?")
    fields = [(field.partition("=")[0].lower(), field) for field in query.split("&")]
    if any(re.fullmatch(_SIGNATURE, name) for name, _ in fields):
        query = "&".join(field for name, field in fields if not re.fullmatch(_SIGNED, name))
    return _seen_from(folder, f"{bare}?{query}" if query else bare)


def _seen_from(folder: str, uri: str) -> str:
    top = join(redact(folder), "")
    if uri.startswith(top):
        return uri[len(top) :]
    (store, inner), (other, outer) = split(uri), split(top)
    return relpath(f"/{inner}", f"/{outer}") if store == other else uri


def lies_in(uri: str, folder: str) -> bool:
    """Whether a URI is a folder or inside it, by whatever links one gets to either."""
    inner, outer = (
        os.path.realpath(local_path(one)) if is_local(one) else one for one in (uri, folder)
    )
    return join(inner, "").startswith(join(outer, ""))


def by_way_of(root: str, uri: str) -> str:
    """A URI as the listing of a folder around it has it, whatever links lead to it; elsewhere
    the URI itself."""
    if not (is_local(root) and is_local(uri) and lies_in(uri, root)):
        return uri
    return absolute(join(root, os.path.relpath(os.path.realpath(uri), os.path.realpath(root))))


def expand_braces(uri: str) -> list[str]:
    """The URIs that one with `{000..123}` or `{a,b}` in it stands for, as a shell writes them; none
    where it has neither. Raises SettingsError where they are too many."""
    part = re.search(r"\{(?:(\d{1,18})\.\.(\d{1,18})|([^{}]*,[^{}]*))\}", uri)
    if part is None:
        return []
    first, last, named = part.groups()
    if named is not None:
        values = named.split(",")
    else:
        low, high = int(first), int(last)
        if abs(high - low) >= _MOST_BRACED:
            raise SettingsError(f"{redact(uri)} stands for more than {_MOST_BRACED:,} names")
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        step = 1 if low <= high else -1
        values = [f"{value:0{width}d}" for value in range(low, high + step, step)]
    after = expand_braces(uri[part.end() :]) or [uri[part.end() :]]
    if len(values) * len(after) > _MOST_BRACED:
        raise SettingsError(f"{redact(uri)} stands for more than {_MOST_BRACED:,} names")
    return [uri[: part.start()] + value + rest for value in values for rest in after]


def glob_base(pattern: str) -> str:
    """The folder that a glob's paths are relative to."""
    return glob_parts(pattern)[0]


def glob_parts(pattern: str) -> tuple[str, str]:
    """The folder that a glob's paths are relative to, and what they are like."""
    fixed = before_wildcards(pattern)
    base, slash, name = fixed.rpartition("/")
    return base or slash or ".", name + pattern[len(fixed) :]


def before_wildcards(pattern: str) -> str:
    """What everything that a glob stands for begins with."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0]


def redact(uri: str) -> str:
    """A URI as it may be printed and recorded: without a user name and password, and without its
    query, which may let anybody in: always on the web, elsewhere where a field has a
    secret's name. A path stays, whatever its name."""
    if "://" not in uri:
        return uri
    scheme, _, _ = uri.partition("://")
    location, mark, query = without_user(uri).partition("?")
    if "http" in scheme.lower():
        return location.partition("#")[0]
    return location if re.search(SECRETS, query) else location + mark + query


def to_record(uri: str) -> str:
    """A redacted URI and a hash of its query, but for a signature: so that settings tell two lists
    apart that only their queries do, and hold no secret."""
    location = redact(uri)
    whole = identity(uri, "")
    if "://" not in uri or whole == location:
        return location
    return f"{location}?{blake2b(to_bytes(whole), digest_size=8).hexdigest()}"


def split(uri: str) -> tuple[str, str]:
    """The protocol and the rest; `file` where there is none."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)(::[A-Za-z0-9+.:-]+)?://", uri)
    if not match:
        return "file", uri
    protocol = match[1].lower()
    return ("file" if protocol == "local" else protocol), uri[match.end() :]


def key(path: str) -> str:
    """A path as a key: `/`-separated, valid text, never upward."""
    if path.isascii() and "/." not in path and "//" not in path and path == path.strip("./"):
        return path  # as nearly all are: a hundred million of them are cleaned for nothing
    text = to_bytes(path).decode("utf-8", "backslashreplace")
    parts = ("__" if part == ".." else part for part in text.split("/") if part not in ("", "."))
    return "/".join(parts) or "__"


def suffix(path: str) -> str:
    """In small letters, with its dot; empty where there is none."""
    name = path.rsplit("/", 1)[-1]
    return "." + name.rsplit(".", 1)[1].lower() if "." in name else ""


def stem(path: str) -> str:
    """The name without its suffix."""
    name = path.rsplit("/", 1)[-1]
    return name.rsplit(".", 1)[0] if "." in name else name


def without_suffix(path: str) -> str:
    """A path without the suffix of its name."""
    folder, slash, _ = path.rpartition("/")
    return folder + slash + stem(path)
