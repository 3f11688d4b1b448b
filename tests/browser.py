"""The page of a Django project in a real browser: the Chromium that is installed here."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from playwright.sync_api import Browser, sync_playwright

from tests import servers
from tests.projects import BakedProject
from tests.proxy import Proxy, proxied
from tests.service import Service

COMMANDS = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run the browser, without a window."""
    command = next(filter(None, map(shutil.which, COMMANDS)), None)
    if not command:
        servers.unavailable("no Chromium here: to have it, apt-get install chromium")
    options = ["--disable-gpu", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=command, args=options)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Site:
    """A web server with a worker; each of the ways to it, and from it, can be cut."""

    service: Service
    url: str
    web: Proxy
    broker: Proxy
    results: Proxy | None


@contextlib.contextmanager
def site(project: BakedProject, broker: str, result_backend: str) -> Iterator[Site]:
    """Run the site of an installed project, with servers and a database of its own."""
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(servers.addresses(broker, result_backend))
        service = stack.enter_context(Service(project, env["CELERY_BROKER_URL"], env=env))
        service.env["DATABASE_URL"] = f"sqlite:///{service.directory / 'db.sqlite3'}"
        service.run("uv", "run", "python", "manage.py", "migrate")
        # The worker reaches the servers directly: only the web server's ways are cut.
        ways, given = {}, {}
        for name, url in env.items():
            port = urlsplit(url).port
            ways[name] = stack.enter_context(proxied(port))
            given[name] = url.replace(f":{port}/", f":{ways[name].port}/")
        port = urlsplit(service.web(given)).port
        web = stack.enter_context(proxied(port))
        service.worker()
        yield Site(
            service,
            f"http://127.0.0.1:{web.port}/",
            web,
            ways["CELERY_BROKER_URL"],
            ways.get("CELERY_RESULT_BACKEND"),
        )
