"""Which files are images: by their names, and by their first bytes where these tell nothing."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

from denoise.images.codec import IMAGE_SUFFIXES, looks_like_image
from denoise.images.sniff import HEAD
from denoise.storage import archives, files, uris
from denoise.storage.entry import Entry
from denoise.storage.found import Found, LeftOut

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
UNSURE = "its name does not tell"


def images_among(found: Iterator[Found], left_out: LeftOut, output: str | None) -> Iterator[Entry]:
    """The images among files: by suffix, and by content where the suffix tells nothing."""
    with ThreadPoolExecutor(16) as pool:
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


def reason_of_member(name: str) -> str | None:
    """Why a member of an archive is no input; None if it is one, UNSURE where its bytes decide."""
    if archives.is_archive(name):
        return "an archive in an archive"
    reason = reason_by_name(Found(name, name, 0, ""))
    return "no image" if reason is UNSURE and uris.suffix(name) in _BESIDE else reason


def needs_look(name: str) -> bool:
    """Whether the first bytes of a member decide: of a million members nearly none."""
    suffix = uris.suffix(name)
    is_known = suffix in IMAGE_SUFFIXES or suffix in _BESIDE
    return not is_known and reason_of_member(uris.key(name)) is UNSURE


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
