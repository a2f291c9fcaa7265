"""docs/protocol.md says what the code does: its examples decode, its tables and figures are those of the code."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from protocol import down, enrolment, manifest, schedule, signing, up, values
from protocol.chunks import CHUNK_BYTES, MAX_BLOB_BYTES, BlobRef, list_sizes, pack_chunk
from protocol.codec import MAX_DEPTH, MAX_MESSAGE_BYTES, decode
from protocol.identity import Installed, VersionRange, bucket, place
from protocol.phases import LWM2M_RESULT, LWM2M_STATE, RETRIED_LATER, Outcome, Phase, Reason, Wait
from protocol.schedule import MAX_CANARIES, MAX_STRATA, MAX_WINDOWS, Terms
from protocol.selection import Rule
from protocol.signing import DESIRED_TYPE, NOTICE_TYPE, Envelope
from protocol.topics import DOWN_KINDS, UP_KINDS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "protocol.md").read_text()
EXAMPLES = re.findall(r"<!-- example: (\w+) -->\n```json\n(.*?)```", TEXT, flags=re.DOTALL)
KINDS = {
    kind.__name__: kind
    for kind in (
        *(down.Desired, down.Notice, down.Ack, down.Metadata, down.Bundle),
        *(up.Hello, up.DeviceState, up.Report, up.Want, up.Ask, up.Presence),
        *(manifest.Manifest, BlobRef, Envelope),
        *(enrolment.TrustDocument, enrolment.EnrolmentRequest, enrolment.Enrolled, enrolment.RenewalRequest),
    )
}


@pytest.mark.parametrize(("kind", "example"), EXAMPLES, ids=[kind for kind, _ in EXAMPLES])
def test_an_example_decodes(kind: str, example: str) -> None:
    decode(example, KINDS[kind])


def test_every_message_has_an_example() -> None:
    assert {kind for kind, _ in EXAMPLES} == set(KINDS)


def test_the_payload_of_the_example_envelope_decodes() -> None:
    (text,) = (text for kind, text in EXAMPLES if kind == "Envelope")
    envelope = decode(text, Envelope)
    assert envelope.type == NOTICE_TYPE
    decode(envelope.payload, down.Notice)


def rows(header: str) -> list[list[str]]:
    table = TEXT[TEXT.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in table]


def test_the_phases_are_those_of_the_code() -> None:
    assert [(row[0], int(row[1])) for row in rows("| phase | LwM2M |")] == [
        (phase.value, LWM2M_STATE[phase]) for phase in Phase
    ]


def test_the_reasons_are_those_of_the_code() -> None:
    table = rows("| outcome | reason |")
    assert {row[1]: int(row[3]) for row in table if row[1]} == {reason.value: LWM2M_RESULT[reason] for reason in Reason}
    assert {row[1] for row in table if row[2] == "no"} == {reason.value for reason in RETRIED_LATER}
    assert {row[0] for row in table} == {outcome.value for outcome in Outcome}


def test_the_waits_are_those_of_the_code() -> None:
    assert [row[0] for row in rows("| wait |")] == [wait.value for wait in Wait]


def test_the_rules_are_those_of_the_code() -> None:
    assert [row[0] for row in rows("| rule | passes if |")] == [rule.value for rule in Rule]


def test_the_terms_are_those_of_the_code() -> None:
    assert [row[0] for row in rows("| field | type | meaning | left out |")] == list(Terms.__dataclass_fields__)
    limits = f"{MAX_CANARIES}, {MAX_WINDOWS}, {MAX_STRATA}"
    assert f"| canary groups, windows, stopped strata of a release | {limits} |" in TEXT


def test_the_topics_are_those_of_the_code() -> None:
    topics = [row[0] for row in rows("| topic | who publishes |")]
    assert {topic.rsplit("/", 1)[1] for topic in topics if "/up/" in topic} == UP_KINDS
    assert {topic.rsplit("/", 1)[1] for topic in topics if "/down/" in topic} == DOWN_KINDS | {"<blob>"}


def test_the_fields_of_each_message_are_those_of_the_code() -> None:
    for kind in (
        up.Hello,
        down.Desired,
        down.NoticeRelease,
        values.FirmwareRef,
        up.Want,
        up.AttemptEntry,
        up.DeviceState,
        up.Health,
        values.ComponentState,
        schedule.Ramp,
        schedule.Window,
        schedule.Stratum,
    ):
        for name in kind.__dataclass_fields__:
            assert f"`{name}`" in TEXT, f"{kind.__name__}.{name} is not in docs/protocol.md"


def test_the_worked_figures_are_those_of_the_code() -> None:
    assert f"`pi-1` in release `r-1` has the bucket {bucket('pi-1', 'r-1')}" in TEXT
    assert f"modulo 10,000: {place('pi-1', 'r-1')} in the example" in TEXT
    assert f"at most {MAX_MESSAGE_BYTES:,} bytes" in TEXT
    assert f"nesting deeper than {MAX_DEPTH}" in TEXT
    assert f"chunks of {CHUNK_BYTES:,} bytes" in TEXT
    assert MAX_BLOB_BYTES == 2**36
    assert len(list_sizes(128 * 1024**2)) == 1
    assert len(list_sizes(128 * 1024**2 + 1)) == 2
    assert f"`{pack_chunk(258, b'abc').hex(' ')}`" in TEXT
    assert {NOTICE_TYPE, DESIRED_TYPE} <= set(re.findall(r"`(application/[^`]+)`", TEXT))
    assert signing.MAX_SIGNATURES == 8
    assert (values.MAX_WANTED_CHUNKS, values.MAX_WANTED_RANGES, values.MAX_ENTRIES) == (1024, 512, 64)
    assert "at most 512 ranges and 1024 chunks" in TEXT


def test_the_table_of_ranges_holds() -> None:
    table = TEXT[TEXT.index("| range | holds for |") :].split("\n\n")[0].splitlines()[2:]
    for row in table:
        text, holds = row.strip("|").replace("\\|", "\0").split("|")
        parsed = VersionRange.parse(text.strip().strip("`").replace("\0", "|"))
        for version in re.findall(r"(?<!`os` of )\b\d+\.\d+\.\d+(?:-rc\.\d+)?", holds):
            installed = {"app": Installed(version=version, build=120), "os": Installed(version="5.0.0", build=1)}
            assert parsed.matches("app", installed), (text, version)


def test_the_enrolment_code_is_one() -> None:
    (text,) = re.findall(r"^    (fl1\..+)$", TEXT, flags=re.MULTILINE)
    code = enrolment.EnrolmentCode.parse(text)
    assert str(code) == text
    assert (code.token, code.ca_sha256) == (enrolment.make_token(bytes(range(16))), hashlib.sha256(b"ca").hexdigest())
    assert enrolment.RENEWAL_CONTEXT == b"fleetlift renewal 1\n"
    assert len(enrolment.RENEWAL_CONTEXT) == 20


def test_every_refusal_of_an_enrolment_is_in_the_list() -> None:
    listed = {code for code, _ in rows("| code | means |\n|---|---|\n| `bad_message`")}
    sources = [ROOT / "cloud" / room for room in ("store/enrolment.py", "store/certificates.py", "api/enrolment.py")]
    raised = {
        code
        for path in sources
        for code in re.findall(
            r'(?:RefusedError\(|HTTPStatus\.[CS]\w+,)\s*"([a-z_]+)"', path.read_text(encoding="utf-8")
        )
    }
    assert len(raised) > 10
    assert listed == raised | {"bad_message", "bad_csr", "too_large"}
