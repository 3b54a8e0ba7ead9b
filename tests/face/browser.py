"""A real daemon whose page a real, headless Chromium looks at: what both need to be started, driven and judged."""

import contextlib
import importlib.resources
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from x0tta6bl4.demo.breaker import ask, break_, free_port

from .live import PATIENCE, child, command, eventually, fetch

CHROMIUM = "/usr/bin/chromium"
PASSWORD = "long enough to be guessed by nobody 7"
SOON = 20_000
"""Milliseconds that the page may take for what it does in one or two when all is well."""

CONFIG = """\
state_dir: state
lock_file: daemon.lock
logging: {{format: json}}
mapek: {{interval: 1s}}
status: {{port: {port}, rate_limit_per_minute: {rate}}}
guard: {{allow: [process.*]}}
"""
CARE = """\
subjects:
  sample:
    process:
      command: ["${{python}}", -m, x0tta6bl4.demo.victim, --port, "{sample}"]
      on_exit: stop
    work: http://127.0.0.1:{sample}/work
    mode: auto
  asked:
    process:
      command: ["${{python}}", -m, x0tta6bl4.demo.victim, --port, "{asked}"]
      on_exit: stop
    work: http://127.0.0.1:{asked}/work
    mode: approve
"""


@dataclass
class House:
    """A daemon with operators, that can be stopped and started again where it was."""

    folder: Path
    config: str
    port: int = field(default_factory=free_port)
    sample: int = field(default_factory=free_port)
    asked: int = field(default_factory=free_port)
    rate: int = 100_000
    cookies: dict[str, list[Any]] = field(default_factory=dict)
    """Of a session that each operator has open already: signing in is made slow on purpose."""
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def make(self) -> None:
        self.folder.mkdir()
        text = CONFIG.format(port=self.port, rate=self.rate) + self.config.format(sample=self.sample, asked=self.asked)
        (self.folder / "daemon.yaml").write_text(text, encoding="utf-8")
        (self.folder / "password").write_text(PASSWORD + "\n", encoding="utf-8")

    def add_operator(self, name: str, scope: str) -> None:
        told = command(self.folder, "operators", "add", name, "--scope", scope, "--password-file", "password")
        assert name in told, told

    def start(self) -> None:
        log = self.folder / "daemon.log"
        command = [sys.executable, "-m", "x0tta6bl4", "run", "--config", "daemon.yaml"]
        process: subprocess.Popen[bytes] = self._open.enter_context(child(command, log))

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            return fetch(self.port, "/readyz")[0] == 200

        eventually("the daemon answers", is_ready)

    def stop(self) -> None:
        self._open.close()

    def told(self, path: str) -> Any:
        status, body = fetch(self.port, path, headers=self.token())
        assert 200 == status, body
        return json.loads(body)

    def do(self, method: str, path: str, **said: Any) -> Any:
        headers = {"Content-Type": "application/json", **self.token()}
        status, body = fetch(self.port, path, method, json.dumps(said), headers)
        assert 200 <= status < 300, body
        return json.loads(body or "null")

    def token(self) -> Mapping[str, str]:
        token = (self.folder / "state" / "operator.token").read_text(encoding="utf-8").strip()
        return {"Authorization": f"Bearer {token}"}

    def break_(self, port: int, kind: str) -> None:
        eventually("the service works", lambda: ask(port).status == 200)
        break_(port, kind)

    def healed(self) -> str:
        """The id of an incident that is over; when there is none yet, one is made and waited for."""

        def over() -> Any:
            incidents = self.told("/api/v1/incidents?state=closed&subject=sample")["incidents"]
            return [one["id"] for one in incidents if one["ended"] == "healed"]

        if not over():
            self.break_(self.sample, "kill")
        return str(eventually("a heal", over)[0])


