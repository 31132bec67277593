"""The page in headless Chromium: what a reader clicks, types and sees; nothing is asked of any server."""

import io
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from expunge.report.html import report
from expunge.report.text import legible
from expunge.results.attacked import Column
from expunge.results.measures import Evaluation
from made_facts import attacked, column, evaluation

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
axe_api = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium"),
]

FORGET = [0.9, 0.0, 0.0, 0.3, 0.1, 0.0]
START = evaluation("start", [1.0] * 6, [1.0] * 4)
NEVER = evaluation("never", [0.0] * 6, [1.0] * 4)
NPO = evaluation("npo", FORGET, [1.0, 0.9, 0.1, 1.0])
SIMNPO = evaluation("simnpo", [0.0, 0.0, 0.9, 0.0, 0.0, 0.0], [1.0, 0.1, 1.0, 1.0])


def in_steps(tried: Column, middle: float) -> Column:
    """The same attack, measured before it began and after 5 and 10 steps; the control stays where it ends."""
    assert tried.leak is not None and tried.control is not None
    own, other = tried.leak.values, tried.control.values
    curve = ((0.0, 0.1), (5.0, middle), (10.0, 0.4))
    points = ((0.0,) * len(own), (middle,) * len(own), own)
    return replace(
        tried,
        leak=replace(tried.leak, curve=curve, by_point=points),
        control=replace(tried.control, curve=curve, by_point=(other, other, other)),
    )


TRIED = attacked(
    "npo",
    6,
    column("quantize.nf4", [0.9, 0.5, 0.0, 0.3, 0.1, 0.0], [0.0] * 6, said="rounded"),
    in_steps(column("relearn.forget", [0.0] * 5 + [0.8], [0.0] * 6, said="relearned"), 0.125),
)
WORLD = replace(SIMNPO.samples[0], split="world_facts", question="What is Vellmark's capital?", values={})


class Open:
    """An open page, with what went wrong on it and what it asked for."""

    def __init__(self, context: Any, address: str) -> None:
        self.page = context.new_page()
        self.wrong: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append("a dialog of the browser"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def ready(self) -> "Open":
        self.page.wait_for_selector("html[data-ready]", timeout=20_000)
        return self

    @property
    def shown(self) -> list[str]:
        """The questions in the rows, in order."""
        buttons = self.page.locator("#grid tbody th button")
        return [text.rpartition("?")[0].split("\n")[-1] + "?" for text in buttons.all_inner_texts()]

    @property
    def address(self) -> str:
        return str(self.page.evaluate("location.hash"))

    def rows(self, count: int) -> None:
        """Wait until there are so many rows."""
        sync_api.expect(self.page.locator("#grid tbody tr")).to_have_count(count)

    def choose(self, name: str, text: str) -> None:
        self.page.locator(f"#filters [name={name}]").select_option(label=text)

    def check(self, *addresses: Path) -> None:
        """No message, no error, and no request but for the page itself."""
        assert self.wrong == []
        assert {url.partition("#")[0] for url in self.asked} == {path.as_uri() for path in addresses}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Open]]:
    contexts = []

    def opened(path: Path, fragment: str = "", *, width: int = 1280, height: int = 900, **more: Any) -> Open:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **more))
        return Open(contexts[-1], path.as_uri() + fragment)

    yield opened
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    simnpo = replace(SIMNPO, samples=(*SIMNPO.samples, WORLD))
    path = tmp_path_factory.mktemp("page") / "report.html"
    given = [START, NEVER, NPO, simnpo]
    return report(
        given, path, start="start", retain="never", attacked=[TRIED], histories={"npo": [{"step": 1.0, "loss": 1.0}]}
    )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = random.Random(0)
    n, m = 2000, 3000
    forget, retain = ([draw.random() for _ in range(size)] for size in (n, m))
    tried = attacked("npo", n, *(column(f"attack.{i}", forget, [0.0] * n) for i in range(10)))
    given = [evaluation("start", [1.0] * n, [1.0] * m), evaluation("never", [0.0] * n, [1.0] * m)]
    path = tmp_path_factory.mktemp("large") / "report.html"
    given.append(evaluation("npo", forget, retain, said="long text " * 30 + "{answer}"))
    return report(given, path, start="start", retain="never", attacked=[tried])


