"""Kedro-Viz shows the top of the report as its preview, in a real browser."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import CHROMIUM, NO_BROWSER, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
START_S = 180


@pytest.fixture
def viz(first_run: subprocess.CompletedProcess[str], project: Path) -> Iterator[str]:
    """Serve Kedro-Viz of the finished project; return its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["viz", "run", "--no-browser", "--port", str(port), "--env", "tiny"]
    server = subprocess.Popen(
        [sys.executable, "-m", "kedro", *words], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "DISABLE_TELEMETRY": "1"},
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    server.terminate()
    server.wait()


def _nodes(url: str) -> list[dict[str, str]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            return json.loads(opener.open(f"{url}/api/main", timeout=10).read())["nodes"]
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
    raise TimeoutError(f"Kedro-Viz did not answer within {START_S} s.")


def test_the_preview_of_the_report_looks_like_its_top(viz: str, project: Path) -> None:
    report = next(node["id"] for node in _nodes(viz) if node["name"] == "report")
    page = (project / "data/08_reporting/simulated/default/report.html").read_text()
    verdict = re.search(r'class="lead">([^<]+)<', page)[1]
    shown = "document.querySelector('.pipeline-metadata__preview-html')"
    with Browser() as browser:
        browser.open(f"{viz}/?pid=__default__&sid={report}", 1500, 1000)
        browser.wait(f"{shown} !== null", 60)
        assert verdict in browser.run(f"{shown}.textContent")
        assert browser.run(f"{shown}.querySelectorAll('table tr').length") == page.split("<template")[1].count("<tr")
        assert browser.run(f"{shown}.querySelector('img').naturalWidth") > 0
        colours = f"[...{shown}.querySelectorAll('th')].map(e => getComputedStyle(e).color)"
        assert set(browser.run(colours)) == {"rgb(28, 36, 48)"}  # ours on white, not the viewer's own
