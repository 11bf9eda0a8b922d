"""Damaged files of every kind through decode, and what came of them.

python -m tests.bench.fuzz [COUNT] [SEED]
"""

import faulthandler
import sys
import time

from tests.test_fuzz import fuzz


def main() -> None:
    count, seed = (*map(int, sys.argv[1:]), *(12_000, 1)[len(sys.argv) - 1 :])
    faulthandler.enable()
    faulthandler.dump_traceback_later(1800, exit=True)
    start = time.perf_counter()
    outcomes, slowest, grown = fuzz(count, seed)
    seconds = time.perf_counter() - start
    print(f"{count} damaged files in {seconds:.0f} s; ", end="")
    print(f"the slowest took {slowest:.2f} s of a CPU; ", end="")
    print(f"the memory grew by {grown / 2**20:.0f} MiB at its peak; nothing else was raised")
    for words, times in outcomes.most_common():
        print(f"{times:8}  {words}")


if __name__ == "__main__":
    main()
