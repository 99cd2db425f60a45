"""The server's page in headless Chromium: tokens come with their chances, and nothing is run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium_harness import Chromium, find_chromium
from experiment_harness import TinyRun
from serve_harness import TOKEN, Server

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="chromium is not installed"),
]

READY = "document.body && document.body.dataset.ready"
STATUS = "document.getElementById('status').textContent"
TOKENS = "[...document.querySelectorAll('#text .token')]"
PROMPT = 'The <script>window.hacked = 1</script> <b onclick="hacked = 1">film</b> &amp;'


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The one browser of these tests."""
    started = Chromium(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def server(
    tiny_run: TinyRun, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The server of the page, which asks for a token."""
    folder = tmp_path_factory.mktemp("serve")
    (folder / "tokens").write_text(f"{TOKEN}\n")
    options = (f"--token-file={folder / 'tokens'}", "--max-prompt-tokens=80")
    started = Server(tiny_run.folder, *options, cwd=folder, env=environment)
    yield started
    started.stop()
    started.openai.close()


@pytest.fixture
def page(browser: Chromium, server: Server) -> Iterator[Chromium]:
    """The page, open and ready; it must keep quiet and stay at home."""
    visit(browser, server, f"?token={TOKEN}")
    browser.wait_for(READY)
    yield browser
    assert browser.evaluate("window.hacked") is None
    assert browser.complaints() == []
    assert all(url.startswith(server.url) for url in browser.requests())


def visit(browser: Chromium, server: Server, query: str) -> None:
    """Open the server's page anew."""
    browser.call("Page.navigate", url="about:blank")
    browser.wait_for("location.protocol === 'about:'")
    browser.events.clear()
    browser.resize(1280)
    browser.call("Page.navigate", url=f"{server.url}{query}")
    browser.wait_for("location.protocol === 'http:' && document.readyState === 'complete'")


def fill(browser: Chromium, **values: object) -> None:
    """Type into fields."""
    for name, value in values.items():
        browser.evaluate(f"document.getElementById('{name}').value = {json.dumps(str(value))}")


def click(browser: Chromium, name: str) -> None:
    """Click a button."""
    browser.evaluate(f"document.getElementById('{name}').click()")


def wait_for_runs(browser: Chromium, count: int) -> None:
    """As many texts have come to their end."""
    browser.wait_for(f"document.body.dataset.runs === '{count}'")


def test_tokens_come_with_their_chances(page: Chromium, server: Server) -> None:
    assert page.evaluate("document.getElementById('top_k').value") == "50"  # the run's own
    page.evaluate("document.getElementById('prompt').focus()")
    page.call("Input.insertText", text=PROMPT)
    fill(page, max_tokens=12, seed=2**64 - 1, temperature=1.2)
    for kind in ("keyDown", "keyUp"):
        key = {"key": "Enter", "windowsVirtualKeyCode": 13, "modifiers": 2}
        page.call("Input.dispatchKeyEvent", type=kind, **key)
    wait_for_runs(page, 1)
    with server.client(TOKEN) as client:
        (choice,) = client.completions.create(
            model=server.name,
            prompt=PROMPT,
            max_tokens=12,
            seed=2**64 - 1,
            temperature=1.2,
            logprobs=8,
            extra_body={"top_k": 50},
        ).choices
    assert page.evaluate("document.getElementById('asked').textContent") == PROMPT
    names = choice.logprobs.tokens
    assert page.evaluate(f"{TOKENS}.map((token) => token.drawn)") == names
    shades = page.evaluate(f"new Set({TOKENS}.map((t) => getComputedStyle(t).background)).size")
    assert shades > 1
    words = page.evaluate(STATUS)
    for part in (f"{len(names)} tokens,", "tokens/s", "first after", "bits a token", "cut off at"):
        assert part in words
    page.evaluate(f"{TOKENS}[3].focus()")
    rows = "[...document.querySelectorAll('#chances div')]"
    assert not page.evaluate("document.getElementById('chances').hidden")
    top = choice.logprobs.top_logprobs[3]
    assert page.evaluate(f"{rows}.length") == len(top)
    assert page.evaluate(f"{rows}.filter((row) => row.className === 'drawn').length") == 1
    percents = page.evaluate(f"{rows}.map((row) => parseFloat(row.lastChild.textContent))")
    assert percents == sorted(percents, reverse=True)
    assert 0 < sum(percents) <= 101
    page.press("Escape")
    assert page.evaluate("document.getElementById('chances').hidden")
    box = page.evaluate(f"(({{x, y}}) => [x + 2, y + 9])({TOKENS}[1].getClientRects()[0])")
    page.move(*box)
    page.wait_for("!document.getElementById('chances').hidden")


def test_stop_and_continue(page: Chromium, server: Server) -> None:
    fill(page, prompt="The", temperature=0, max_tokens=100_000)
    click(page, "generate")
    page.wait_for(f"{TOKENS}.length > 3 && {STATUS}.includes('tokens/s')")
    click(page, "halt")
    wait_for_runs(page, 1)
    assert page.evaluate(STATUS).endswith("; stopped")
    server.wait_until_free()
    fill(page, max_tokens=4)
    page.evaluate("$('asked').textContent = 'The'; written = ' film'")
    click(page, "continue")
    wait_for_runs(page, 2)
    assert page.evaluate("document.getElementById('prompt').value") == "The film"
    assert page.evaluate(f"{TOKENS}.length") == 4


def test_fits_a_phone(page: Chromium) -> None:
    page.resize(360, 640)
    fill(page, prompt="The", max_tokens=40, temperature=0)
    click(page, "generate")
    wait_for_runs(page, 1)
    for place in (0, 20, 39):
        page.evaluate(f"{TOKENS}[{place}].focus()")
        left, right = page.evaluate(
            "(({left, right}) => [left, right])($('chances').getBoundingClientRect())"
        )
        assert 0 <= left < right <= 360
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") == 0


def test_errors_are_in_words(browser: Chromium, server: Server, tmp_path: Path) -> None:
    visit(browser, server, "?token=wrong-horse-battery-staple")
    browser.wait_for("!document.getElementById('access').hidden")
    assert browser.evaluate("$('refusal').textContent") == "the server does not know this token"
    fill(browser, token=TOKEN)
    browser.evaluate("document.querySelector('#access button').click()")
    browser.wait_for(f"{READY} && document.getElementById('access').hidden")
    for number, (values, words) in enumerate(
        (
            ({"seed": "two"}, "the seed must be a whole number, or empty"),
            ({"seed": "", "top_p": 3}, "top_p=3.0 must be above 0"),
            ({"top_p": 1, "prompt": "x?" * 90}, "and at most 80 are allowed"),
        ),
        start=1,
    ):
        fill(browser, **values)
        browser.evaluate("generate()")
        wait_for_runs(browser, number)
        assert words in browser.evaluate(STATUS)
        assert browser.evaluate("$('status').className").endswith("bad")
    assert browser.evaluate("window.hacked") is None
