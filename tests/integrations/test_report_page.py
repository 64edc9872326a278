"""The report page in a real browser: what it shows, what its script does, that it asks for nothing, and how it looks at two widths."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from metaeol_udf.delta.base.run_report import Report
from metaeol_udf.report_page import VectorSample, render_page, write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--v=0",
]  # fmt: skip

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    report = Report("20261122T101112-0a1b2c3d", "f00dfeedf00dfeed", "done", rows_selected=300, rows_embedded=290, rows_failed=10)
    report.failures = {"null_text": 9, "<b>odd</b>": 1}
    report.tokens_computed, report.tokens_saved, report.unique_texts = 42_228, 102_504, 290
    report.seconds = {"select": 8.7, "embed": 57.9, "publish": 2.9, "total": 77.3}
    for n in range(6):
        report.log_wave(1000.0 + 10 * n, 9.5, 40 + n, 7000 + 100 * n, n % 2)
    draw = np.random.default_rng(0)
    vectors = np.vstack([np.eye(24)[i] + draw.normal(scale=0.2, size=(100, 24)) for i in range(3)]).astype(np.float32)
    names = [f"row {n}" for n in range(299)] + ["<img src=x onerror=console.error(1)>"]
    file = tmp_path_factory.mktemp("page") / "page.html"
    write_page(
        render_page(report.as_dict(), "demo: embedding", {"embedding": {"layer": 28}}, VectorSample(names, vectors, 300, True)), file
    )
    return file


def browse(url: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), *QUIET, f"--user-data-dir={folder / 'profile'}", *options, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done


def with_script(page: Path, folder: Path, script: str) -> str:
    """The page in a frame, with a script of the test that looks at it and writes what it finds into the outer page's title."""
    outer = folder / "outer.html"
    frame = json.dumps(page.read_text().replace("Content-Security-Policy", "x-policy")).replace("</", "<\\/")
    outer.write_text(
        f"<iframe id=f style='width:900px;height:900px'></iframe><pre id=out></pre><script>const f=document.getElementById('f');"
        f"f.onload=()=>{{const d=f.contentDocument;document.getElementById('out').textContent=JSON.stringify(({script})(d))}};"
        f"f.srcdoc={frame}</script>"
    )
    dumped = browse(outer.as_uri(), folder, "--virtual-time-budget=5000", "--dump-dom").stdout
    found = re.search(r'<pre id="out">(.*?)</pre>', dumped, re.DOTALL)
    assert found, dumped[-2000:]
    return found.group(1)


def test_the_browser_shows_the_figures_and_runs_the_pages_script_alone(page: Path, tmp_path: Path) -> None:
    dom = browse(page.as_uri(), tmp_path, "--virtual-time-budget=5000", "--dump-dom").stdout
    assert dom.count("<circle") == 300
    assert dom.count("<option") == 300, "the script did not run: its hash does not fit the policy"
    assert dom.count("<rect") == 12
    assert "<img" not in dom
    assert "&lt;b&gt;odd&lt;/b&gt;" in dom
    assert "70.8 %" in dom


def test_choosing_a_row_shows_its_nearest_rows(page: Path, tmp_path: Path) -> None:
    script = """(d) => {
      const find = d.getElementById('find');
      find.value = 'row 7';
      find.dispatchEvent(new Event('input'));
      const shown = {title: d.getElementById('chosen').textContent, near: [...d.querySelectorAll('#near li bdi')].map(e => e.textContent),
        lines: d.querySelectorAll('#links line').length};
      d.querySelectorAll('circle')[150].dispatchEvent(new MouseEvent('click', {bubbles: true}));
      shown.clicked = d.getElementById('chosen').textContent;
      d.dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}));
      shown.left = d.querySelectorAll('#near li, #links line, .chosen').length;
      return shown;
    }"""
    found = json.loads(with_script(page, tmp_path, script))
    assert found["title"] == "row 7"
    assert len(found["near"]) == found["lines"] == 5
    assert all(0 <= int(name.removeprefix("row ")) < 100 for name in found["near"]), "neighbours of another cloud"
    assert found["clicked"] == "row 150"
    assert found["left"] == 0


def test_a_phone_needs_no_scrolling_sideways(page: Path, tmp_path: Path) -> None:
    for width in (360, 390, 768):
        script = f"(d) => {{ f.style.width = '{width}px'; return [d.documentElement.clientWidth, d.documentElement.scrollWidth] }}"
        client, scroll = json.loads(with_script(page, tmp_path, script))
        assert client == width
        assert scroll <= client


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_picture_is_not_blank_and_follows_the_scheme(page: Path, tmp_path: Path, scheme: str) -> None:
    from PIL import Image

    shot = tmp_path / "page.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else ["--blink-settings=preferredColorScheme=1"]
    browse(page.as_uri(), tmp_path, *dark, "--window-size=1200,1600", f"--screenshot={shot}")
    assert shot.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(shot) as picture:
        assert picture.size == (1200, 1600)
        pixels = np.asarray(picture.convert("L"), np.float64)
    assert (pixels[2, 2] > 200) == (scheme == "light")
    assert pixels.std() > 10
    assert len(np.unique(pixels)) > 50
