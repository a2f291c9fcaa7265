"""Tokens and certificates in the store: who is let in, how often, and who is not any more."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloud.credentials import CertificateView, TokenDraft
from cloud.pki.authorities import IssuedCertificate, RevokedCertificate
from cloud.pki.requests import CertificateError
from cloud.store.errors import ConflictError, InvalidError, NotFoundError, RefusedError
from cloud.store.store import Store
from cloud.values import OutboxKind
from tests.cloud.store.fleets import ANN, MODEL, ON_SQLITE, PRODUCT, Clock

DAY_S = 24 * 3600


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class Issuer:
    """Certificates in form only, numbered; the store looks at nothing else of them."""

    clock: Clock
    authority: str = "devices-1"
    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, device_id: str) -> IssuedCertificate:
        with self.lock:
            self.count += 1
        now = datetime.fromtimestamp(self.clock.now_s, UTC)
        return IssuedCertificate(
            pem=f"certificate {self.count} of {device_id}".encode(),
            serial=(1 << 150) + self.count,
            not_before=now,
            not_after=now + timedelta(days=90),
            key_sha256="",
            authority=self.authority,
        )


@pytest.fixture
def issuer(clock: Clock) -> Issuer:
    return Issuer(clock)


@pytest.fixture
def enrol(store: Store, issuer: Issuer) -> Callable[..., CertificateView]:
    def enrol(token: str, device_id: str = "pi-1", *, model: str = MODEL, key: str | None = None) -> CertificateView:
        return store.enrolment.enrol(sha256(token), device_id, model, sha256(key or f"key of {device_id}"), issuer)

    return enrol


Enrol = Callable[..., CertificateView]


def add(store: Store, text: str = "one", **facts: Any) -> str:
    return store.enrolment.add(TokenDraft(sha256=sha256(text), product=PRODUCT, **facts), by=ANN).name


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RefusedError) as caught:
        call()
    return caught.value.code


def actions(store: Store) -> list[str]:
    return [row.action for row in store.audit.rows()]


def access_marked(store: Store) -> bool:
    """Whether the broker is to be told; it has been told after this."""
    items = [item for item in store.outbox.take() if item.kind is OutboxKind.ACCESS]
    assert {item.key for item in items} <= {"broker"}
    return all(store.outbox.settle(item) for item in items) and bool(items)


def test_a_token_makes_a_device_known_once(store: Store, enrol: Enrol) -> None:
    store.catalog.create_group(PRODUCT, "hall", by=ANN)
    name = add(store, groups=("hall",))
    made = enrol("one")
    assert (made.device_id, made.product, made.token, made.authority) == ("pi-1", PRODUCT, name, "devices-1")
    device = store.devices.device("pi-1")
    assert (device.product, device.hardware_model, device.groups) == (PRODUCT, MODEL, ("hall", "everyone"))
    assert refused(lambda: enrol("one", "pi-2")) == "token_used"
    with pytest.raises(NotFoundError):
        store.devices.device("pi-2")
    assert actions(store)[-3:] == ["enrolment_token.added", "device.registered", "device.enrolled"]
    assert not access_marked(store)


@ON_SQLITE
def test_a_token_is_kept_by_its_hash_alone(store: Store, enrol: Enrol, url: str) -> None:
    secret = "Kx3fQ9wZ1r8sT5uV7yB2cA"
    add(store, secret)
    enrol(secret)
    store.close()
    assert secret.encode() not in b"".join(
        path.read_bytes() for path in Path(url.removeprefix("sqlite:///")).parent.glob("fleetlift.db*")
    )


def test_a_counted_token_is_used_as_often_as_it_says(store: Store, enrol: Enrol) -> None:
    add(store, uses=3)
    for number in range(3):
        enrol("one", f"pi-{number}")
    assert refused(lambda: enrol("one", "pi-9")) == "token_used"
    (view,) = store.enrolment.tokens()
    assert (view.uses_left, view.max_uses, view.good) == (0, 3, False)


@pytest.mark.parametrize("uses", [1, 5])
def test_simultaneous_uses_are_never_more_than_were_given(
    store: Store, url: str, clock: Clock, issuer: Issuer, uses: int
) -> None:
    """Through two doors to the same database, as two processes would."""
    add(store, uses=uses)
    said: list[str] = []
    begin = threading.Barrier(16)

    def use(door: Store, number: int) -> None:
        begin.wait()
        try:
            door.enrolment.enrol(sha256("one"), f"pi-{number}", MODEL, sha256(f"key {number}"), issuer)
        except RefusedError as error:
            said.append(error.code)
        else:
            said.append("enrolled")

    with Store.open(url, clock) as other:
        threads = [threading.Thread(target=use, args=((store, other)[number % 2], number)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(said) == ["enrolled"] * uses + ["token_used"] * (16 - uses)
    assert store.devices.count() == uses
    assert issuer.count == uses


def test_simultaneous_repetitions_of_one_request_get_one_certificate(store: Store, issuer: Issuer) -> None:
    add(store)
    got: list[str] = []
    begin = threading.Barrier(8)

    def use() -> None:
        begin.wait()
        got.append(store.enrolment.enrol(sha256("one"), "pi-1", MODEL, sha256("key"), issuer).serial)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(set(got)), issuer.count) == (8, 1, 1)


def test_a_lost_answer_is_repeated_also_when_the_token_is_used_or_expired(
    store: Store, enrol: Enrol, clock: Clock
) -> None:
    add(store)
    made = enrol("one")
    clock.pass_s(2 * DAY_S)
    assert enrol("one") == made
    assert refused(lambda: enrol("one", key="another key")) == "token_expired"


def test_what_is_wrong_with_a_token_is_said_and_costs_no_use(store: Store, enrol: Enrol, clock: Clock) -> None:
    add(store, "of-pi-7", device_id="pi-7")
    add(store, "of-model", hardware_model=MODEL)
    add(store, "short", lifetime_s=60)
    taken_back = add(store, "taken-back")
    store.enrolment.revoke(taken_back, by=ANN)
    add(store, "good")
    assert refused(lambda: enrol("none")) == "unknown_token"
    assert refused(lambda: enrol("of-pi-7", "pi-8")) == "foreign_token"
    assert refused(lambda: enrol("of-model", model="toaster")) == "foreign_token"
    assert refused(lambda: enrol("good", model="toaster")) == "foreign_token"
    assert refused(lambda: enrol("taken-back")) == "token_revoked"
    clock.pass_s(60)
    assert refused(lambda: enrol("short")) == "token_expired"
    with pytest.raises(InvalidError):
        enrol("good", "../pi")
    assert {view.uses_left for view in store.enrolment.tokens()} == {1}
    assert store.devices.count() == 0


def test_a_certificate_that_cannot_be_made_costs_no_use(store: Store) -> None:
    add(store)

    def fail(_device_id: str) -> IssuedCertificate:
        raise CertificateError("no")

    with pytest.raises(CertificateError):
        store.enrolment.enrol(sha256("one"), "pi-1", MODEL, sha256("key"), fail)
    assert (store.enrolment.tokens()[0].uses_left, store.devices.count()) == (1, 0)


def test_nobody_takes_over_a_device_but_with_a_token_for_it_alone(store: Store, enrol: Enrol) -> None:
    store.devices.register("pi-1", product=PRODUCT, hardware_model=MODEL, by=ANN)
    add(store, "any", uses=9)
    assert refused(lambda: enrol("any")) == "name_taken"
    add(store, "mine", device_id="pi-1", uses=2)
    first = enrol("mine", key="first")
    assert not access_marked(store)
    second = enrol("mine", key="second")
    assert access_marked(store)
    certificates = {it.serial: it for it in store.certificates.of("pi-1")}
    assert [certificates[it.serial].revoked_at_ms is None for it in (first, second)] == [False, True]
    assert store.certificates.revocations().certificates == (
        RevokedCertificate(int(first.serial, 16), "devices-1", 1_700_000_000_000),
    )
    assert store.certificates.revocations().device_ids == ()


def test_a_key_belongs_to_one_device(store: Store, enrol: Enrol) -> None:
    add(store, uses=2)
    enrol("one", "pi-1", key="copied")
    assert refused(lambda: enrol("one", "pi-2", key="copied")) == "key_taken"


def test_a_token_that_is_added_again_is_the_same(store: Store) -> None:
    draft = TokenDraft(sha256=sha256("one"), product=PRODUCT, uses=2)
    assert store.enrolment.add(draft, by=ANN) == store.enrolment.add(draft, by=ANN)
    assert actions(store).count("enrolment_token.added") == 1
    with pytest.raises(ConflictError):
        add(store, uses=3)
    with pytest.raises(NotFoundError, match="group"):
        add(store, "two", groups=("nowhere",))
    with pytest.raises(InvalidError, match="hardware model"):
        add(store, "two", hardware_model="toaster")


@pytest.mark.parametrize(
    "facts",
    [
        {"uses": 0},
        {"uses": 100_001},
        {"lifetime_s": 0},
        {"lifetime_s": 366 * DAY_S},
        {"device_id": "Pi"},
        {"hardware_model": "+"},
        {"name": "a/b"},
        {"groups": tuple(f"g-{number}" for number in range(64))},
    ],
)
def test_a_token_has_limits(facts: dict[str, Any]) -> None:
    with pytest.raises(InvalidError, match="nothing was changed"):
        TokenDraft(sha256=sha256("one"), product=PRODUCT, **facts)


# Renewal


GRACE_MS = 90 * DAY_S * 1000


@pytest.fixture
def renew(store: Store, issuer: Issuer) -> Callable[..., CertificateView]:
    def renew(present: CertificateView, new: str, key: str = "key of pi-1") -> CertificateView:
        return store.certificates.renew(int(present.serial, 16), sha256(key), sha256(new), issuer, grace_ms=GRACE_MS)

    return renew


def test_a_renewal_supersedes_and_repeats_itself(store: Store, enrol: Enrol, renew: Enrol, clock: Clock) -> None:
    add(store)
    first = enrol("one")
    clock.pass_s(60 * DAY_S)
    second = renew(first, "next")
    assert renew(first, "next") == second
    assert second.not_after_ms == first.not_after_ms + 60 * DAY_S * 1000
    assert [(it.serial, it.superseded_at_ms is None) for it in store.certificates.of("pi-1")] == [
        (second.serial, True),
        (first.serial, False),
    ]
    assert renew(first, "another").serial != second.serial  # the answer was lost, and the key with it
    assert actions(store).count("certificate.renewed") == 2
    assert not access_marked(store)


def test_a_renewal_is_refused_to_whoever_has_no_right_to_it(
    store: Store, enrol: Enrol, renew: Enrol, issuer: Issuer, clock: Clock
) -> None:
    add(store, uses=2)
    first, other = enrol("one"), enrol("one", "pi-2")
    assert refused(lambda: renew(first, "next", key="key of pi-2")) == "unknown_certificate"
    assert refused(lambda: store.certificates.renew(7, sha256("k"), sha256("n"), issuer, grace_ms=0)) == (
        "unknown_certificate"
    )
    assert refused(lambda: renew(first, "key of pi-1")) == "same_key"
    assert refused(lambda: renew(first, "key of pi-2")) == "key_taken"
    clock.pass_s(180 * DAY_S)
    renew(first, "at the last moment")
    clock.pass_s(1)
    assert refused(lambda: renew(other, "next", key="key of pi-2")) == "certificate_expired"


def test_a_device_gets_no_heap_of_certificates(store: Store, enrol: Enrol, renew: Enrol, clock: Clock) -> None:
    add(store)
    first = enrol("one")
    for number in range(7):
        renew(first, f"key {number}")
    assert refused(lambda: renew(first, "one more")) == "too_many_certificates"
    clock.pass_s(DAY_S)
    renew(first, "one more")


# Revocation


def test_revoking_shuts_a_device_out_whole(store: Store, enrol: Enrol, renew: Enrol, clock: Clock) -> None:
    add(store)
    first = enrol("one")
    second = renew(first, "next")
    add(store, "spare", device_id="pi-1", uses=5)
    assert store.certificates.revoke_device("pi-1", "stolen", by=ANN) == 2
    assert access_marked(store)
    revocations = store.certificates.revocations()
    assert {it.serial for it in revocations.certificates} == {int(it.serial, 16) for it in (first, second)}
    assert revocations.device_ids == ("pi-1",)
    assert store.certificates.is_revoked("pi-1")
    assert store.devices.device("pi-1").revoked_at_ms == 1_700_000_000_000
    assert refused(lambda: renew(second, "more", key="next")) == "revoked"
    assert refused(lambda: enrol("one")) == "revoked"
    assert refused(lambda: enrol("spare")) == "token_revoked"
    (row,) = [row for row in store.audit.rows() if row.action == "device.revoked"]
    assert (row.actor, row.subject, row.after) == (ANN, "device/pi-1", {"reason": "stolen", "certificates": 2})
    assert store.certificates.revoke_device("pi-1", "again", by=ANN) == 0
    assert not access_marked(store)
    clock.pass_s(92 * DAY_S)
    assert store.certificates.revocations().certificates == ()  # past by itself
    with pytest.raises(NotFoundError):
        store.certificates.revoke_device("pi-9", "", by=ANN)


def test_a_revoked_device_comes_back_with_a_new_certificate_alone(store: Store, enrol: Enrol, renew: Enrol) -> None:
    add(store)
    first = enrol("one")
    store.certificates.revoke_device("pi-1", "", by=ANN)
    assert store.certificates.readmit_device("pi-1", by=ANN)
    assert access_marked(store)
    assert not store.certificates.readmit_device("pi-1", by=ANN)
    assert refused(lambda: renew(first, "next")) == "revoked"
    assert refused(lambda: enrol("one")) == "name_taken"
    add(store, "again", device_id="pi-1")
    second = enrol("again", key="new")
    revocations = store.certificates.revocations()
    assert (revocations.device_ids, len(revocations.certificates)) == ((), 1)
    assert second.serial not in {format(it.serial, "x") for it in revocations.certificates}


def test_who_still_holds_what_an_authority_signed(
    store: Store, enrol: Enrol, renew: Enrol, issuer: Issuer, clock: Clock
) -> None:
    add(store, uses=3)
    first, _, _ = enrol("one"), enrol("one", "pi-2"), enrol("one", "pi-3")
    store.certificates.revoke_device("pi-3", "", by=ANN)
    clock.pass_s(10)
    issuer.authority, rotated_at_ms = "devices-2", int(clock.now_s * 1000)
    renew(first, "next")
    assert store.certificates.holders("devices-1") == ("pi-2",)
    assert store.certificates.holders("devices-2") == ("pi-1",)
    assert store.certificates.informed_before(rotated_at_ms) == ("pi-2",)
    clock.pass_s(90 * DAY_S)
    assert store.certificates.holders("devices-1") == ()
