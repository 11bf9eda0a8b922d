"""The report: its numbers are the table's, its page is small, harmless and works in a browser."""

import json
import os
import re
import shutil
from html import unescape
from io import BytesIO

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from denoise import errors
from denoise.images.metrics import mse, psnr
from denoise.images.pairs import PairConfig, errors_of
from denoise.output import manifest, tables
from denoise.output.folder import FORMAT
from denoise.reports.stats import table_statistics
from denoise.reports.views import SheetRow, contact_sheet, sheet_of
from denoise.storage import files, inputs
from denoise.storage.fetch import load_pair
from denoise.storage.found import LeftOut
from denoise.verbs.report import ReportConfig, report
from tests.running import write_part

NASTY = "<b onclick=alert(1)>&\"'.png"


def png(pixels):
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def photograph(seed, height=60, width=90):
    """Something smooth with an edge, [H, W, 3] uint8."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 127 + 90 * np.sin((rows + 3 * seed) / 9)[..., None] * np.cos(columns / 13)[..., None]
    picture = np.repeat(waves, 3, 2) + np.array([20, 0, -20])
    picture[:, width // 2 :] /= 2
    return np.clip(picture, 0, 255).astype(np.uint8)


def noise_row(path, seed, sigma=0.1, **size):
    clean = photograph(seed, **size)
    rough = clean + np.random.default_rng(seed).normal(0, 255 * sigma, clean.shape)
    noisy = np.clip(np.rint(rough), 0, 255).astype(np.uint8)
    error = mse(noisy, clean)
    return {
        "path": path,
        "height": clean.shape[0],
        "width": clean.shape[1],
        "bit_depth": 8,
        "format": "PNG",
        "clean": {"bytes": png(clean), "path": path},
        "noisy": {"bytes": png(noisy), "path": path},
        "sigma": sigma,
        "seed": 0,
        "mse": error,
        "psnr": psnr(error),
        "error": None,
    }


def written(folder, parts, abouts=None):
    """An output folder of `noise` with these rows."""
    run = {
        "format_version": FORMAT,
        "verb": "noise",
        "settings": {"images": "photos", "output": str(folder), "sigma": 0.1, NASTY: NASTY},
        "versions": {"python": "3"},
        "left_out": {"no image": 2},
        "state": "running",
        "seconds": 4.0,
    }
    files.write(f"{folder}/_run.json", json.dumps(run).encode())
    for shard, rows in enumerate(parts):
        about = (abouts or [{}] * len(parts))[shard]
        write_part(str(folder), shard, rows, tables.NOISE_SCHEMA, about)
    return str(folder)


def inferred(folder, photos, **settings):
    """An output folder of `infer` that has removed half of the noise, without a network."""
    listed = inputs.entries(str(photos), LeftOut())
    new = manifest.update(str(folder), listed).new
    assert new is not None
    manifest.cut(str(folder), new)
    wanted = PairConfig(sigma=settings.get("add_noise"))
    for shard in manifest.shards_to_do(str(folder)):
        rows = []
        for entry in shard.entries(str(folder)):
            pair = load_pair(entry, wanted)
            clean = pair.noisy if pair.clean is None else pair.clean
            better = ((pair.noisy.astype(int) + clean) // 2).astype(np.uint8)
            row = pair.about() | {"image": {"bytes": png(better), "path": entry.path}}
            row["mse_noisy"], row["psnr_noisy"] = errors_of(pair.noisy, pair.clean)
            row["mse"], row["psnr"] = errors_of(better, pair.clean)
            rows.append(row)
        write_part(str(folder), shard.number, rows, tables.INFER_SCHEMA, {})
    run = {"format_version": FORMAT, "verb": "infer", "versions": {}}
    run["settings"] = {"model": "half@0", **settings}
    files.write(f"{folder}/_run.json", json.dumps(run).encode())
    return str(folder)


@pytest.fixture
def photos_of_mine(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(12):
        (tmp_path / f"photos/{i}.png").write_bytes(png(photograph(i)))
    return tmp_path / "photos"


def panels_in(folder):
    page = files.read(f"{folder}/report.html").decode()
    return re.findall(r'data-panel="(\w+)"', page)


def failed(path, error):
    return {"path": path, "error": error}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Thirteen images in two folders, two of them broken, with names that would like to be HTML."""
    sigmas = np.linspace(0.02, 0.3, 11)
    rows = [noise_row(f"a/{i}.png", i, s) for i, s in enumerate(sigmas[:6])]
    more = [noise_row(f"b/{i}{NASTY}", i, s, width=300) for i, s in enumerate(sigmas[6:])]
    broken = [failed(f"b/x{NASTY}", f"bad {NASTY}"), failed("b/y.png", f"bad {NASTY}")]
    output = tmp_path_factory.mktemp("report") / "out"
    return written(output, [rows, more + broken])


