"""The dashboard in a real browser: what it shows, what its buttons change, by pointer, by keyboard, on a
phone; and what it does when nobody answers.

Debian's Chromium, driven by Playwright. Skipped where either is absent.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.looked_at import admin_url, looked_at
from tests.support.scaling import ScaledFastlb
from tests.support.stand_in_admin import StandInAdmin, World

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

SECONDS = 15_000
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 320, "height": 640}
TOKEN = "0123456789abcdef0123456789abcdef"
LOUD = ("warning", "error")
VIEWS = ("overview", "targets", "scaling", "workers", "history")
expect = playwright.expect
expect.set_options(timeout=SECONDS)
Open = Callable[..., "playwright.Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[playwright.Browser]:
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(
            executable_path=CHROMIUM,
            # A sandbox needs namespaces that containers often have not; the pages are our own.
            args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
        )
        yield one
        one.close()


@pytest.fixture
def open_page(browser: playwright.Browser) -> Iterator[Open]:
    """Opens an address; whatever the browser complains of fails the test, and where it may complain
    (`complains`: of refused requests) what breaks the policy of the page's content."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def start(url: str, complains: bool = False, **options: object) -> playwright.Page:
            context = browser.new_context(**({"viewport": DESKTOP} | options))
            stack.callback(context.close)
            context.set_default_timeout(SECONDS)
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))

            def hear(said: playwright.ConsoleMessage) -> None:
                if said.type in LOUD and (not complains or "Security Policy" in said.text):
                    complaints.append(said.text)

            page.on("console", hear)
            page.goto(url)
            return page

        yield start
    assert not complaints, complaints


@pytest.fixture(scope="module")
def stand_in() -> Iterator[StandInAdmin]:
    with StandInAdmin(World()) as one:
        yield one


@pytest.fixture
def quiet_page(open_page: Open, stand_in: StandInAdmin) -> playwright.Page:
    """That is live."""
    page = open_page(stand_in.url)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    return page


@pytest.fixture(scope="module")
def fastlb(run_root: Path) -> Iterator[ScaledFastlb]:
    token = run_root / "token"
    token.touch(0o600)
    token.write_text(TOKEN)
    with looked_at(run_root, "--admin", "127.0.0.1:0", "--admin-token-file", str(token)) as one:
        yield one


def test_a_login_a_drain_and_a_scale(fastlb: ScaledFastlb, open_page: Open) -> None:
    page = open_page(admin_url(fastlb), complains=True)
    for given in ("wrong", TOKEN):
        page.get_by_label("Admin token").fill(given)
        page.get_by_role("button", name="Sign in").click()
        if given == "wrong":
            expect(page.get_by_role("alert")).to_have_text("That is not the token.")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_text("3 / 3")).to_be_visible()
    drain_and_undrain(fastlb, page)
    scale(fastlb, page)


def drain_and_undrain(fastlb: ScaledFastlb, page: playwright.Page) -> None:
    address = next(iter(fastlb.targets("plain")))
    page.get_by_role("link", name="Targets").click()
    page.get_by_role("button", name=f"Actions for {address}").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Drain", exact=True).click()
    asked = page.get_by_role("dialog", name=f"Drain {address}")
    expect(asked).to_contain_text("New requests go to other targets at once")
    assert fastlb.targets("plain")[address]["state"] == "healthy"
    asked.get_by_role("button", name="Drain", exact=True).click()
    fastlb.wait_state(address, "draining")
    expect(page.get_by_role("status").get_by_text("drained")).to_be_visible()
    expect(dialog.get_by_text("draining", exact=True)).to_be_visible()
    dialog.get_by_role("button", name="Undrain").click()
    fastlb.wait_state(address, "healthy")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def scale(fastlb: ScaledFastlb, page: playwright.Page) -> None:
    page.get_by_role("link", name="Auto scaling").click()
    page.get_by_role("button", name="Scale", exact=True).click()
    asked = page.get_by_role("dialog", name="Scale web")
    asked.get_by_label("Desired instances").fill("9")
    asked.get_by_role("button", name="Scale", exact=True).click()
    expect(asked.locator(".problem")).to_contain_text("a whole number from 1 to 3")
    asked.get_by_label("Desired instances").fill("2")
    asked.get_by_role("button", name="Scale", exact=True).click()
    expect(asked).to_have_count(0)
    instances = fastlb.wait_steady(2)
    for id in instances:
        expect(page.get_by_role("row", name=id)).to_contain_text("in service")
    page.get_by_role("link", name="History").click()
    expect(page.get_by_role("region", name="Activity")).to_contain_text("launch")


def test_by_keyboard_alone(quiet_page: playwright.Page) -> None:
    page = quiet_page
    focused = page.locator(":focus")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("Skip to content")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.locator("a", has_text="Targets").first.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("#targets"))
    page.get_by_label("Filter targets").focus()
    page.keyboard.type("10.0.0.3:")
    opener = page.get_by_role("button", name="Actions for 10.0.0.3:9000")
    expect(opener).to_be_visible()
    for _ in range(30):
        page.keyboard.press("Tab")
        if opener.evaluate("one => one === document.activeElement"):
            break
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="10.0.0.3:9000")
    expect(dialog.locator("h2")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("Drain")
    style = focused.evaluate("one => getComputedStyle(one).outlineStyle")
    assert style == "solid", "the focus is not seen"
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(opener).to_be_focused()


def test_a_chart_is_read_by_pointer_and_keys(quiet_page: playwright.Page) -> None:
    chart = quiet_page.get_by_role("img", name="Requests per second")
    figure = quiet_page.locator("figure").first
    expect(figure.locator(".legend-value").first).not_to_have_text("–")
    chart.hover(position={"x": 200, "y": 60})
    expect(figure.locator(".chart-when")).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))
    quiet_page.mouse.move(0, 0)
    expect(figure.locator(".chart-when")).to_have_text("")
    chart.focus()
    quiet_page.keyboard.press("ArrowLeft")
    expect(chart).to_have_attribute("aria-label", re.compile(r"second, \d\d:\d\d:\d\d: 1xx–3xx "))


