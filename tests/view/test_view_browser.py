"""The page about runs in headless Chromium: the list, a prompt, the report in its frame; nothing goes wrong unseen."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import made_run
import zoo
from expunge.chat.chat import Chat
from expunge.view.server import Server, View

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
CHROMIUM = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), "")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium"),
]
HOSTILE = "<img src=x onerror=document.title='owned'>"


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A page about a run whose outcome is hostile, and whose models answer."""
    made_run.run(tmp_path / "npo", outcome=HOSTILE, planned_steps=10)
    made_run.evaluation(forget_extraction_strength=0.25).save(tmp_path / "npo-records" / "evaluation.json")
    models = {"npo": (zoo.tiny_model(), zoo.tokenizer())}
    view = View(tmp_path, lambda place: (Chat(models, corpus=zoo.corpus(), max_new_tokens=3), ""))
    with Server(view, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.address
        server.shutdown()
        thread.join()


def test_runs_answers_and_the_report_are_seen(address: str, tmp_path: Path) -> None:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        page = browser.new_page(viewport={"width": 390, "height": 800})
        wrong: list[str] = []
        asked: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        row = page.locator("#runs tr")
        sync_api.expect(row).to_contain_text("npo")
        assert ".250" in row.inner_text() and HOSTILE in row.inner_text() and "owned" not in page.title()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

        page.get_by_label("Prompt").fill(zoo.corpus()["forget"][0].question)
        page.get_by_role("button", name="Ask").click()
        sync_api.expect(page.locator("#answers article")).to_contain_text("probability of the known answer")
        sync_api.expect(page.locator("#known")).to_contain_text(zoo.corpus()["forget"][0].completion)
        sync_api.expect(page.frame_locator("iframe").locator("h1").first).to_be_visible(timeout=20_000)

        made_run.run(tmp_path / "later")  # the page hears of it by itself
        sync_api.expect(row).to_have_count(2, timeout=20_000)
        assert all(url.startswith((address, "data:")) for url in asked)
        assert wrong == []
        browser.close()
