"""Roles, rules and limits, as pure functions; passwords as they are kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.access.deciding import decide
from cloud.access.limits import RateLimit
from cloud.access.passwords import MIN_PASSWORD, hash_password, verify
from cloud.access.roles import EVERYTHING, Caller, Role, Scope
from cloud.access.rules import RULES, Rule, Subject
from cloud.store.errors import InvalidError

ROLES = st.sampled_from(Role)
PRODUCTS = st.sampled_from(["pump", "thermostat", EVERYTHING])
GRANTS = st.dictionaries(PRODUCTS, ROLES)
SCOPES = st.builds(Scope, role=ROLES, product=PRODUCTS)


@given(GRANTS, SCOPES, PRODUCTS, ROLES)
def test_a_token_may_never_do_what_its_person_may_not_nor_what_its_scope_does_not_say(
    grants: dict[str, Role], scope: Scope, product: str, role: Role
) -> None:
    person, shown = Caller(name="ann", grants=grants), Caller(name="ann", grants=grants, scope=scope, token="t")
    if shown.may(role, product):
        assert person.may(role, product)
        assert scope.role.covers(role)
        assert scope.product in (EVERYTHING, product)


@given(GRANTS, SCOPES, PRODUCTS, ROLES, ROLES)
def test_who_may_what_a_role_may_may_what_every_lower_one_may(
    grants: dict[str, Role], scope: Scope, product: str, role: Role, lower: Role
) -> None:
    caller = Caller(name="ann", grants=grants, scope=scope)
    if role.covers(lower) and caller.may(role, product):
        assert caller.may(lower, product)
        assert caller.may_anywhere(lower)


@given(GRANTS, SCOPES)
def test_who_may_look_at_all_products_has_no_list_of_them(grants: dict[str, Role], scope: Scope) -> None:
    caller = Caller(name="ann", grants=grants, scope=scope)
    for product in ("pump", "thermostat"):
        seen = caller.products is None or product in caller.products
        assert seen == (caller.role_for(product) is not None)


def test_a_role_for_one_product_is_none_for_another_nor_for_the_server() -> None:
    ann = Caller(name="ann", grants={"pump": Role.ADMIN})
    rule = Rule(Role.VIEWER, Subject.PRODUCT)
    assert decide(rule, ann, "pump") is None
    assert decide(rule, ann, None) is None
    why = decide(rule, ann, "thermostat")
    assert why == "this takes the role viewer for product thermostat, and ann has no role there"
    assert "for the server" in (decide(Rule(Role.VIEWER, Subject.SERVER), ann, EVERYTHING) or "")


def test_an_operation_without_a_rule_is_for_nobody() -> None:
    root = Caller(name="root", grants={EVERYTHING: Role.ADMIN})
    assert decide(None, root, EVERYTHING) is not None
    assert decide(None, root, None, own=True) is not None


@pytest.mark.parametrize(
    ("operation", "body", "role"),
    [
        ("patch_release", {"enabled": False}, Role.OPERATOR),
        ("patch_release", {"enabled": True}, Role.RELEASE_MANAGER),
        ("patch_release", {"enabled": False, "percentage": 100}, Role.RELEASE_MANAGER),
        ("patch_release", {}, Role.RELEASE_MANAGER),
        ("patch_release", {"enabled": 0, "forced": True}, Role.RELEASE_MANAGER),
        ("create_ota", {"version": "1.0.0"}, Role.OPERATOR),
        ("create_ota", {"version": "1.0.0", "forced": False}, Role.OPERATOR),
        ("create_ota", {"version": "1.0.0", "forced": True}, Role.RELEASE_MANAGER),
        ("create_ota", {"version": "1.0.0", "forced": "on"}, Role.RELEASE_MANAGER),
        ("accept_metadata", {"roles": {"pump": "{}"}}, Role.RELEASE_MANAGER),
        ("accept_metadata", {"root": "{}", "roles": {}}, Role.ADMIN),
        ("accept_metadata", {"targets": "{}"}, Role.ADMIN),
    ],
)
def test_what_the_body_says_can_take_another_role(operation: str, body: dict[str, object], role: Role) -> None:
    assert RULES[operation].role_for(body) is role


# Limits


@given(st.lists(st.floats(0, 100), max_size=60))
def test_nobody_gets_more_tries_than_there_are_for_the_time(gaps: list[float]) -> None:
    limit, now, taken = RateLimit(3, 0.5), 0.0, 0
    for gap in gaps:
        now += gap
        taken += limit.allow("a", now)
        assert taken <= 3 + now * 0.5 + 1e-6


def test_who_waits_as_long_as_was_said_may_try_again() -> None:
    limit = RateLimit(2, 0.1)
    assert [limit.wait_s("a", 0.0), limit.wait_s("a", 0.0)] == [0, 0]
    wait = limit.wait_s("a", 0.0)
    assert wait == pytest.approx(10)
    assert not limit.allow("a", wait - 0.1)
    assert limit.allow("a", wait)
    assert limit.allow("b", 0.0), "somebody else's tries are their own"


def test_a_look_takes_no_try_and_a_count_takes_one_that_is_not_there() -> None:
    limit = RateLimit(1, 1.0)
    assert [limit.peek_s("a", 0.0) for _ in range(5)] == [0] * 5
    for _ in range(2):
        limit.count("a", 0.0)
    assert limit.peek_s("a", 0.0) == 1


def test_the_memory_of_a_limit_is_bounded_and_forgets_who_came_first() -> None:
    limit = RateLimit(1, 0.001, max_keys=10)
    for number in range(1000):
        assert limit.allow(str(number), 0.0)
    assert len(limit) == 10
    assert not limit.allow("999", 0.0)


def test_a_clock_that_goes_back_gives_no_tries() -> None:
    limit = RateLimit(1, 1.0)
    assert limit.allow("a", 100.0)
    assert not limit.allow("a", 0.0)


# Passwords


def test_a_password_is_kept_as_a_hash_and_nobodys_is_never_right() -> None:
    kept = hash_password("correct horse battery")
    assert kept.startswith("$argon2id$")
    assert "correct" not in kept
    assert verify(kept, "correct horse battery")
    assert not verify(kept, "correct horse batterz")
    assert not verify(None, "nobody has this password")
    assert not verify("what is no hash", "correct horse battery")
    assert not verify(kept, "half a character: \ud800")


@pytest.mark.parametrize("text", ["", "x" * (MIN_PASSWORD - 1), "x" * 1001])
def test_a_password_that_is_too_short_or_endless_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="nothing was changed"):
        hash_password(text)
