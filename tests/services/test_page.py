"""The comparison page in a real browser: wide and 390 px, light and dark, on paper."""

import html
import json
import subprocess
from pathlib import Path

import pytest
from support.browser import BROWSER, FLAGS
from support.comparison_runs import QUALITY, candidate, finished

from pneumo.comparison.page import write

pytestmark = pytest.mark.services

# Measured by the browser inside a frame of the given width (a headless window is at least 500 px wide):
# overflow, contrast, text sizes, what the Tab key can reach.
PROBE = """
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const paper = light(rgb(view.getComputedStyle(page.body).backgroundColor));
  const contrast = query => Math.min(...[...page.querySelectorAll(query)].map(node => {
    const ink = light(rgb(view.getComputedStyle(node).color));
    return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
  }));
  const texts = [...page.querySelectorAll('svg text')].filter(node => node.textContent.trim());
  const shown = node => node.getClientRects().length > 0;
  const fits = node => node.getBoundingClientRect().bottom <= frame.clientHeight;
  const folded = page.querySelectorAll('details:not([open])').length;
  const first = {
    answer: fits(page.querySelector('.answer')), ranking: fits(page.querySelector('.ranking')),
    forest: page.querySelector('#figure-forest svg').getBoundingClientRect().top < frame.clientHeight,
    contents: shown(page.querySelector('.contents')),
  };
  page.querySelector('.contents a[href="#calibration"]').click();
  setTimeout(() => {
  const followed = page.getElementById('calibration').closest('details').open;
  const target = page.getElementById('calibration').getBoundingClientRect();
  view.dispatchEvent(new Event('beforeprint'));
  const unfolded = page.querySelectorAll('details:not([open])').length;
  view.dispatchEvent(new Event('afterprint'));
  const again = page.querySelectorAll('details:not([open])').length;
  for (const fold of page.querySelectorAll('details')) fold.open = true;
  const boxes = [...page.querySelectorAll('main *:not(svg *)')].filter(shown);
  const tables = [...page.querySelectorAll('table')].filter(shown);
  document.title = JSON.stringify({
    paper, dark: view.matchMedia('(prefers-color-scheme: dark)').matches,
    width: page.documentElement.scrollWidth, frame: frame.clientWidth,
    outside: boxes.filter(node => node.getBoundingClientRect().right > frame.clientWidth + 1).length,
    body: contrast('p, td, th, figcaption'), links: contrast('a'), drawn: contrast('svg text'),
    smallest: Math.min(...texts.map(node => node.getBoundingClientRect().height)),
    figures: page.querySelectorAll('figure > svg').length,
    reachable: [...page.querySelectorAll('.scroll')].every(node => node.tabIndex === 0),
    names: [...page.querySelectorAll('.scroll, svg[role=img]')].every(n => n.getAttribute('aria-label')),
    broken: [...page.images].filter(image => image.complete && !image.naturalWidth).length,
    first, folded, followed, unfolded, again, jumped: target.top >= 0 && target.top < frame.clientHeight,
    cut: tables.filter(t => t.scrollWidth > t.parentElement.clientWidth + 1)
      .map(t => t.caption.textContent),
  });
  });
};
frame.srcdoc = PAGE;
"""


@pytest.fixture(scope="module")
def browser() -> str:
    if BROWSER is None:
        pytest.skip("no chromium on this machine")
    return BROWSER


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = [
        candidate(
            model,
            seed,
            quality,
            config={"model.name": model, "optim.lr": 0.001, "data.name": "chest_xray"},
            protocol="test_selected" if seed == 9 else "patient_val",
            history=[
                {
                    "epoch": e,
                    **{f"{s}/{m}": e / 9 for s in ("train", "val") for m in ("accuracy", "f1", "loss")},
                }
                for e in range(1, 6)
            ],
        )
        for model, quality in QUALITY.items()
        for seed in (0, 1, 9)
    ]
    comparison = finished(runs)
    comparison["left_out"] = [{"run": "a run", "reason": "not finished: failed"}]
    return write(tmp_path_factory.mktemp("page"), comparison, {}).folder / "index.html"


def measure(browser: str, page: Path, folder: Path, width: int, dark: bool) -> dict:
    height = 900 if width > 500 else 844
    frame = f'<iframe style="width: {width}px; height: {height}px; border: 0"></iframe>'
    text = json.dumps(page.read_text()).replace("</", "<\\/")
    file = folder / "probe.html"
    file.write_text(f"<!doctype html><title>-</title>{frame}<script>const PAGE = {text};{PROBE}</script>")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    line = [browser, *FLAGS, scheme, f"--user-data-dir={folder}/profile", "--virtual-time-budget=8000"]
    line += ["--window-size=1450,950", "--dump-dom", file.as_uri()]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title.startswith("{"), done.stderr[-2000:]
    return json.loads(html.unescape(title))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_the_page_reads_well(browser: str, page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    seen = measure(browser, page, tmp_path, width, dark)
    assert seen["dark"] is dark and (seen["paper"] < 0.02) is dark
    assert (seen["width"], seen["frame"], seen["outside"], seen["cut"]) == (width, width, 0, [])
    wide = width == 1400
    assert seen["first"] == {"answer": True, "ranking": True, "forest": True, "contents": wide}
    assert seen["folded"] > 10 and (seen["unfolded"], seen["again"]) == (0, seen["folded"] - 1)
    assert seen["followed"] and (seen["jumped"] or not wide)  # a phone has the folds, not the contents
    assert seen["body"] >= 4.5 and seen["links"] >= 4.5 and seen["drawn"] >= 4.5  # WCAG 2.2, AA
    assert seen["figures"] >= 8 and seen["smallest"] >= 9
    assert seen["reachable"] and seen["names"] and not seen["broken"]


def test_the_page_prints(browser: str, page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    line = [browser, *FLAGS, f"--user-data-dir={tmp_path}/profile", f"--print-to-pdf={paper}", page.as_uri()]
    subprocess.run(line, capture_output=True, check=True, timeout=300)
    assert paper.read_bytes().startswith(b"%PDF")
    assert 4 <= paper.read_bytes().count(b"/Type /Page\n") <= 40
