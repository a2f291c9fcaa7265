"""The stream that tells a page to look again."""

import time

from tests.cloud.console.visits import Reader, anonymous, reading
from tests.cloud.homes import Api


def listen(reader: Reader, words: int, api: Api) -> list[str]:
    """What a page hears, while something changes each time that it has heard something."""
    heard: list[str] = []
    with reader.http.stream("GET", "/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("retry"):
                api.backend.changes.bump()
            if line.startswith("event"):
                heard.append(line)
                if len(heard) == words:
                    return heard
                api.backend.changes.bump()
    return heard


def test_a_page_hears_that_something_changed(api: Api) -> None:
    with reading(api) as reader:
        assert listen(reader, 2, api) == ["event: changed"] * 2


def test_what_changed_before_the_page_listened_is_not_missed(api: Api) -> None:
    with reading(api) as reader:
        stream = str(reader.get("/").one("#live")["hx-sse:connect"])
        api.backend.changes.bump()
        with reader.http.stream("GET", stream) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("event"))
            assert next(lines) == "event: changed"


def test_a_busy_fleet_is_told_at_most_once_a_second(api: Api) -> None:
    with reading(api) as reader:
        began = time.monotonic()
        listen(reader, 3, api)
        assert time.monotonic() - began >= 2.0


def test_streams_end_with_the_server(api: Api) -> None:
    with reading(api) as reader, reader.http.stream("GET", "/live") as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("retry")
        api.backend.changes.close()
        assert not any(line.startswith("event") for line in lines)


def test_nobody_listens_who_is_not_logged_in(api: Api) -> None:
    with anonymous(api) as reader:
        answer = reader.http.get("/live")
        assert answer.status_code == 401
        assert answer.headers["HX-Refresh"] == "true"


def test_what_keeps_devices_from_being_served_stands_above_every_page(api: Api) -> None:
    with reading(api) as reader:
        assert not reader.get("/strip").has(".banner")
        object.__setattr__(api.backend, "why_not_ready", lambda: "the broker is not reached")
        assert "the broker is not reached" in reader.get("/").answer.text
        assert reader.get("/strip").has("#health .banner")