def test_the_summary_says_what_the_table_says(folder):
    summary = report(ReportConfig(output=folder))
    rows = list(tables.rows(folder, ["psnr", "mse", "error", "height", "width"]))
    values = [row["psnr"] for row in rows if row["error"] is None]
    assert summary == json.loads(files.read(f"{folder}/summary.json"))
    assert (summary["images"], summary["done"], summary["failed"]) == (13, 11, 2)
    assert summary["psnr"]["mean"] == pytest.approx(np.mean(values))
    assert summary["psnr"]["p5"] == pytest.approx(np.percentile(values, 5))
    errors = [row["mse"] for row in rows if row["error"] is None]
    assert summary["psnr_of_mean_mse"] == pytest.approx(psnr(np.mean(errors)))
    assert summary["errors"] == {f"bad {NASTY}": 2}
    assert summary["megapixels"] == pytest.approx((6 * 60 * 90 + 5 * 60 * 300) / 1e6)
    assert summary["images_per_second"] == pytest.approx(11 / 4)


def test_images_of_a_folder_or_a_size_are_counted_together(folder):
    summary = report(ReportConfig(output=folder))
    folders = {group["name"]: group for group in summary["by_folder"]}
    assert {name: group["images"] for name, group in folders.items()} == {"a": 6, "b": 7}
    assert folders["b"]["failed"] == 2
    assert sum(group["images"] for group in summary["by_size"]) == 13
    assert folders["a"]["psnr"] > folders["b"]["psnr"]  # it has less noise


def test_the_histogram_counts_every_measured_image_once(folder):
    histogram = report(ReportConfig(output=folder))["histogram"]
    assert sum(histogram["denoised"]) == 11
    assert len(histogram["edges"]) == len(histogram["denoised"]) + 1


def test_no_name_of_a_file_becomes_html(folder):
    report(ReportConfig(output=folder))
    page = files.read(f"{folder}/report.html").decode()
    assert page.count("<script>") == 1  # our own
    assert NASTY not in page and NASTY in unescape(page)


def test_the_page_loads_nothing_from_anywhere(folder):
    report(ReportConfig(output=folder))
    page = files.read(f"{folder}/report.html").decode()
    assert "default-src 'none'" in page
    sources = re.findall(r"(?:src|href)=\"?([^\s\">]+)", page)
    assert sources and all(source.startswith("data:") for source in sources)


def test_worst_median_and_best_images_are_shown_once_each(folder):
    report(ReportConfig(output=folder))
    page = files.read(f"{folder}/report.html").decode()
    assert [title for title in ("Worst", "Median", "Best") if f"<h2>{title} images" in page]
    shown = re.findall(r"<h3><bdi>(.*?)</bdi></h3>", page)
    assert len(shown) == len(set(shown)) == 10
    assert unescape(shown[0]) == f"b/4{NASTY}" and shown[-3] == "a/0.png"