def test_buckets_and_filters_choose_rows_and_stand_in_the_address(open_page: Callable[..., Open], made: Path) -> None:
    page = open_page(made).ready()
    assert len(page.shown) == 11 and "11 of 11 facts" in page.page.inner_text("#shown")
    page.page.locator("section.judged:not([hidden]) [data-bucket=leaks]").click()
    assert page.shown == [f"forget question {i}?" for i in (0, 1, 3, 5)]
    assert "bucket=leaks" in page.address
    page.choose("attack", "quantize.nf4")
    assert page.shown == [f"forget question {i}?" for i in (0, 1, 3)] and "attack=0" in page.address
    page.choose("sort", "by worst leak")
    assert page.shown == [f"forget question {i}?" for i in (0, 1, 3)]
    page.choose("bucket", "all")
    page.choose("attack", "any or none")
    page.choose("split", "retain")
    page.choose("sort", "by change")
    assert page.shown[0] == "retain question 2?" and len(page.shown) == 4
    page.page.fill("#filters [type=search]", "QUESTION 1")
    page.rows(1)
    assert page.shown == ["retain question 1?"] and "q=QUESTION+1" in page.address
    # The address alone gives another reader the same rows.
    other = open_page(made, page.address).ready()
    assert other.shown == page.shown
    assert other.page.input_value("#filters [type=search]") == "QUESTION 1"
    page.page.click("#filters button:has-text('Clear')")
    assert len(page.shown) == 11 and page.page.input_value("#filters [type=search]") == ""
    page.check(made)
    other.check(made)


def test_a_cell_opens_what_was_said_side_by_side(open_page: Callable[..., Open], made: Path) -> None:
    page = open_page(made).ready()
    page.page.locator("#grid tbody tr").nth(1).get_by_role("button", name="quantize.nf4: .50, leaks").click()
    dialog = page.page.locator("#detail")
    assert "fact=1" in page.address and "cell=0" in page.address
    assert dialog.locator("h2").inner_text() == "forget question 1?"
    names = [text.split("\n")[0] for text in dialog.locator(".answer").all_inner_texts()]
    assert names == ["start", "never (retain model)", "npo", "npo, quantize.nf4", "retain model, quantize.nf4"]
    attacked_card = dialog.locator(".answer.attacked")
    assert "rounded prompt 1" in attacked_card.inner_text() and "rounded model text 1" in attacked_card.inner_text()
    assert "Recovery: .50 above the control; the threshold is .20: it leaks." in dialog.inner_text()
    # "It is forget answer 1.": the true answer's words are marked, the others shown as differing.
    own = dialog.locator(".answer").nth(2)
    assert own.locator("mark").all_inner_texts() == ["forget", "answer", "1."]
    assert own.locator(".differs").all_inner_texts() == ["It", "is"]
    colors = own.locator(".tokens span:not(.vh)").evaluate_all(
        "all => all.map(e => [e.textContent, e.style.getPropertyValue('--v')])"
    )
    assert colors == [["forget", "0.5"], [" answer 1.", "0.25"], ["■", "1"]]
    dialog.locator("#attack-choice").select_option(label="relearn.forget: .13")
    assert "relearned model text 1" in dialog.inner_text() and "no leak" in dialog.inner_text()
    assert ".13 after step 5" in dialog.inner_text() and "the largest recovery" in dialog.inner_text()
    dialog.locator("#close").click()
    assert not dialog.is_visible() and "fact=" not in page.address
    shared = open_page(made, "#fact=1&cell=0").ready()
    assert shared.page.locator("#detail").is_visible()
    page.check(made)
    shared.check(made)