def test_a_thousand_targets(open_page: Open) -> None:
    with StandInAdmin(World(1000)) as admin:
        page = open_page(f"{admin.url}/#targets", complains=True)
        rows = page.locator("tbody tr")
        expect(rows).to_have_count(100)
        expect(rows.first).to_contain_text("unhealthy")  # the worst come first
        page.get_by_role("button", name="Requests/s").click()
        requests = page.locator("tbody tr td:nth-child(5)").all_inner_texts()
        values = [float(one) for one in requests]
        assert values == sorted(values, reverse=True)
        page.get_by_label("Filter targets").fill("10.0.1.")
        page.get_by_role("button", name="Show all 250").click()
        expect(rows).to_have_count(250)
        page.get_by_label("Filter targets").fill("unhealthy 10.0.3.")
        expect(rows).to_have_count(14)


def test_nothing_moves_each_second(quiet_page: playwright.Page) -> None:
    page = quiet_page
    places = """() => [...document.querySelectorAll("section, figure, .tile, .health")]
        .map((one) => JSON.stringify(one.getBoundingClientRect()))"""
    expect(page.locator("figure .legend-value").first).not_to_have_text("–")
    value = page.locator(".tile-value").first
    row = page.locator("tbody tr").first.element_handle()
    before, first = page.evaluate(places), value.inner_text()
    expect(value).not_to_have_text(first)
    assert page.evaluate(places) == before
    assert row.evaluate("one => one.isConnected"), "the row was made anew"


def test_a_phone_has_it_all(open_page: Open, stand_in: StandInAdmin) -> None:
    page = open_page(stand_in.url, viewport=PHONE, has_touch=True, color_scheme="dark")
    expect(page.get_by_text("Live", exact=True)).to_be_visible()
    nav = page.get_by_label("Views")
    for view in VIEWS:
        nav.get_by_role("link", name=re.compile(view, re.IGNORECASE)).click()
        expect(page.locator("main .card").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], view
    link = nav.get_by_role("link", name="History").bounding_box()
    assert link is not None
    assert link["x"] + link["width"] <= PHONE["width"]


def test_the_colours_are_the_systems_until_they_are_chosen(
    open_page: Open, stand_in: StandInAdmin
) -> None:
    page = open_page(stand_in.url, color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.get_by_role("button", name="Colours: as the system. Change").click()
    light = page.evaluate(colour)
    assert light != dark
    page.reload()
    expect(page.get_by_role("button", name="Colours: light. Change")).to_be_visible()
    assert page.evaluate(colour) == light


def test_no_column_is_all_dashes_and_no_chart_all_empty(open_page: Open) -> None:
    world = World()
    with StandInAdmin(world) as admin:
        page = open_page(admin.url, complains=True)  # of the end
        heads = page.get_by_role("table", name="Listeners").locator("th:visible")
        expect(heads.filter(has_text="p99")).to_have_count(1)
        known = heads.count()
        world.latency_known = False
        expect(heads.filter(has_text="p99")).to_have_count(0)
        assert heads.count() == known - 3
        row = page.get_by_role("table", name="Listeners").get_by_role("row").nth(1)
        expect(row.locator("td:visible")).to_have_count(known - 3)
        for name in ("Workers", "Instances"):
            page.get_by_role("link", name={"Instances": "Auto scaling"}.get(name, name)).click()
            table = page.get_by_role("table", name=name)
            expect(table.locator("th:visible").filter(has_text="p99")).to_have_count(1)
        spans = page.get_by_label("Span of the charts").locator("visible=true").first
        expect(spans.get_by_role("button", pressed=True)).to_have_text("1 hour")
        world.started = time.time() - 60
        page.reload()
        expect(spans.get_by_role("button", pressed=True)).to_have_text("5 minutes")


def test_what_targets_say_is_text_and_what_is_refused_is_said(open_page: Open) -> None:
    world = World()
    world.plain_targets[1] = bad = '<img src=x onerror="document.title=1">'
    with StandInAdmin(world) as admin:
        page = open_page(f"{admin.url}/#targets", complains=True)
        expect(page.get_by_text(bad).first).to_be_visible()
        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_label("Health")).to_contain_text(bad)
        assert page.locator("img").count() == 1  # the brand's own
        page.get_by_role("link", name="Auto scaling").click()
        page.get_by_role("button", name="Scale", exact=True).click()
        asked = page.get_by_role("dialog", name="Scale web")
        world.refusal = "the group is busy"
        asked.get_by_role("button", name="Scale", exact=True).click()
        expect(asked.locator(".problem")).to_have_text("the group is busy")
        world.refusal = ""
        asked.get_by_role("button", name="Scale", exact=True).click()
        expect(asked).to_have_count(0)
    assert len(world.asked) == 2


def test_it_says_when_nobody_answers_comes_back_and_asks_for_the_token(open_page: Open) -> None:
    world = World()
    with StandInAdmin(world) as admin:
        port = int(admin.url.rpartition(":")[2])
        page = open_page(admin.url, complains=True)
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
    expect(page.get_by_text("Disconnected")).to_be_visible()
    expect(page.get_by_role("alert").first).to_contain_text("No connection to the balancer")
    with StandInAdmin(world, port=port):
        expect(page.get_by_text("Live", exact=True)).to_be_visible()
        expect(page.locator("#outage")).to_be_hidden()
        world.locked = True  # the session has ended
        expect(page.get_by_label("Admin token")).to_be_focused()
