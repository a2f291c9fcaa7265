"""The catalogue of codes on the server itself: whoever follows `See:` finds the entry, without a login."""

from cloud.manual import slug
from tests.cloud.console.visits import anonymous, reading
from tests.cloud.homes import Api
from tests.support.codes import catalogue


def test_every_code_is_found_where_the_answers_lead_and_nobody_has_to_log_in(api: Api) -> None:
    with anonymous(api) as reader:
        page = reader.get("/docs/troubleshooting.html")
        assert (page.status, page.title) == (200, "Troubleshooting, by code")
        there = {str(it["id"]) for it in page.soup.select("[id]")}
        for kind, codes in catalogue().items():
            assert {slug(f"{kind}-{code}" if kind else code) for code in codes} <= there
        links = {str(it["href"]) for it in page.soup.select("main a")}
        assert {link for link in links if not link.startswith("#")} == {"/"}, "documents that are not here"
        assert {link.removeprefix("#") for link in links - {"/"}} <= there
        assert reader.get("/docs/").path == "/docs/troubleshooting.html"


def test_a_page_that_is_refused_leads_to_its_code(api: Api) -> None:
    with reading(api, "ann") as reader:
        page = reader.get("/devices/nobody", expect=404)
        assert str(page.soup.select("main a")[0]["href"]).endswith("/docs/troubleshooting.html#not_found")