def test_noise_of_any_size_stays_under_ten_megabytes(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    rows = [noise_row(f"{i:02}.png", i) for i in range(12)]
    for i, row in enumerate(rows):
        row |= {"height": 700, "width": 900, "noisy": {"bytes": png(noise ^ i), "path": "n"}}
        row |= {"clean": {"bytes": png(np.roll(noise, i, 0)), "path": "c"}}
    folder = written(tmp_path / "out", [rows])
    report(ReportConfig(output=folder))
    assert len(files.read(f"{folder}/report.html")) < 10e6


def test_pauses_between_runs_are_no_working_time(tmp_path):
    rows = [[noise_row(f"{i}.png", i)] for i in range(3)]
    day = 86_400.0
    abouts = [
        {"started": 0.0, "ended": 2.0, "seconds": {"decode": 1.5, "noise": 0.5}},
        {"started": 1.0, "ended": 3.0, "seconds": {"decode": 1.0}},
        {"started": day, "ended": day + 1, "seconds": {"decode": 1.0}},
    ]
    summary = report(ReportConfig(output=written(tmp_path / "out", rows, abouts)))
    assert summary["seconds"] == pytest.approx(4.0)
    assert summary["stages"] == {"decode": 3.5, "noise": 0.5}
    spans = summary["throughput"]
    assert sum(span["images_per_second"] for span in spans) * 4 / len(spans) == pytest.approx(3)


def test_denoised_images_are_shown_beside_the_very_noise_they_had(tmp_path, photos_of_mine):
    folder = inferred(tmp_path / "out", photos_of_mine, add_noise=0.1, seed=0)
    summary = report(ReportConfig(output=folder, allow_elsewhere=True))
    assert summary["gain_db"] == pytest.approx(6.0, abs=0.2)  # half of the noise: 20 log10(2)
    assert panels_in(folder) == ["clean", "noisy", "denoised", "difference"] * 10


def test_without_a_reference_some_images_are_shown_and_what_was_removed(tmp_path, photos_of_mine):
    folder = inferred(tmp_path / "out", photos_of_mine)
    summary = report(ReportConfig(output=folder, allow_elsewhere=True))
    assert summary["psnr"] is summary["gain_db"] is summary["histogram"] is None
    assert panels_in(folder) == ["input", "denoised", "removed"] * 4


def test_pairs_that_were_not_kept_are_drawn_again_from_the_inputs(tmp_path, photos_of_mine):
    folder = str(tmp_path / "out")
    new = manifest.update(folder, inputs.entries(str(photos_of_mine), LeftOut())).new
    assert new is not None
    manifest.cut(folder, new)
    for shard in manifest.shards_to_do(folder):
        paths = sorted(entry.path for entry in shard.entries(folder))
        rows = [noise_row(path, 0) | {"clean": None, "noisy": None} for path in paths]
        write_part(folder, shard.number, rows, tables.NOISE_SCHEMA, {})
    run = {"format_version": FORMAT, "verb": "noise", "versions": {}}
    run["settings"] = {"sigma": 0.1, "seed": 0}
    files.write(f"{folder}/_run.json", json.dumps(run).encode())
    report(ReportConfig(output=folder, allow_elsewhere=True))
    assert panels_in(folder) == ["clean", "noisy", "difference"] * 10


def test_a_setting_that_is_no_valid_text_is_written_all_the_same(tmp_path):
    folder = written(tmp_path / "out", [[noise_row("a.png", 1)]])
    run = json.loads(files.read(f"{folder}/_run.json"))
    run["settings"]["images"] = os.fsdecode(b"/in/caf\xe9")
    files.write(f"{folder}/_run.json", json.dumps(run).encode())
    report(ReportConfig(output=folder))
    assert r"/in/caf\udce9" in files.read(f"{folder}/report.html").decode()


def test_inputs_that_are_gone_cost_the_pictures_and_not_the_report(tmp_path, photos_of_mine):
    folder = inferred(tmp_path / "out", photos_of_mine, add_noise=0.1, seed=0)
    shutil.rmtree(photos_of_mine)
    assert report(ReportConfig(output=folder, allow_elsewhere=True))["done"] == 12
    assert panels_in(folder) == []


def test_the_report_of_a_strangers_folder_reads_nothing_outside_of_it(tmp_path, photos_of_mine):
    """Its manifest names a user's own photographs; its table names one of them as a file."""
    folder = inferred(tmp_path / "out", photos_of_mine, add_noise=0.1, seed=0)
    report(ReportConfig(output=folder))
    assert panels_in(folder) == ["denoised"] * 10
    for named in (f"{photos_of_mine}/00.png", f"file://{photos_of_mine}/00.png", "../00.png"):
        rows = [failed("a.png", None) | {"file": named, "mse": 1e-3}]
        write_part(folder, 0, rows, tables.INFER_SCHEMA, {})
        for shard in range(1, 20):
            files.remove(tables.part_uri(folder, shard))
        report(ReportConfig(output=folder))
        assert panels_in(folder) == []


def test_a_manifest_that_is_gone_costs_the_pictures_and_not_the_report(tmp_path, photos_of_mine):
    folder = inferred(tmp_path / "out", photos_of_mine, add_noise=0.1, seed=0)
    shutil.rmtree(tmp_path / "out/_manifest")
    assert report(ReportConfig(output=folder))["done"] == 12
    assert panels_in(folder) == []


def test_the_gain_is_that_of_images_whose_noisy_and_denoised_psnr_are_both_finite(tmp_path):
    errors = [(0.0, 1e-3), (1e-2, 10**-2.8), (1e-2, 0.0)]  # of them the second alone gains: 8 dB
    rows = [
        failed(f"{number}.png", None) | {"mse_noisy": noisy, "mse": denoised}
        for number, (noisy, denoised) in enumerate(errors)
    ]
    folder = written(tmp_path / "out", [[]])
    write_part(folder, 0, rows, tables.INFER_SCHEMA, {})
    assert report(ReportConfig(output=folder))["gain_db"] == pytest.approx(8)


def written_infer(folder, parts, **settings):
    """An output folder of `infer` with these columns of its rows, and no images."""
    for shard, rows in enumerate(parts):
        write_part(str(folder), shard, rows, tables.INFER_SCHEMA, {})
    run = {"format_version": FORMAT, "verb": "infer", "versions": {}}
    run["settings"] = {"model": "unet@0", **settings}
    files.write(f"{folder}/_run.json", json.dumps(run).encode())
    return str(folder)


def changed_row(path, removed, noise_before=None, noise_after=None):
    """A row of `infer` on an image without a reference."""
    about = {"path": path, "height": 10, "width": 10, "bit_depth": 8, "format": "PNG"}
    return about | {
        "removed": removed, "noise_before": noise_before, "noise_after": noise_after
    }  # fmt: skip


def test_more_folders_and_errors_than_one_can_read_are_counted_together(tmp_path):
    rows = [failed(f"{i:04d}/a.png", f"error {i}") for i in range(1200)]
    folder = written_infer(tmp_path / "out", [rows[:700], rows[700:]])
    stats = table_statistics(folder)
    assert sum(group.images for group in stats.folders.values()) == 1200
    assert stats.folders["(other folders)"].images == stats.errors["other errors"] == 200
    assert len(stats.folders) == len(stats.errors) == 1001
    assert stats.examples["error 3"] == ["0003/a.png"]


def test_a_table_in_one_part_or_in_many_has_the_same_statistics(tmp_path):
    rows = [
        noise_row(f"{i % 3}/{i:02}.png", i, 0.1 + i / 100) | {"note": f"n{i % 2}"}
        for i in range(12)
    ]
    rows = sorted([*rows, failed("1/broken.png", "empty file")], key=lambda row: row["path"])
    one, many = (
        table_statistics(written(tmp_path / name, parts))
        for name, parts in (("one", [rows]), ("many", [rows[:5], [], rows[5:6], rows[6:]]))
    )
    assert many.part_rows == [5, 0, 1, 7] and sum(done for done, _ in many.part_work) == 12
    np.testing.assert_array_equal(one.metric("mse"), many.metric("mse"))
    for name in ("images", "failed", "formats", "notes", "errors", "examples"):
        assert getattr(one, name) == getattr(many, name)
    assert one.megapixels == pytest.approx(many.megapixels)
    for name, group in one.folders.items():
        assert group.mean("psnr") == pytest.approx(many.folders[name].mean("psnr"))


def test_a_table_without_the_columns_of_a_verdict_has_none(tmp_path):
    folder = written_infer(tmp_path / "out", [[changed_row("a.png", 0.1)]])
    part = tables.part_uri(folder, 0)
    pq.write_table(pq.read_table(part).drop_columns(["removed", "noise_before", "ssim"]), part)
    summary = report(ReportConfig(output=folder))
    assert summary["changed"] is summary["removed"] is summary["advice"] is None


def test_without_a_reference_the_summary_says_how_much_the_images_changed(tmp_path):
    levels = [9.0, 4.0, 3.9, 1.0, 0.5]
    rows = [changed_row(f"{i}.png", level / 255, 0.02, 0.01) for i, level in enumerate(levels)]
    rows.append(failed("x.png", "empty file"))
    summary = report(ReportConfig(output=written_infer(tmp_path / "out", [rows])))
    changed = summary["changed"]
    assert [changed[name] for name in ("strongly", "slightly", "hardly")] == [2, 2, 1]
    assert set(changed["bounds"]) == {"strongly", "slightly", "hardly"}
    assert summary["removed"]["max"] == 9 / 255
    assert summary["noise_before"]["median"] == 0.02 and summary["noise_after"]["mean"] == 0.01
    assert summary["advice"] is None


@pytest.mark.parametrize(
    ("noise", "settings", "words"),
    [
        (0.3 / 255, {}, "little noise (about 0.3 levels of 255)"),
        (9 / 255, {}, "may be of a kind that unet does not remove"),
        (9 / 255, {"strength": 0.1}, "Try --strength 1, or another --model"),
    ],
)
def test_where_most_hardly_changed_the_summary_says_what_to_try(tmp_path, noise, settings, words):
    rows = [changed_row(f"{i}.png", 0.2 / 255, noise, noise) for i in range(3)]
    summary = report(ReportConfig(output=written_infer(tmp_path / "out", [rows], **settings)))
    assert words in summary["advice"]
    assert words in unescape(files.read(f"{tmp_path}/out/report.html").decode())


def test_an_exact_copy_is_counted_and_spoils_no_mean(tmp_path):
    rows = [noise_row("a.png", 1), noise_row("b.png", 2) | {"mse": 0.0, "psnr": float("inf")}]
    summary = report(ReportConfig(output=written(tmp_path / "out", [rows])))
    assert summary["identical"] == 1
    assert summary["psnr"]["mean"] == pytest.approx(rows[0]["psnr"])
    json.loads(files.read(str(tmp_path / "out/summary.json")), parse_constant=pytest.fail)


@pytest.mark.parametrize("rows", [[], [failed("a.png", "empty file")]])
def test_a_run_without_a_single_good_image_has_a_report_too(tmp_path, rows):
    summary = report(ReportConfig(output=written(tmp_path / "out", [rows])))
    assert summary["done"] == 0 and summary["psnr"] is None
    assert b"<h1>" in files.read(str(tmp_path / "out/report.html"))


def test_a_folder_that_no_job_wrote_is_refused(tmp_path):
    with pytest.raises(errors.SettingsError, match="no output of a job under"):
        report(ReportConfig(output=str(tmp_path)))


def test_the_output_of_a_training_is_refused_for_it_has_no_table(tmp_path):
    run = {"format_version": FORMAT, "verb": "train", "settings": {}}
    files.write(str(tmp_path / "_run.json"), json.dumps(run).encode())
    with pytest.raises(errors.SettingsError, match=r"output of `train`.* has no table"):
        report(ReportConfig(output=str(tmp_path)))
    assert not (tmp_path / "summary.json").exists()


def test_a_contact_sheet_has_a_line_for_each_image():
    clean = photograph(1)
    gray = clean[..., :1].astype(np.uint16) * 257
    rows = [
        SheetRow("a.png", clean, clean, clean, 20.0, 30.0),
        SheetRow("b" * 200, gray, gray, gray, 20.0, 30.0),
    ]
    heights = [len(contact_sheet(rows[:n])) for n in (1, 2)]
    assert heights[1] > 1.8 * heights[0]


def test_labels_of_a_contact_sheet_do_not_reach_into_the_next():
    def sheet(name: str) -> np.ndarray:
        pixels = np.full((64, 64, 3), 255, np.uint8)
        return sheet_of([[(name, pixels)] * 2], side=64)

    between = slice(8 + 64, 8 + 64 + 8)  # columns
    assert (sheet("W" * 300 + ", 41.00 dB")[:, between] == 255).all()
    assert (sheet("41.00 dB")[:, : 8 + 64] < 255).any()


chromium = shutil.which("chromium")


@pytest.mark.skipif(chromium is None, reason="needs Chromium (apt-get install chromium-driver)")
def test_in_a_browser_the_slider_moves_and_nothing_complains(folder):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium, of the dev group")
    report(ReportConfig(output=folder))
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as browser:
        browser.get(f"file://{folder}/report.html")
        at = "return getComputedStyle(document.querySelector('.compare')).getPropertyValue('--at')"
        before = browser.execute_script(at)
        slider = browser.find_element("css selector", ".compare input")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", slider)
        drag = webdriver.ActionChains(browser).click_and_hold(slider)
        drag.move_by_offset(slider.size["width"] // 4, 0).release().perform()
        after = float(browser.execute_script(at).rstrip("%"))
        assert before == "50%" and after == pytest.approx(75, abs=2)
        button = browser.find_element("css selector", '.zoom button[value="4"]')
        browser.execute_script("arguments[0].click()", button)
        zoomed = browser.execute_script(
            "return [...document.querySelector('.image').querySelectorAll('.crops img')]"
            ".map((image) => image.style.transform)"
        )
        assert len(zoomed) == 3 and all(move.startswith("scale(4)") for move in zoomed)
        assert browser.get_log("browser") == []
