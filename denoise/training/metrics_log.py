"""What a training says while it runs: JSONL, TensorBoard, MLflow, Weights & Biases, a live line."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from hashlib import blake2b
from importlib.util import find_spec
from tempfile import TemporaryDirectory
from typing import Any

from denoise.errors import SettingsError
from denoise.output.discard import UNFINISHED
from denoise.reports.progress import Progress, words_of_time
from denoise.storage import files, uris
from denoise.storage.uris import join
from denoise.training.recipe import Recipe

Record = dict[str, float]  # what is known of one step
_TRACKERS = ("MLFLOW_", "WANDB_", "DATABRICKS_")  # what the names of their variables begin with


class Recorder:
    """The first worker's record of a run; a context manager. `show` is given every record."""

    def __init__(
        self,
        output: str,
        recipe: Recipe,
        show: Callable[[Record], Any],
        environment: Mapping[str, str],
    ) -> None:
        self.output, self.recipe, self.show = output, recipe, show
        self.environment = environment
        self.closing = ExitStack()

    def __enter__(self) -> "Recorder":
        from torch.utils.tensorboard import SummaryWriter

        with self.closing as closing:
            # TensorBoard writes to disks only; what a killed run leaves in the output is swept
            near = None
            if os.path.isdir(self.output):
                near = join(self.output, UNFINISHED)
                os.makedirs(near, exist_ok=True)
            trial = TemporaryDirectory(dir=near)
            self.folder = closing.enter_context(trial)
            self.board = SummaryWriter(self.folder)
            closing.callback(self.board.close)
            os.environ |= self.environment
            self.tracks = [closing.enter_context(of(self)) for of in _trackers()]
            self.closing = closing.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self.closing.__exit__(*raised)

    @property
    def name(self) -> str:
        return uris.name_of(self.output)

    @property
    def id(self) -> str:
        """The same for the same output folder, so that a resumed run goes on in its own records."""
        return blake2b(self.output.encode(), digest_size=8).hexdigest()

    def log(self, record: Record) -> None:
        """A record for all that follow a run as it goes."""
        values = {name: value for name, value in record.items() if name != "step"}
        for name, value in values.items():
            self.board.add_scalar(name, value, int(record["step"]))
        for track in self.tracks:
            track(values, step=int(record["step"]))
        self.show(record)

    def write(self, history: Sequence[Record]) -> None:
        """What the output folder holds of the run so far."""
        lines = "".join(json.dumps(record) + "\n" for record in history)
        files.write(join(self.output, "metrics.jsonl"), lines.encode())
        self.board.flush()
        for name in os.listdir(self.folder):
            with open(os.path.join(self.folder, name), "rb") as file:
                files.write(join(self.output, "tensorboard", name), file.read())


def tracking_variables() -> dict[str, str]:
    """The variables that set up MLflow and Weights & Biases, for a worker on another node.

    Raises SettingsError where one of them is asked for that is not installed.
    """
    for variable, library in (("MLFLOW_TRACKING_URI", "mlflow"), ("WANDB_PROJECT", "wandb")):
        if variable in os.environ and find_spec(library) is None:
            raise SettingsError(
                f"{variable} is set, but {library} is not installed: "
                "pip install 'bulk-denoise[track]'"
            )
    found = {name: value for name, value in os.environ.items() if name.startswith(_TRACKERS)}
    uri = found.get("MLFLOW_TRACKING_URI", "")
    if uri and "://" not in uri and uri != "databricks":
        found["MLFLOW_TRACKING_URI"] = uris.absolute(uri)
    elif match := re.fullmatch(r"sqlite:///([^/].*)", uri):
        found["MLFLOW_TRACKING_URI"] = "sqlite:///" + uris.absolute(match[1])
    return found


def _trackers() -> list[Callable[[Recorder], Any]]:
    """Those that the environment asks for."""
    asked = {"MLFLOW_TRACKING_URI": _mlflow, "WANDB_PROJECT": _wandb}
    return [track for variable, track in asked.items() if variable in os.environ]


@contextmanager
def _mlflow(recorder: Recorder) -> Iterator[Callable[..., Any]]:
    """A run of MLflow, found again by a tag: it gives its runs ids of its own."""
    import mlflow

    query = f"tags.denoise = '{recorder.id}'"
    known = mlflow.search_runs(filter_string=query, output_format="list", max_results=1)
    known_as = {"run_id": known[0].info.run_id} if known else {"run_name": recorder.name}
    with mlflow.start_run(**known_as, tags={"denoise": recorder.id}):
        mlflow.log_params(asdict(recorder.recipe))
        yield mlflow.log_metrics


@contextmanager
def _wandb(recorder: Recorder) -> Iterator[Callable[..., Any]]:
    import wandb

    config = asdict(recorder.recipe)
    with wandb.init(name=recorder.name, id=recorder.id, resume="allow", config=config) as run:
        yield run.log


class Board:
    """Where the first worker writes how far it is, for the driver to show, and any of several what
    a retry would only repeat, for the workers that Ray starts instead."""

    def __init__(self) -> None:
        self.record: Record = {}
        self.failure = ""

    def write(self, record: Record) -> str:
        """Note a record; return what should end the training, if anything."""
        self.record = record
        return self.failure

    def read(self) -> Record:
        return self.record

    def fail(self, failure: str) -> None:
        self.failure = self.failure or failure

    def read_failure(self) -> str:
        return self.failure


@contextmanager
def show_latest(read: Callable[[], Record], progress: Progress) -> Iterator[None]:
    """Show the latest record as it changes; `progress` counts steps."""
    over, last = threading.Event(), 0.0

    def show() -> None:
        nonlocal last
        record = read()
        if record and record["step"] != last:
            last = record["step"]
            progress.update(int(last), words_of(record, progress.total))

    def show_on() -> None:
        while not over.wait(1.0):
            show()

    thread = threading.Thread(target=show_on, daemon=True)
    thread.start()
    try:
        yield
        over.set()
        thread.join()
        show()  # the last one, which came with the end
    finally:
        over.set()
        thread.join()
        progress.end()


def words_of(record: Record, steps: int) -> str:
    """Loss, PSNR, the time left and the rate, each after a comma."""
    quality = ""
    if "psnr" in record:
        quality = f", {record['psnr']:.2f} dB"
    if "psnr_noisy" in record:
        quality += f" (noisy {record['psnr_noisy']:.2f}, start {record['psnr_start']:.2f})"
    left = (steps - int(record["step"])) * record["seconds_per_step"]
    return (
        f", loss {record['loss']:.5f}{quality}, {words_of_time(left)} left, "
        f"{record['images_per_second']:.0f} images/s"
    )