def test_the_page_of_a_model_that_is_not_judged_shows_it(open_page: Callable[..., Open], tmp_path: Path) -> None:
    path = report([START], tmp_path / "one.html", start="start")
    page = open_page(path).ready()
    assert len(page.shown) == 10 and page.page.locator("#grid thead th").last.inner_text() == "start"
    page.page.locator("#grid tbody td.cell button").first.click()
    tokens = page.page.locator("dialog .tokens span[title]")
    assert tokens.all_inner_texts() == ["forget", " answer 0.", "■"]
    assert tokens.last.get_attribute("title") == "end of the answer, probability 1"
    page.check(path)


def test_the_keyboard_alone_is_enough(open_page: Callable[..., Open], made: Path) -> None:
    page = open_page(made).ready()
    keys, dialog = page.page.keyboard, page.page.locator("#detail")
    keys.press("/")
    assert page.page.evaluate("document.activeElement.type") == "search"
    keys.type("forget")
    page.rows(7)  # the other set's answer holds the word
    page.page.locator("#grid tbody button[tabindex='0']").focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight"):
        keys.press(key)
    assert page.page.evaluate("document.activeElement.getAttribute('aria-label')") == "quantize.nf4: .50, leaks"
    assert page.page.locator("#grid tbody button[tabindex='0']").count() == 1  # one stop of the tabulator
    keys.press("Enter")
    assert dialog.is_visible() and dialog.locator("h2").inner_text() == "forget question 1?"
    keys.press("ArrowDown")
    assert dialog.locator("h2").inner_text() == "forget question 2?"
    keys.press("ArrowRight")
    assert "cell=1" in page.address and "relearned model text 2" in dialog.inner_text()
    keys.press("ArrowUp")
    keys.press("Escape")
    sync_api.expect(dialog).to_be_hidden()
    assert "fact=" not in page.address
    assert page.page.evaluate("document.activeElement.getAttribute('aria-label')") == "quantize.nf4: .50, leaks"
    page.check(made)


def test_runs_are_compared_with_the_pinned_or_another_baseline(open_page: Callable[..., Open], made: Path) -> None:
    page = open_page(made).ready()
    assert "against start: 1 regressed, 2 fixed, 4 still wrong, 3 unchanged" in page.page.inner_text("#shown")
    page.page.click("#tabs button:has-text('simnpo')")
    assert page.page.locator("section.judged:visible .overline").inner_text() == "simnpo"
    assert "Of 6 facts to be forgotten, 5" in page.page.inner_text("section.judged:not([hidden]) h2")
    page.choose("base", "npo")
    # forget: npo leaks 0, 1, 3, 5 and simnpo 2; retain: npo lost 2, simnpo 1.
    assert "against npo: 2 regressed, 5 fixed, 3 unchanged" in page.page.inner_text("#shown")
    page.page.check("#filters [name=differ]")
    assert sorted(page.shown) == [
        *(f"forget question {i}?" for i in (0, 1, 2, 3, 5)),
        "retain question 1?",
        "retain question 2?",
    ]
    page.choose("change", "Regressed")
    assert page.shown == ["forget question 2?", "retain question 1?"]
    assert "model=3" in page.address and "base=2" in page.address and "differ=1" in page.address
    page.check(made)


def test_without_a_script_the_answer_and_the_tables_stand_there(open_page: Callable[..., Open], made: Path) -> None:
    page = open_page(made, java_script_enabled=False).page
    text = page.inner_text("body")
    assert "Of 6 facts to be forgotten, 2 can no longer be drawn out by anything tried. 4 still leak." in text
    assert page.locator("section.judged").count() == 2 and page.locator("section.judged").last.is_visible()
    assert page.locator(".bucket").count() == 8 and page.locator("#attacks table").is_visible()
    assert "switched off here" in text and not page.locator("#explorer").is_visible()
    page.locator("#measures summary").first.click()
    assert page.locator("#measures table").first.is_visible()


