"""Random kill -9 during noise, infer and train, in this process and through Ray, then the count.

python -m tests.bench.chaos [KILLS] [SEED] [SCENE ...]   (200 kills by default, in all six scenes:
    noise-local, infer-local, train-local, noise-ray, infer-ray, train-ray)

Each job works on one output folder; it is killed again and again and started each time, until it is
done. Its rows, image files and weights are compared with those of a job that nothing happened to.
"""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import running
from tests.running import Job, parts_in, rows_of, run, same

IMAGES = 320
TRAIN = {"architecture": "classic", "steps": 400, "save-every": 20, "batch-size": 4, "patch": 16}
PATIENCE = 300  # seconds, after which a job counts as stuck
DRIVER = "driver"
RAY = {"raylet": "raylet/raylet", "gcs": "gcs_server"}  # without them a session ends
WORKER = {"noise": "ray::Map", "infer": "ray::Map", "train": "RayTrainWorker"}
WRONG = ("lost", "twice", "too many", "different", "left behind")


@dataclass(frozen=True)
class Scene:
    """A job through one runner, its share of the kills, and how many of them an output gets."""

    verb: str
    runner: str
    share: int  # of 200
    each: int

    @property
    def name(self) -> str:
        return f"{self.verb}-{self.runner}"


SCENES = (
    Scene("noise", "local", 35, 7),
    Scene("infer", "local", 35, 7),
    Scene("train", "local", 30, 6),
    Scene("noise", "ray", 35, 9),
    Scene("infer", "ray", 40, 10),
    Scene("train", "ray", 25, 9),
)


class Bench:
    """What the scenes share: inputs, results that nothing disturbed, chance, and the count."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home, self.chance = home, random.Random(seed)
        self.found: Counter[str] = Counter()
        self.kills: Counter[tuple[str, str]] = Counter()  # by scene and victim
        self.env = {"TMPDIR": str(home / "tmp")}  # killed sessions of Ray leave their folders
        (home / "tmp").mkdir()
        running.pictures(home / "images", IMAGES, side=96)
        running.pictures(home / "photos", 12, side=32)
        self.model = running.tiny_model(home / "model")
        self.undisturbed: dict[str, Path] = {}

    def flags(self, scene: Scene, output: Path) -> list[str]:
        images = self.home / ("photos" if scene.verb == "train" else "images")
        flags = ["--images", str(images), "--output", str(output)]
        if scene.verb == "train":
            flags += [word for name, value in TRAIN.items() for word in (f"--{name}", str(value))]
        else:
            flags += ["--save", "both"]
        if scene.verb == "infer":
            flags += ["--model", self.model, "--add-noise", "0.1"]
        return [*flags, *(["--workers", "2"] if scene.runner == "ray" else [])]

    def wanted(self, scene: Scene) -> Path:
        """The output of a run that nothing happened to; both runners write the same rows."""
        key = scene.name if scene.verb == "train" else scene.verb
        if key not in self.undisturbed:
            output = self.undisturbed[key] = self.home / f"{key}-undisturbed"
            done = run(scene.verb, *self.flags(scene, output), env=self.env)
            assert done.code == 0, done.err
        return self.undisturbed[key]

    def play(self, scene: Scene, kills: int) -> None:
        """Disturb jobs of a scene until there were so many kills."""
        wanted, number = self.wanted(scene), 0
        while (left := kills - self.of(scene)) > 0:
            output = self.home / f"{scene.name}-{number}"
            before, number = self.of(scene), number + 1
            self.disturb(scene, output, min(scene.each, left))
            words = [*differences(scene.verb, output, wanted), *left_behind(output)]
            self.found.update(word.partition(":")[0] for word in words)
            self.found["outputs"] += 1
            self.found["rows"] += IMAGES if scene.verb != "train" else 0
            tell(f"{scene.name}: {self.of(scene) - before} kills, {words[:3] or 'all the same'}")
            if not words:
                shutil.rmtree(output)
            for session in (self.home / "tmp").iterdir():
                shutil.rmtree(session, ignore_errors=True)

    def of(self, scene: Scene) -> int:
        return sum(count for (name, _), count in self.kills.items() if name == scene.name)

    def disturb(self, scene: Scene, output: Path, kills: int) -> None:
        """Run a job over an output folder, killing something so often, until it is done."""
        end = self.of(scene) + kills
        strike = self.strike_local if scene.runner == "local" else self.strike_ray
        while self.of(scene) < end:
            job = Job(scene.verb, *self.flags(scene, output), env=self.env)
            strike(scene, job, output, end - self.of(scene))
            done = job.done(PATIENCE, patience=1)
            if done.code == 0:
                return
        if scene.runner == "local" and self.chance.random() < 0.75:
            forget_death(output)  # else Ray does the rest
        done = run(scene.verb, *self.flags(scene, output), env=self.env, seconds=PATIENCE)
        assert done.code == 0, done.err

    def strike_local(self, scene: Scene, job: Job, output: Path, _: int) -> None:
        """Kill the one process."""
        self.wait_for_work(scene, job, output, mark_of(output))
        self.kill(scene, job, DRIVER)
        job.process.wait()
        forget_death(output)

    def strike_ray(self, scene: Scene, job: Job, output: Path, most: int) -> None:
        """Kill workers while the driver lives, then maybe the driver or a process of Ray's."""
        last = mark_of(output)
        for _ in range(min(most - 1, self.chance.choice([0, 2, 3, 4]))):
            self.wait_for_work(scene, job, output, last, worker=WORKER[scene.verb])
            self.kill(scene, job, "worker", WORKER[scene.verb])
            last = None  # it is at work
        self.wait_for_work(scene, job, output, last)
        victim = self.chance.choice([DRIVER, DRIVER, *RAY])
        self.kill(scene, job, victim, RAY.get(victim))

    def kill(self, scene: Scene, job: Job, victim: str, name: str | None = None) -> None:
        if job.process.poll() is not None:
            return
        pids = [job.process.pid] if name is None else list(job.processes(name))
        if pids and running.send(self.chance.choice(pids), signal.SIGKILL):
            self.kills[scene.name, victim] += 1

    def wait_for_work(
        self, scene: Scene, job: Job, output: Path, mark: bytes | None, worker: str = ""
    ) -> None:
        """Return at some moment of a job's work: while it starts, in its middle, at its end."""
        end = time.monotonic() + PATIENCE

        def wait(condition: Callable[[], object]) -> None:
            while not condition() and job.process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)

        wait(lambda: mark is None or mark_of(output) not in (b"", mark))
        before, whole = progress(scene.verb, output), 32 if scene.verb != "train" else 20
        more = self.chance.choice([0, 0, 1, 2, 3, 5, whole])
        wait(lambda: progress(scene.verb, output) >= min(before + more, whole))
        if worker:
            wait(lambda: job.processes(worker))
        is_starting = more == 0 and scene.runner == "ray" and not worker
        time.sleep(self.chance.uniform(0, 8 if is_starting else 0.4))