@contextlib.contextmanager
def house(folder: Path, config: str = CARE, rate: int = 100_000, operators: Mapping[str, str] = {}) -> Iterator[House]:
    one = House(folder, config, rate=rate)
    one.make()
    for name, scope in operators.items():
        one.add_operator(name, scope)
    try:
        one.start()
        if "{sample}" in config:
            for port in (one.sample, one.asked):
                eventually("the service works", lambda port=port: ask(port).status == 200, PATIENCE)
        yield one
    finally:
        one.stop()


@dataclass
class Visit:
    """One tab, and all that went through it."""

    page: Any
    url: str
    errors: list[str] = field(default_factory=list)
    """What the console was told as an error, scripts that failed and what the page's policy stopped."""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and address of every request."""
    weighed: dict[str, int] = field(default_factory=dict)
    """Bytes that came over the wire, by address."""

    def go(self, view: str = "") -> None:
        self.page.goto(f"{self.url}#/{view}")
        self.page.locator("h1").wait_for(timeout=SOON)

    def sees(self, text: str, timeout: float = SOON) -> None:
        self.page.get_by_text(text).first.wait_for(timeout=timeout)

    def until(self, claim: str, patience: float = SOON / 1000) -> None:
        """Asked again and again from outside: to wait within the page takes the ``eval`` that its policy forbids."""
        eventually(claim, lambda: self.page.evaluate(claim), patience)

    def settled(self) -> None:
        self.until("!document.querySelector('main').textContent.includes('Loading…')")

    def head(self) -> str:
        return str(self.page.locator(".headline").inner_text())

    def part(self, heading: str) -> Any:
        """The section with that heading; a number in brackets behind it may be whatever it is."""
        return self.page.get_by_role("region").filter(
            has=self.page.get_by_role("heading", name=re.compile(rf"^{heading}( \(\d+\))?$"))
        )

    def card(self, subject: str) -> Any:
        """The question about that subject."""
        return self.page.locator("li.question").filter(has=self.page.get_by_role("link", name=f"{subject}:"))

    def overflow(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def faults(self) -> list[tuple[str, list[str]]]:
        """What axe calls serious or critical. It is run from outside, so the page's policy need not allow it."""
        script = importlib.resources.files("axe_core_python") / "axe.min.js"
        self.page.evaluate(script.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run().then((told) => told.violations)")
        bad = [one for one in found if one["impact"] in ("serious", "critical")]
        return [(one["id"], [node["html"] for node in one["nodes"]]) for one in bad]

    def elsewhere(self) -> list[str]:
        own = urlsplit(self.url).netloc
        return [url for _, url in self.asked if urlsplit(url).netloc != own and not url.startswith("data:")]

    def sign_in(self, name: str, password: str = PASSWORD) -> None:
        self.go("account")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Sign in").click()


WATCH = """
window.stopped = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.stopped.push(event.effectiveDirective);
  console.error("stopped by the policy: " + event.effectiveDirective);
});
"""


@contextlib.contextmanager
def visiting(browser: Any, one: House, who: str = "", *, may_err: bool = False, **context: Any) -> Iterator[Visit]:
    """A browser of its own for somebody; leaving it fails when anything went wrong in the tab, unless that is meant."""
    opened = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **context})
    try:
        if who and who in one.cookies:
            opened.add_cookies(one.cookies[who])
        opened.add_init_script(WATCH)
        visit = tab(opened, one)
        if who and who not in one.cookies:
            visit.sign_in(who)
            visit.page.get_by_role("button", name="Sign out").wait_for(timeout=SOON)
            one.cookies[who] = opened.cookies()
        yield visit
        if not may_err:
            assert [] == visit.errors
        assert [] == visit.elsewhere()
    finally:
        opened.close()


def tab(opened: Any, one: House) -> Visit:
    page = opened.new_page()
    page.set_default_timeout(SOON)
    visit = Visit(page, one.url)
    page.on("console", lambda said: visit.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("request", lambda request: visit.asked.append((request.method, request.url)))

    def came(request: Any) -> None:
        sizes = request.sizes()
        visit.weighed[request.url] = sizes["responseBodySize"] + sizes["responseHeadersSize"]

    page.on("requestfinished", came)
    return visit