@pytest.mark.parametrize("fragment", ["", "#fact=1&cell=0", "#split=retain"])
def test_a_phone_never_scrolls_the_page_sideways(open_page: Callable[..., Open], made: Path, fragment: str) -> None:
    page = open_page(made, fragment, width=390, height=844, has_touch=True).ready().page
    for summary in page.locator("summary").all():
        summary.evaluate("element => element.parentElement.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    if "fact" in fragment:
        inside = page.evaluate(
            "(() => { const d = document.getElementById('detail'); return [d.scrollWidth, d.clientWidth]; })()"
        )
        assert inside[0] == inside[1]
    else:
        page.locator("#grid tbody th button").first.tap()
        assert page.locator("#detail").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("fragment", "width"), [("", 1280), ("#fact=1&cell=0", 1280), ("#bucket=leaks", 390)])
def test_axe_finds_nothing(open_page: Callable[..., Open], made: Path, scheme: str, fragment: str, width: int) -> None:
    # The page's policy keeps out the script of axe, too.
    page = open_page(made, fragment, width=width, color_scheme=scheme, bypass_csp=True).ready().page
    for summary in page.locator("summary").all():
        summary.evaluate("element => element.parentElement.open = true")
    _without_shadows(page)
    results = axe_api.Axe().run(page)
    told = [(one["id"], [node["html"][:200] for node in one["nodes"][:3]]) for one in results.response["violations"]]
    assert told == [] and len(results.response["passes"]) > 15


def test_axe_would_find_something(open_page: Callable[..., Open], made: Path) -> None:
    page = open_page(made, bypass_csp=True).ready().page
    _without_shadows(page)
    for found in (".headline", "#attacks td"):
        page.evaluate(f"document.querySelector('{found}').style.color = '#ddd'")
    (violation,) = axe_api.Axe().run(page).response["violations"]
    assert violation["id"] == "color-contrast" and len(violation["nodes"]) == 2


def _without_shadows(page: Any) -> None:
    """Take away the shadows at the edges of tables: axe gives up on contrast where a ground is no plain color."""
    page.add_style_tag(content=".scroll { background: none !important }")


def test_the_attacks_fit_a_screen_and_a_phone_shows_that_the_table_goes_on(
    open_page: Callable[..., Open], tmp_path: Path
) -> None:
    names = ("prompts.multiple_choice", "relearn.retain", "quantize.q8_0")
    tried = attacked("npo", 6, *(column(name, [0.0123] * 6, [0.0111] * 6) for name in names))
    path = report([START, NEVER, NPO], tmp_path / "r.html", start="start", retain="never", attacked=[tried])
    for width, fits in ((1280, True), (390, False)):
        page = open_page(path, width=width).ready().page
        inner, outer = page.evaluate(
            "(() => { const s = document.querySelector('#attacks .scroll'); return [s.scrollWidth, s.clientWidth]; })()"
        )
        assert (inner <= outer) == fits and page.evaluate("document.documentElement.scrollWidth") == width
        # Above the headings: the right edge is as the ground where the table ends, and darker where it goes on.
        shot = imread(io.BytesIO(page.locator("#attacks .scroll").screenshot()))
        edge, ground = (shot[2, -away, :3].mean() for away in (2, 60))
        assert (ground - edge < 0.02) == fits


def test_five_thousand_facts_are_there_within_a_second(
    open_page: Callable[..., Open], browser: Any, large: Path
) -> None:
    # Processor time of the page's own thread, which other programs on the machine do not lengthen.
    context = browser.new_context()
    blank = context.new_page()
    devtools = context.new_cdp_session(blank)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    blank.goto(large.as_uri())
    blank.wait_for_selector("html[data-ready]")
    took = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
    context.close()
    assert 0 < took["ThreadTime"] < 1
    page = open_page(large).ready()
    assert page.page.locator("#grid tbody tr").count() == 50 and "1–50 of 5000" in page.page.inner_text("#pager")
    page.page.click("#pager button:has-text('Next')")
    assert page.shown[0] == "forget question 50?" and "page=2" in page.address
    began = time.monotonic()
    page.page.fill("#filters [type=search]", "retain question 2999?")
    page.rows(1)
    assert page.shown == ["retain question 2999?"] and time.monotonic() - began < 3
    page.check(large)


HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg onload=document.title='owned'>",
    "\x00\x1b[31m \u202eevil\u2066 \ufeff\u2028",
    "javascript:document.title='owned'",
    "<!--<script>",
    "{{7*7}} ${7*7} &lt;b&gt;",
)


def test_hostile_texts_are_inert(open_page: Callable[..., Open], tmp_path: Path) -> None:
    def bad(of: Evaluation) -> Evaluation:
        samples = [
            replace(s, question=f"{text}?", answer=text, generation=text, ends=(1, len(text), len(text)))
            for s, text in zip(of.samples, HOSTILE, strict=False)
        ]
        return replace(of, samples=tuple(samples), label=HOSTILE[0] + of.label)

    tried = attacked("npo", 7, column(HOSTILE[1], [0.9] * 7, [0.0] * 7, said=HOSTILE[0]))
    tried = replace(tried, questions=tuple(f"{text}?" for text in HOSTILE), label=HOSTILE[0] + "npo")
    given = [
        bad(evaluation("start", [1.0] * 7)),
        bad(evaluation("npo", [0.9] * 7)),
        bad(evaluation("other", [0.1] * 7)),
    ]
    path = tmp_path / "report.html"
    report(given, path, title=HOSTILE[0], start=given[0].label, notes=HOSTILE, attacked=[tried])
    page = open_page(path).ready()
    title = page.page.title()
    assert page.page.locator("#grid tbody tr").count() == 7
    shown = [legible(text).strip()[:20] for text in HOSTILE]
    for i in range(7):
        page.page.evaluate(f"location.hash = 'fact={i}&cell=0'")
        sync_api.expect(page.page.locator("#detail-title")).to_contain_text(shown[i])
        assert page.page.locator("#detail .answer").count() >= 4
    assert page.page.title() == title != "owned"
    assert page.page.locator("img").count() == 0 and page.page.locator("svg[onload]").count() == 0
    assert page.page.locator("script").count() == 2
    text = page.page.evaluate("document.body.textContent")
    assert not any(sign in text for sign in "\x00\x1b\u202e\u2066") and "⟨U+202E⟩" in text
    assert (
        page.page.evaluate(
            "[...document.querySelectorAll('*')].some(e => [...e.attributes].some(a => a.name.startsWith('on')))"
        )
        is False
    )
    page.check(path)


def test_a_script_that_is_not_the_page_s_own_does_not_run(
    open_page: Callable[..., Open], made: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed.html"
    text = made.read_text(encoding="utf-8")
    changed.write_text(
        text.replace("</main>", "<script>document.title='owned'</script><img src='https://x.invalid/a.png'></main>")
    )
    page = open_page(changed).ready()
    assert page.page.title() != "owned"
    assert len(page.wrong) == 2 and all("Content Security Policy" in one for one in page.wrong)


ODD = ["#model=99&base=x&fact=999&page=-3&cell=77&sort=none", "#bucket=%3Cscript%3E", "#made", "#=", "#q=%E0%A4%A"]


@pytest.mark.parametrize("fragment", ODD)
def test_an_odd_address_does_no_harm(open_page: Callable[..., Open], made: Path, fragment: str) -> None:
    page = open_page(made, fragment).ready()
    assert page.page.locator(".headline:visible").count() == 1
    page.check(made)


def test_back_and_an_edited_address_are_followed(open_page: Callable[..., Open], made: Path) -> None:
    page = open_page(made).ready()
    page.page.evaluate("location.hash = 'split=retain'")
    page.rows(4)
    page.page.go_back()
    page.rows(11)
    page.check(made)


def test_on_paper_there_are_no_controls(open_page: Callable[..., Open], made: Path) -> None:
    page = open_page(made).ready().page
    page.emulate_media(media="print")
    for selector in ("#filters", "#tabs", "#pager", ".keys"):
        assert not page.locator(selector).is_visible()
    assert page.locator(".headline:visible").count() == 1 and page.locator("#grid table").is_visible()
    assert len(page.pdf()) > 10_000