def progress(verb: str, output: Path) -> int:
    """Shards that are done, or lines of a training's record."""
    if verb != "train":
        return parts_in(output)
    metrics = output / "metrics.jsonl"
    return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0


def mark_of(output: Path) -> bytes:
    """What the lock says of its driver; nothing where there is none."""
    try:
        return str(json.loads((output / "_lock.json").read_bytes())["token"]).encode()
    except (OSError, ValueError):
        return b""


def forget_death(output: Path) -> None:
    """Note a run that was killed as one that was interrupted: what dies in this process goes on by
    Ray, and here it shall die in this process again."""
    try:
        record = json.loads((output / "_run.json").read_bytes())
    except OSError:
        return  # it died before
    if record["state"] == "running":
        (output / "_run.json").write_text(json.dumps(record | {"state": "failed"}))


def differences(verb: str, output: Path, wanted: Path) -> list[str]:
    """How a result differs from one that nothing happened to, in words."""
    if verb == "train":
        names = ("model.safetensors", "metrics.jsonl")
        ours, theirs = ({name: trained(one / name) for name in names} for one in (output, wanted))
        return [f"different: {name}" for name in names if ours[name] != theirs[name]]
    words = same(rows_of(output), rows_of(wanted))
    ours, theirs = files_in(output / "images"), files_in(wanted / "images")
    words += [f"lost: images/{name}" for name in theirs.keys() - ours.keys()]
    words += [f"too many: images/{name}" for name in ours.keys() - theirs.keys()]
    both = ours.keys() & theirs.keys()
    return words + [f"different: images/{name}" for name in both if ours[name] != theirs[name]]


def trained(path: Path) -> object:
    """Weights, byte for byte; of the record the steps with their losses and PSNR."""
    if path.suffix != ".jsonl":
        return path.read_bytes()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [(one["step"], one["loss"], one.get("psnr")) for one in records]


def files_in(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def left_behind(output: Path) -> list[str]:
    """What a finished run should have removed or written."""
    names = {path.name for path in output.rglob("*")}
    there = [n for n in names if n in ("_lock.json", "_unfinished") or n.startswith(".denoise-")]
    state = json.loads((output / "_run.json").read_text())["state"]
    missing = [] if (output / "_SUCCESS").exists() and state == "done" else ["no _SUCCESS"]
    return [f"left behind: {name}" for name in (*there, *missing)]


def tell(words: str) -> None:
    print(words, flush=True)


def main() -> None:
    numbers, names = sys.argv[1:3], sys.argv[3:]
    kills, seed = (*map(int, numbers), *(200, 1)[len(numbers) :])
    chosen = [scene for scene in SCENES if scene.name in names or not names]
    start = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="c-", dir="/tmp"))  # short: Ray's sockets lie below it
    bench = Bench(home, seed)
    for scene in chosen:
        bench.play(scene, max(1, round(scene.share * kills / 200)))
    found = bench.found
    tell(f"\n{bench.kills.total()} kills in {time.monotonic() - start:.0f} s, seed {seed}:")
    for (name, victim), count in sorted(bench.kills.items()):
        tell(f"  {count:3} x {victim:8} of {name}")
    counted = ", ".join(f"{word} {found[word]}" for word in WRONG)
    tell(f"{found['outputs']} outputs, {found['rows']} rows compared with undisturbed: {counted}")
    is_wrong = any(found[word] for word in WRONG)
    if is_wrong:
        tell(f"what differs is left under {home}")
    else:
        shutil.rmtree(home)
    sys.exit(is_wrong)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
