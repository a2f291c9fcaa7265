"""A reader of pages without scripts: follows links by their text, fills forms in by their labels, and keeps cookies."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import httpx
from bs4 import BeautifulSoup, Tag

from cloud.access.passwords import hash_password
from cloud.access.roles import EVERYTHING, Role
from cloud.tls import no_authority
from tests.cloud.homes import Api

PASSWORD = "correct horse battery staple"


@dataclass
class Page:
    """One page that was answered."""

    reader: Reader
    answer: httpx.Response
    soup: BeautifulSoup = field(init=False)

    def __post_init__(self) -> None:
        self.soup = BeautifulSoup(self.answer.text, "html.parser")

    @property
    def status(self) -> int:
        return self.answer.status_code

    @property
    def path(self) -> str:
        """Where the reader is, with the query."""
        url = self.answer.url
        return url.path + (f"?{url.query.decode()}" if url.query else "")

    @property
    def title(self) -> str:
        found = self.soup.find("h1")
        return text_of(found) if found else ""

    @property
    def text(self) -> str:
        """All that the page says, in one line."""
        return text_of(self.soup.find("main") or self.soup)

    @property
    def said(self) -> str:
        """What the banner says: what was done, or why not."""
        found = self.soup.select_one("main .banner")
        return text_of(found) if found else ""

    def has(self, selector: str) -> bool:
        return self.soup.select_one(selector) is not None

    def one(self, selector: str) -> Tag:
        found = self.soup.select(selector)
        assert len(found) == 1, f"{len(found)} of {selector} in {self.path}"
        return found[0]

    def rows(self, selector: str = "table") -> list[list[str]]:
        """The cells of a table's body, row by row."""
        return [[text_of(cell) for cell in row.find_all("td")] for row in self.soup.select(f"{selector} tbody tr")]

    def cli(self) -> list[str]:
        """The command lines that the page tells."""
        return [text_of(code) for code in self.soup.select(".cli code")]

    def follow(self, text: str) -> Page:
        """Go where the link of this text leads."""
        links = [link for link in self.soup.find_all("a") if text_of(link) == text]
        assert links, f"no link {text!r} in {self.path}: {[text_of(link) for link in self.soup.find_all('a')]}"
        return self.reader.get(urljoin(str(self.answer.url), str(links[0]["href"])))

    def submit(self, button: str, values: Mapping[str, object] | None = None, *, expect: int = 200) -> Page:
        """Fill the form with this button in, by labels, and send it; boxes are ticked with True."""
        form = self._form(button)
        sent = _prefilled(form)
        for label, value in (values or {}).items():
            control = _control(form, label)
            name = str(control["name"])
            is_box, own = control.get("type") == "checkbox", str(control.get("value", "on"))
            sent = [(key, text) for key, text in sent if key != name or (is_box and text != own)]
            if control.get("type") in ("checkbox", "radio"):
                if value:
                    sent.append((name, own))
            else:
                items = value if isinstance(value, list) else [value]
                sent += [(name, str(item)) for item in items]
        pressed = next(it for it in form.find_all("button") if text_of(it) == button)
        if pressed.get("name"):
            sent.append((str(pressed["name"]), str(pressed.get("value", ""))))
        target = urljoin(str(self.answer.url), str(pressed.get("formaction") or form.get("action") or ""))
        return self.reader.send(str(form.get("method", "get")), target, sent, expect=expect)

    def _form(self, button: str) -> Tag:
        found = [
            form for form in self.soup.find_all("form") if any(text_of(it) == button for it in form.find_all("button"))
        ]
        names = [text_of(it) for it in self.soup.find_all("button")]
        assert len(found) == 1, f"{len(found)} forms with the button {button!r} in {self.path}; there are {names}"
        return found[0]


class Reader:
    """One person's browser."""

    def __init__(self, url: str, agent: str = "Mozilla/5.0 (a test)") -> None:
        self.url = url
        self.http = httpx.Client(
            base_url=url, follow_redirects=True, trust_env=False, timeout=60, verify=no_authority()
        )
        self.http.headers["User-Agent"] = agent

    def get(self, path: str, *, expect: int = 200, fragment: bool = False) -> Page:
        """Load a page; as a fragment, the way htmx does."""
        headers = {"HX-Request": "true"} if fragment else {}
        return self._page(self.http.get(path, headers=headers), expect)

    def send(self, method: str, target: str, fields: list[tuple[str, str]], *, expect: int = 200) -> Page:
        if method == "get":
            plain = urlsplit(target)._replace(query="").geturl()
            return self._page(self.http.get(plain, params=httpx.QueryParams(tuple(fields))), expect)
        data: dict[str, list[str]] = {}
        for name, value in fields:
            data.setdefault(name, []).append(value)
        return self._page(self.http.post(target, data=data, headers={"Sec-Fetch-Site": "same-origin"}), expect)

    def log_in(self, name: str, password: str = PASSWORD, *, expect: int = 200) -> Page:
        return self.get("/login").submit("Log in", {"Name": name, "Password": password}, expect=expect)

    def _page(self, answer: httpx.Response, expect: int) -> Page:
        said = BeautifulSoup(answer.text, "html.parser").get_text(" ", strip=True)[:1500]
        assert answer.status_code == expect, f"{answer.request.method} {answer.url}: {answer.status_code} {said}"
        return Page(self, answer)


@contextlib.contextmanager
def reading(api: Api, name: str = "ann", role: Role = Role.ADMIN, product: str = EVERYTHING) -> Iterator[Reader]:
    """A person of a role who is logged in."""
    people = api.backend.store.people
    people.add(name, {product: role}, by="test")
    people.set_password(name, hash_password(PASSWORD), by="test")
    with anonymous(api) as reader:
        reader.log_in(name)
        yield reader


@contextlib.contextmanager
def anonymous(api: Api) -> Iterator[Reader]:
    """Somebody who is not logged in."""
    url = api.http.base_url
    reader = Reader(f"{url.scheme}://{url.host}:{url.port}")
    try:
        yield reader
    finally:
        reader.http.close()


def login_code(api: Api, person: str) -> str:
    """A code that opens the console once as somebody."""
    code = secrets.token_urlsafe()
    api.backend.store.sessions.add_code(hashlib.sha256(code.encode()).hexdigest(), person, lifetime_s=60)
    return code


def text_of(tag: Tag) -> str:
    """What a reader sees of a tag, in one line."""
    return " ".join(tag.get_text(" ", strip=True).split())


def _control(form: Tag, label: str) -> Tag:
    for found in form.find_all("label"):
        said = text_of(found).removesuffix(" (needed)")
        if said == label:
            named = found.get("for")
            control = form.find(id=named) if named else found.find(["input", "select", "textarea"])
            assert isinstance(control, Tag), label
            return control
    raise AssertionError(f"no field {label!r}: {[text_of(it) for it in form.find_all('label')]}")


def _prefilled(form: Tag) -> list[tuple[str, str]]:
    sent: list[tuple[str, str]] = []
    for control in form.find_all(["input", "select", "textarea"]):
        name = control.get("name")
        if not name:
            continue
        if control.name == "select":
            chosen = control.find("option", selected=True) or control.find("option")
            if chosen is not None:
                sent.append((str(name), str(chosen.get("value", text_of(chosen)))))
        elif control.name == "textarea":
            sent.append((str(name), control.get_text()))
        elif control.get("type") in ("checkbox", "radio"):
            if control.has_attr("checked"):
                sent.append((str(name), str(control.get("value", "on"))))
        else:
            sent.append((str(name), str(control.get("value", ""))))
    return sent
