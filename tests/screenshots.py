"""Pictures of the page and of Flower for the README, in `docs/`: `make screenshots`."""

import re
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from demo import generate, read
from tests import servers
from tests.browser import Site, chromium, site
from tests.proxy import Way

DOCS = Path(__file__).parents[1] / "docs"
DEADLINE = 120_000  # milliseconds
LOGIN = {"username": "admin", "password": "for-these-pictures"}
WINDOW = {"width": 720, "height": 600}
WIDE = {"width": 1200, "height": 420}
PHONE = {"width": 320, "height": 640}


def start(page: Page, name: str, words: str) -> None:
    """Start a job, and wait until the newest one is in the state that a pattern tells."""
    page.get_by_role("button", name=name).click()
    expect(page.locator("tbody tr").first).to_contain_text(re.compile(words))


def picture(page: Page, name: str) -> None:
    """Write a picture of the page, as high as its content."""
    DOCS.mkdir(exist_ok=True)
    height = page.evaluate("Math.ceil(document.querySelector('main').offsetHeight)")
    size = page.viewport_size or WINDOW
    clip = {"x": 0, "y": 0, "width": size["width"], "height": height}
    page.screenshot(path=DOCS / f"page-{name}.png", clip=clip, full_page=True)  # type: ignore[arg-type]


def flower(site: Site) -> str:
    """Start Flower as in development, have it watch the worker, and return its URL."""
    [worker] = [each for each in site.service.processes if "worker" in each.command]
    login = ":".join(LOGIN.values())
    command = ("uv", "run", "python", "dev.py", "flower")
    started = site.service.start(*command, ready=r"Flower: http", env={"FLOWER_BASIC_AUTH": login})
    worker.wait_for("Events of group {task} enabled")
    [url] = re.findall(r"Flower: (http://[\w.:]+)", started.output)
    return str(url)


def pictures(browser: Browser, site: Site) -> None:
    """Go through the states of the page, and see in Flower what has run."""
    expect.set_options(timeout=DEADLINE)
    tasks = f"{flower(site)}/tasks"
    page = browser.new_page(viewport=WINDOW, color_scheme="light")  # type: ignore[arg-type]
    page.goto(site.url)
    picture(page, "start")
    start(page, "A slow one", "Done")
    start(page, "A quick one", "Done")
    start(page, "One that fails", "Failed")
    start(page, "A slow one", r"[3-9] of 10")
    picture(page, "running")
    expect(page.locator("tbody tr").first).to_contain_text("Done")
    picture(page, "done")
    phone = browser.new_page(viewport=PHONE, color_scheme="dark")  # type: ignore[arg-type]
    phone.goto(site.url)
    start(phone, "A slow one", r"[3-9] of 10")
    picture(phone, "phone")
    site.broker.set(Way.DOWN)
    start(page, "A quick one", "Waiting for the broker")
    picture(page, "broker-down")
    watch = browser.new_page(viewport=WIDE, http_credentials=LOGIN)  # type: ignore[arg-type]
    watch.goto(tasks)
    expect(watch.locator("tbody tr")).to_have_count(5)
    while "SUCCESS" not in watch.locator("tbody tr").first.inner_text():
        watch.reload()
        expect(watch.locator("tbody tr")).to_have_count(5)
    watch.screenshot(path=DOCS / "flower.png")


def main() -> None:
    """Write them, or say in one line why that cannot be."""
    with servers.session() as directory:
        try:
            project = generate(read(["project_type=django"]), directory)
            project.sync()
            with chromium() as browser, site(project, "redis", "redis") as one:
                pictures(browser, one)
        except (pytest.skip.Exception, pytest.fail.Exception) as error:
            sys.exit(f"screenshots: {error.msg}")


if __name__ == "__main__":
    main()
