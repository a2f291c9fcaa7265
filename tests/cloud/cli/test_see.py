"""A request that the server refused ends with the place that explains its code."""

from tests.cloud.cli.offices import Office


def test_a_refused_request_ends_with_the_place_that_explains_it(office: Office) -> None:
    answer = office.call("device", "show", "nobody", expect=1)
    assert answer.out == ""
    last = answer.err.splitlines()[-1]
    assert last.startswith("See: http")
    assert last.endswith(f":{office.port}/docs/troubleshooting.html#not_found")
    as_json = office.call("device", "show", "nobody", "-o", "json", expect=1)
    assert (as_json.out, as_json.err) == ("", answer.err)


def test_what_no_server_refused_has_no_such_line(closed: Office) -> None:
    answer = closed.call("device", "list", expect=1)
    assert "See:" not in answer.err
