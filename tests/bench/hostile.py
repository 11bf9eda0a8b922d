"""What files cost that are made to cost much: seconds and memory of decoding each, in a process.

python -m tests.bench.hostile [PART OF A NAME]
"""

import os
import resource
import sys
import time

from denoise.errors import ImageError
from denoise.images.codec import decode
from tests.hostile import FILES

MOST = 9 << 30  # bytes of address space: what takes more is stopped, for this machine's sake
SECONDS = 40  # of a processor: what takes more is stopped


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, make in FILES.items():
        if wanted in name:
            encoded = make()
            print(
                f"{name:48} {len(encoded) / 2**20:7.2f} MiB  {_in_a_process(encoded)}", flush=True
            )


def _in_a_process(encoded: bytes) -> str:
    """Time, growth of the memory, and what came of it."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MOST, MOST))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        try:
            picture = decode(encoded)
            words = f"{picture.pixels.shape}, {picture.note}"
        except ImageError as error:
            words = str(error)
        seconds = time.perf_counter() - start
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os.write(writing, f"{seconds:7.2f} s {grown / 1024:6.0f} MiB  {words}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answers:
        answer = answers.read().decode()
    status = os.waitpid(process, 0)[1]
    return answer or f"died: status {status}"


if __name__ == "__main__":
    main()
