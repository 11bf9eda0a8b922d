"""What an output folder's table says: summary.json and report.html.

One pass over the numbers, then the pixels of ten images, one after the other; so it costs the same
memory for ten images and, but for 32 bytes each, for ten million.
"""

import json
from dataclasses import dataclass
from typing import Any

from denoise.errors import SettingsError
from denoise.output import folder
from denoise.reports import page
from denoise.reports.gallery import views_of
from denoise.reports.stats import table_statistics
from denoise.reports.summary import summary_of
from denoise.storage import files, uris
from denoise.storage.uris import join
from denoise.verbs.checks import normalize


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Writes report.html and summary.json of an output folder again."""

    output: str  # the output folder of `noise` or `infer`
    allow_elsewhere: bool = False  # show inputs that lie outside of it, as its manifest names them

    def __post_init__(self) -> None:
        normalize(self)


def report(config: ReportConfig) -> dict[str, Any]:
    """Writes OUTPUT/summary.json and OUTPUT/report.html; the summary is what it returns.

    Raises SettingsError where no job has written a table there.
    """
    uri = uris.absolute(config.output)
    run = folder.run_of(uri)
    if run is None:
        raise SettingsError(f"no output of a job under {uris.redact(uri)} (it has no _run.json)")
    if run.get("verb") == "train":
        raise SettingsError(
            f"{uris.redact(uri)} is the output of `train`: a model package, which has no table to"
            " report on; its numbers are in config.json and README.md there"
        )
    stats = table_statistics(uri)
    summary = summary_of(stats, run)
    files.write(join(uri, "summary.json"), (json.dumps(summary, indent=2) + "\n").encode())
    views = views_of(uri, run, stats, allow_elsewhere=config.allow_elsewhere)
    files.write(
        join(uri, "report.html"), page.page(summary, run, views).encode(errors="backslashreplace")
    )
    return summary
