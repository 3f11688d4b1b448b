"""The page of a Django project, used as people use it: in a real browser, with a real worker."""

import contextlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.browser import Site, chromium, site
from tests.projects import Bake
from tests.proxy import Way

DEADLINE = 120_000  # milliseconds, as Playwright counts
# Nothing inline, nothing from elsewhere.
POLICY = "default-src 'none'; form-action 'self'; base-uri 'none'; " + "; ".join(
    f"{kind}-src 'self'" for kind in ("script", "style", "img", "connect")
)
# Of a page that is loaded again, nothing is left of it.
LISTEN = """
window.told = [];
const news = document.querySelector("[role=status]");
new MutationObserver(() => told.push(news.textContent)).observe(news, {childList: true});
"""
expect.set_options(timeout=DEADLINE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run one browser for all tests."""
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def of_redis(synced: Bake, browser: Browser) -> Iterator[Site]:  # noqa: ARG001
    """Run a site with Redis for its tasks and their results."""
    answers = {"broker": "redis", "result_backend": "redis"}
    with site(synced(project_type="django", **answers), **answers) as one:
        yield one


@pytest.fixture(scope="module")
def of_rabbitmq(synced: Bake, browser: Browser) -> Iterator[Site]:  # noqa: ARG001
    """Run a site with RabbitMQ for its tasks, and their results in the database."""
    answers = {"broker": "rabbitmq", "result_backend": "database"}
    with site(synced(project_type="django", **answers), **answers) as one:
        yield one


@contextlib.contextmanager
def visiting(browser: Browser, site: Site, *, noise: str = "", **options: Any) -> Iterator[Page]:  # noqa: ANN401
    """Open the page, under a strict policy.

    In the end all requests went to the site, and the console shows nothing but ``noise``.
    """
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(DEADLINE)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))

    def strictly(route: Route) -> None:
        if route.request.is_navigation_request() and route.request.method == "GET":
            answer = route.fetch()
            headers = answer.headers | {"content-security-policy": POLICY}
            route.fulfill(response=answer, headers=headers)
        else:
            route.continue_()

    page.route(site.url, strictly)
    try:
        page.goto(site.url)
        yield page
    finally:
        context.close()
    assert asked
    assert [url for url in asked if not url.startswith(site.url)] == []
    assert [line for line in said if not (noise and re.search(noise, line))] == []


def start(page: Page, name: str) -> None:
    """Press a button."""
    page.get_by_role("button", name=name).click()


def newest(page: Page) -> Locator:
    """Return the row of the job that was started last."""
    return page.locator("tbody tr").first


def send_waiting(site: Site) -> None:
    """Have jobs sent that wait, as beat has it done twice a minute."""
    shell = ("uv", "run", "python", "manage.py", "shell", "--verbosity", "0", "--command")
    site.service.run(*shell, "from jobs.tasks import send_waiting; send_waiting(0)")


def tab_to(page: Page, name: str) -> None:
    """Press Tab until a button has the focus."""
    button = page.get_by_role("button", name=name)
    for _ in range(10):
        page.keyboard.press("Tab")
        if button.evaluate("button => button === document.activeElement"):
            return
    pytest.fail(f"Tab does not reach {name}")


@pytest.mark.parametrize("which", ["of_redis", "of_rabbitmq"])
def test_jobs_are_started_by_keyboard_and_seen_to_end_without_a_reload(
    request: pytest.FixtureRequest, browser: Browser, which: str
) -> None:
    with visiting(browser, request.getfixturevalue(which)) as page:
        page.evaluate(LISTEN)
        tab_to(page, "A slow one")
        page.keyboard.press("Enter")
        bar = page.get_by_role("progressbar", name="Progress of report(10)")
        expect(bar).to_be_visible()
        seen = bar.get_attribute("value")
        expect(bar).not_to_have_attribute("value", str(seen))
        expect(page.get_by_role("button", name="A slow one")).to_be_focused()

        tab_to(page, "One that fails")
        page.keyboard.press("Enter")
        failed = page.get_by_role("row", name="report(0)")
        expect(failed).to_contain_text(re.compile(r"Failed\s+A report has at least one page\."))
        slow = page.get_by_role("row", name="report(10)")
        expect(slow).to_contain_text(re.compile(r"Done\s+\{'pages': 10\}"))
        tab_to(page, "A quick one")
        page.keyboard.press("Enter")
        expect(page.get_by_role("row", name="add(2, 3)")).to_contain_text(re.compile(r"Done\s+5"))

        # What a screen reader says: each change of a state, and no progress.
        told = " ".join(page.evaluate("told"))
        for change in ("report(10): Running", "report(10): Done", "report(0): Failed"):
            assert told.count(change) == 1, told
        shown = page.get_by_role("table").inner_text()
        page.reload()
        assert page.get_by_role("table").inner_text() == shown


def test_without_javascript_jobs_are_started_and_their_states_are_shown_on_reload(
    browser: Browser, of_redis: Site
) -> None:
    with visiting(browser, of_redis, java_script_enabled=False) as page:
        expect(page.get_by_text("Reload this page")).to_be_visible()
        rows = page.get_by_role("row").count()
        start(page, "A quick one")
        expect(newest(page)).to_contain_text("add(2, 3)")
        while "Done" not in newest(page).inner_text():
            page.reload()
        expect(newest(page)).to_contain_text("5")
        # A reload started nothing.
        assert page.get_by_role("row").count() <= rows + 1


# Counted in the page: what the browser tells of its requests comes too late to count.
# Playwright calls what it evaluates, if that is a function: the last line must not be one.
COUNT = """
window.asked = 0;
const ask = window.fetch;
window.fetch = (...words) => { asked += 1; return ask(...words); };
window.look = (seen) => {
  Object.defineProperty(document, "hidden", {value: !seen, configurable: true});
  document.dispatchEvent(new Event("visibilitychange"));
};
null;
"""


def test_the_page_asks_only_while_a_job_runs_and_somebody_looks(
    browser: Browser, of_redis: Site
) -> None:
    with visiting(browser, of_redis) as page:
        page.evaluate(COUNT)
        page.clock.install()
        start(page, "A quick one")
        expect(newest(page)).to_contain_text("Done")
        expect(page.locator("#jobs .open")).to_have_count(0)  # nor one of another test
        asked = page.evaluate("asked")
        assert asked >= 1
        page.clock.fast_forward(60_000)
        assert page.evaluate("asked") == asked

        start(page, "A slow one")
        expect(newest(page).get_by_role("progressbar")).to_be_visible()
        page.evaluate("look(false)")
        asked = page.evaluate("asked")
        page.clock.fast_forward(60_000)
        assert page.evaluate("asked") == asked
        page.evaluate("look(true)")
        assert page.evaluate("asked") == asked + 1


def test_a_job_waits_while_the_broker_is_down(browser: Browser, of_redis: Site) -> None:
    with visiting(browser, of_redis) as page:
        of_redis.broker.set(Way.DOWN)
        start(page, "A quick one")
        expect(page.get_by_role("status")).to_contain_text("add(2, 3): Waiting for the broker")
        waiting = page.locator(f"#{newest(page).get_attribute('id')}")
        expect(waiting).to_contain_text("Waiting for the broker")
        of_redis.broker.set(Way.UP)
        start(page, "A quick one")
        expect(newest(page)).to_contain_text("Done")
        expect(waiting).to_contain_text("Waiting for the broker")
        send_waiting(of_redis)
        expect(waiting).to_contain_text("Done")


def test_a_result_backend_that_is_away_is_named_and_asked_again(
    browser: Browser, of_redis: Site
) -> None:
    assert of_redis.results
    with visiting(browser, of_redis) as page:
        start(page, "A slow one")
        expect(newest(page).get_by_role("progressbar")).to_be_visible()
        of_redis.results.set(Way.DOWN)
        expect(newest(page)).to_contain_text("The result backend cannot be reached")
        expect(newest(page)).to_contain_text("Unknown")
        of_redis.results.set(Way.UP)
        expect(newest(page)).not_to_contain_text("Unknown")


def test_a_web_server_that_is_away_is_named_and_asked_again(
    browser: Browser, of_redis: Site
) -> None:
    with visiting(browser, of_redis, noise="ERR_") as page:
        start(page, "A slow one")
        expect(newest(page).get_by_role("progressbar")).to_be_visible()
        of_redis.web.set(Way.DOWN)
        expect(page.get_by_role("status")).to_contain_text("Cannot load the page")
        of_redis.web.set(Way.UP)
        expect(page.get_by_role("status")).not_to_contain_text("Cannot load the page")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_small_phone_and_has_no_barrier(
    browser: Browser, of_redis: Site, scheme: str
) -> None:
    phone = {"width": 320, "height": 640}
    with visiting(browser, of_redis, viewport=phone, color_scheme=scheme) as page:
        start(page, "One that fails")
        expect(newest(page)).to_contain_text("Failed")
        start(page, "A slow one")
        expect(newest(page).get_by_role("progressbar")).to_be_visible()
        of_redis.broker.set(Way.DOWN)
        start(page, "A quick one")
        expect(newest(page)).to_contain_text("Waiting for the broker")
        of_redis.broker.set(Way.UP)
        assert page.evaluate("document.documentElement.scrollWidth") == phone["width"]
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        send_waiting(of_redis)  # a job that waits keeps the pages of other tests asking


def test_the_page_is_gone_when_what_the_readme_names_is_deleted(
    project: Bake, workshop: Path
) -> None:
    made = project(project_type="django", broker="redis", result_backend="database")
    [line] = re.findall(r"For an API only, delete (.+)", made.read("README.md"))
    *names, urls = re.findall(r"`([^`]+)`", line)
    for name in names:
        path = made.path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    kept = [line for line in made.read(urls).splitlines() if "page" not in line]
    (made.path / urls).write_text("\n".join(kept) + "\n", encoding="utf-8")
    ruff = (sys.executable, "-m", "ruff")
    made.run(
        *ruff, "check", "--no-cache", "--fix", urls
    )  # lines that stood around the deleted ones
    made.run(*ruff, "check", "--no-cache")
    made.run(*ruff, "format", "--check", "--no-cache")
    made.run(workshop / "python", "-W", "error", "manage.py", "check")
