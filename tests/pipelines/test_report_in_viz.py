"""Kedro-Viz shows the top of the report as its preview, in a real browser."""

from __future__ import annotations

import json
import os
import re
import signal
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
MAX_PORT = 49151  # Kedro-Viz refuses higher ones


def _free_port() -> int:
    for port in range(MAX_PORT, 1024, -1):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError("no free port")


@pytest.fixture
def viz(first_run: subprocess.CompletedProcess[str], project: Path, tmp_path: Path) -> Iterator[str]:
    """Serve Kedro-Viz of the finished project; return its address once it answers."""
    port, log = _free_port(), tmp_path / "viz.log"
    words = ["viz", "run", "--no-browser", "--port", str(port), "--env", "tiny"]
    with log.open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "kedro", *words], cwd=project, stdout=output, stderr=output,
            env={**os.environ, "DISABLE_TELEMETRY": "1"}, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(f"{url}/api/main", server, log)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # with the process that serves
        server.wait()


def _open(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(url, timeout=10).read()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < end:
        try:
            _open(url)
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.5)
        else:
            return
    raise TimeoutError(f"Kedro-Viz did not answer (exit code {server.poll()}): {log.read_text()}")


def test_the_preview_of_the_report_looks_like_its_top(viz: str, project: Path) -> None:
    report = next(node["id"] for node in json.loads(_open(f"{viz}/api/main"))["nodes"] if node["name"] == "report")
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
