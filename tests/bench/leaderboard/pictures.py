"""Pictures of the committed board: ``python -m tests.bench.leaderboard.pictures FOLDER [SUITE]``."""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from bench.leaderboard.site import build_site
from tests.bench.leaderboard.boards import RESULTS
from tests.chromium import chromium

SIZES = {1280: 1160, 768: 1160, 360: 1400}
"""Widths and heights, in pixels."""
READY = (
    "return !!document.querySelector('table.dataTable') && !!document.querySelector('#scatter > *')"
)


def main(into: Path, suite: str = "mini-quick") -> None:
    """Opens the page of a suite's protocol in Chromium at three widths and keeps its top."""
    with tempfile.TemporaryDirectory() as folder:
        built = build_site(RESULTS / "leaderboard", Path(folder) / "site")
        page = next(built.index.parent.glob(f"{suite}-*.html"))
        into.mkdir(parents=True, exist_ok=True)
        with chromium() as browser:
            for width, height in SIZES.items():
                picture = seen(browser, page, width, height)
                picture.save(into / f"{suite}-{width}.png", optimize=True)


def seen(browser: Any, page: Path, width: int, height: int) -> Image.Image:
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    WebDriverWait(browser, 120).until(lambda at: at.execute_script(READY))
    browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 1000))")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip})
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    return image.quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
