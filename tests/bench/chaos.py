"""Random kill -9 of drivers, actors, workers and raylets during infer and noise, then the count.

python -m tests.bench.chaos [KILLS] [SEED]      (30 kills by default; prints what was lost: nothing)

Each job runs over one output folder; it is killed again and again, started again each time, and its
rows are compared with those of a job that nothing happened to.
"""

import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests import running
from tests.running import Job, parts_in, rows_of, run, same

IMAGES = 256
KILLS_A_RUN = 6
VICTIMS = {
    "driver": "jobs.",
    "actor or worker": "ray::Map",
    "any worker or agent": "ray::",
    "raylet": "raylet/raylet",
    "gcs": "gcs_server",
}


def main() -> None:
    kills, seed = (*map(int, sys.argv[1:]), *(30, 1)[len(sys.argv) - 1 :])
    chance = random.Random(seed)
    found: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        home = Path(folder)
        running.pictures(home / "images", IMAGES, side=160)
        flags = {"noise": ["--images", str(home / "images")]}
        model = running.tiny_model(home / "model")
        flags["infer"] = [*flags["noise"], "--model", model, "--add-noise", "0.1"]
        wanted = {}
        for verb in flags:
            assert run(verb, *flags[verb], "--output", str(home / verb)).code == 0
            wanted[verb] = rows_of(home / verb)
        while found["kills"] < kills:
            for verb in flags:
                output = home / f"{verb}-{found['kills']}"
                disturb(verb, [*flags[verb], "--output", str(output)], output, chance, found)
                told = same(rows_of(output), wanted[verb])
                found["rows"] += len(wanted[verb])
                found.update(line.partition(":")[0] for line in told)
                print(f"{verb}: {len(wanted[verb])} rows compared, {told or 'all the same'}")
    print(f"\n{found['kills']} kills in {time.monotonic() - start:.0f} s, seed {seed}:")
    for victim in VICTIMS:
        print(f"  {found[victim]:3} x {victim}")
    words = ("lost", "twice", "too many", "different")
    counted = ", ".join(f"{word} {found[word]}" for word in words)
    print(f"{found['rows']} rows compared with undisturbed runs: {counted}")
    sys.exit(any(found[word] for word in words))


def disturb(
    verb: str, flags: list[str], output: Path, chance: random.Random, found: Counter[str]
) -> None:
    """Runs a job, killing something of it at random times, until it is done."""
    for _ in range(KILLS_A_RUN):
        job = Job(verb, *flags)
        more = chance.choice([0, 0, 1, 2, 4, 8])  # 0: while it starts
        before = parts_in(output)
        while job.process.poll() is None and parts_in(output) < before + more:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 6 if more == 0 else 0.3))
        there = [victim for victim, name in VICTIMS.items() if job.processes(name)]
        victim = chance.choice(there or ["driver"])
        hit = job.process.poll() is None and job.send(signal.SIGKILL, VICTIMS[victim])
        if hit:
            found["kills"] += 1
            found[victim] += 1
        done = job.done(300, patience=1)
        print(
            f"{verb}: {victim if hit else 'nothing'} killed at {parts_in(output)} shards, "
            f"exit code {done.code}",
            flush=True,
        )
        if done.code == 0 and not hit:
            return
    done = run(verb, *flags)
    assert done.code == 0, done.err


if __name__ == "__main__":
    main()
