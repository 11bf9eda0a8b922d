"""What listing archives costs, and how fast their members are read against loose files.

python -m tests.bench.archives [MEMBERS [IN_AN_ARCHIVE [BYTES]]]   (1,000,000 images of 2,000 bytes,
                                                                    1,000 to an archive)

Beside each image lie a json and a txt, as img2dataset writes them. `--s3` after the numbers puts
them into moto's S3 server on this machine, which says how many requests and bytes a listing takes.
With 0 members rates of reading are compared, in turns: of loose files, and of the same in tars.
"""

import io
import json
import shutil
import sys
import tarfile
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from denoise.storage import files, inputs
from denoise.storage.entry import Entry, source_of
from denoise.storage.found import LeftOut
from denoise.verbs.noise import NoiseConfig, noise
from tests import servers
from tests.bench.listing import timed, update
from tests.conftest import encoded, photo

ROUNDS = 9


def main() -> None:
    is_remote = "--s3" in sys.argv
    asked = [int(number) for number in sys.argv[1:] if number.isdigit()]
    members, in_one, size = asked + [1_000_000, 1_000, 2_000][len(asked) :]
    if members == 0:
        rates(Path(tempfile.mkdtemp(prefix="archives-")))
        return
    with tempfile.TemporaryDirectory(prefix="archives-") as home:
        folder, output = Path(home, "tars"), Path(home, "output")
        timed("make the archives", members, lambda: make(folder, members, in_one, size))
        if is_remote:
            with servers.s3() as store, servers.visible(store):
                remote(store.root, folder, members)
            return
        timed("list into a new manifest", members, lambda: update(folder, str(output)))
        timed("list and compare, nothing new", members, lambda: update(folder, str(output)))


def make(folder: Path, members: int, in_one: int, size: int) -> int:
    """Write a tar, and copies of it, which take less time to make."""
    folder.mkdir()
    about = json.dumps({"caption": "a cat", "url": "http://host/cat.jpg", "width": 256}).encode()
    contents = ((".jpg", b"\xff\xd8\xff" + bytes(size - 3)), (".json", about), (".txt", b"a cat"))
    first = folder / "00000.tar"
    with tarfile.open(first, "w") as tar:
        for key in range(in_one):
            for suffix, content in contents:
                member = tarfile.TarInfo(f"{key:09d}{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    for number in range(1, members // in_one):
        shutil.copyfile(first, folder / f"{number:05d}.tar")
    return members


def remote(root: str, folder: Path, members: int) -> None:
    paths = sorted(folder.iterdir())
    for path in paths:
        files.write(f"{root}/tars/{path.name}", path.read_bytes())
    asked: Counter[str] = Counter()
    ranged = files.read_range

    def counted(uri: str, start: int, stop: int) -> bytes:
        asked["requests"] += 1
        asked["bytes"] += stop - start
        return ranged(uri, start, stop)

    files.read_range = counted
    names = f"{root}/tars/{{00000..{len(paths) - 1:05d}}}.tar"
    timed("list from S3", members, lambda: sum(1 for _ in inputs.entries(names, LeftOut())))
    whole = sum(path.stat().st_size for path in paths)
    read = f"{asked['bytes'] / 1e6:,.0f} MB of {whole / 1e6:,.0f}"
    print(f"{asked['requests']:,} requests for {read}")


def rates(home: Path) -> None:
    """The same pictures as loose files and in tars, in turns: read alone, and by the noise job."""
    made = [encoded(photo(256, 256, seed=k), "JPEG", quality=90) for k in range(16)]
    for number in range(500):
        path = home / "loose" / f"{number // 125:05d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made[number % 16])
    (home / "tars").mkdir()
    for folder in sorted((home / "loose").iterdir()):
        with tarfile.open(home / "tars" / f"{folder.name}.tar", "w") as tar:
            for path in sorted(folder.iterdir()):
                tar.add(path, path.name)
    seconds: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for number in range(ROUNDS):
        for kind in ("loose", "tars") if number % 2 else ("tars", "loose"):
            listed: list[Entry] = list(inputs.entries(str(home / kind), LeftOut()))
            with ThreadPoolExecutor(8) as pool, measured(seconds["read", kind]):
                list(pool.map(source_of, listed * 4))
            output = home / f"out-{kind}-{number}"
            with measured(seconds["noise", kind]):
                noise(NoiseConfig(images=str(home / kind), output=str(output), save="none"))
            shutil.rmtree(output)
    for what, count in (("read", 2000), ("noise", 500)):
        loose, packed = seconds[what, "loose"], seconds[what, "tars"]
        wall, cpu = ([min(one[k] for one in of) for of in (loose, packed)] for k in (0, 1))
        ratios = [one[0] / other[0] for one, other in zip(loose, packed, strict=True)]
        print(
            f"{what:6} loose {count / wall[0]:8,.0f}/s, in tars {count / wall[1]:8,.0f}/s: "
            f"{wall[0] / wall[1]:.2f} of the best, {median(ratios):.2f} the median of rounds, "
            f"{cpu[0] / cpu[1]:.2f} by seconds of a CPU"
        )
    shutil.rmtree(home)


@contextmanager
def measured(seconds: list[tuple[float, float]]) -> Iterator[None]:
    """Append the seconds that a block takes, and those of a CPU: others use this machine too."""
    start, before = time.perf_counter(), time.process_time()
    yield
    seconds.append((time.perf_counter() - start, time.process_time() - before))


if __name__ == "__main__":
    main()
