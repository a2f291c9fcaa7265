"""One valid message of every kind: what round trips, truncations and refusals are tried on."""

from __future__ import annotations

from typing import Final

from protocol.chunks import BlobRef
from protocol.down import Ack, Bundle, Desired, Metadata, Notice, NoticeRelease, Ota
from protocol.manifest import Blob, Manifest, Requirements
from protocol.patches import Patch
from protocol.phases import Outcome, Phase, Reason, Wait
from protocol.signing import Envelope, Signature
from protocol.up import (
    Ask,
    Asked,
    AttemptEntry,
    Availability,
    DeviceState,
    Entry,
    Hello,
    HoldInfo,
    JournalPosition,
    Pending,
    Presence,
    Progress,
    Report,
    Want,
)
from protocol.values import ComponentState, FirmwareRef, Scope, Urgency, Via

DIGEST_A: Final = "a" * 64
DIGEST_B: Final = "b" * 64

FIRMWARE: Final = FirmwareRef(
    component="app",
    version="1.1.0",
    build=7,
    seq=2,
    digest=DIGEST_B,
    size_bytes=100_000,
    hardware_models=("raspberrypi4",),
    requires=Requirements(agent="0.1.0", components={"os": ">=2.0.0"}),
)
APP: Final = ComponentState(component="app", version="1.0.0", build=6, digest=DIGEST_A)
RELEASE: Final = NoticeRelease(
    release_id="r-1",
    label=2,
    order=5,
    firmware=FIRMWARE,
    percentage=50,
    urgency=Urgency.IMMEDIATE,
    target_range="1.x",
    description="quieter fan",
    references=1,
)
STATE: Final = DeviceState(
    session=3,
    seq=4,
    phase=Phase.DOWNLOADING,
    components=(APP,),
    availability=Availability(
        enabled=False, disabled_until_ms=9, holds=(HoldInfo(owner="pid 7", why="dosing", scopes=(Scope.INSTALL,)),)
    ),
    pending=(Pending(component="app", version="1.1.0", digest=DIGEST_B, source_id="r-1", why=Wait.DISABLED),),
    progress=Progress(attempt_id="j1-1", component="app", done_bytes=65536, total_bytes=100_000),
    failed=(DIGEST_A,),
    refused={"bad_chunk": 2},
)
ATTEMPT: Final = AttemptEntry(
    attempt_id="j1-1",
    source_id="r-1",
    via=Via.RELEASE,
    component="app",
    version="1.1.0",
    digest=DIGEST_B,
    phase=Phase.PROVING,
    from_version="1.0.0",
    from_digest=DIGEST_A,
    outcome=Outcome.ROLLED_BACK,
    reason=Reason.HEALTH_FAILED,
    detail="HTTP 503",
    booted_digest=DIGEST_A,
    fetched_bytes=100_000,
)

MESSAGES: Final = (
    FIRMWARE,
    RELEASE,
    STATE,
    Notice(product="thermostat", group="pilot", component="app", seq=9, issued_at_ms=1, releases=(RELEASE,)),
    Desired(
        device_id="pi-1",
        seq=3,
        session=2,
        issued_at_ms=1,
        product="thermostat",
        groups=("pilot", "everyone"),
        pins=(FIRMWARE,),
        otas=(Ota(ota_id="o-1", order=6, firmware=FIRMWARE, forced=True),),
        notices={"pilot/app": 9},
        metadata_version=4,
    ),
    Ack(journal_id="j1", through=12),
    Metadata(request=1, name="2.root.json", found=True, body="{}"),
    Metadata(
        request=2,
        name="9.thermostat.json",
        found=True,
        blob=BlobRef(digest=DIGEST_A, size_bytes=200_000, lists=(DIGEST_B,)),
    ),
    Bundle(product="thermostat", root_version=1, files={"timestamp.json": "{}", "3.snapshot.json": "{}"}),
    Bundle(
        product="thermostat",
        root_version=1,
        files={"timestamp.json": "{}"},
        patches={"4.thermostat.json": Patch(base=DIGEST_A, texts=("{", "}"), copies=((1, 20),))},
    ),
    Hello(
        product="thermostat",
        hardware_model="raspberrypi4",
        agent_version="0.1.0",
        journal=JournalPosition(journal_id="j1", next_seq=13),
        state=STATE,
        root_version=1,
        attributes={"site": "lab"},
    ),
    Report(
        journal_id="j1",
        entries=(Entry(seq=12, at_ms=5, attempt=ATTEMPT), Entry(seq=13, at_ms=6, installed=APP)),
    ),
    Want(blob=DIGEST_A, ranges=((0, 16), (20, 1)), detached=True),
    Ask(request=4, what=Asked.METADATA, name="2.root.json"),
    Ask(request=5, what=Asked.NOTICE, name="pilot/app"),
    Presence(online=True, session=3),
    Envelope(type="t", payload="{}", signatures=(Signature(keyid=DIGEST_A, sig="0f"),)),
    Manifest(
        product="thermostat",
        component="app",
        version="1.1.0",
        build=7,
        seq=2,
        hardware_models=("*",),
        blobs=(Blob(encoding="identity", ref=BlobRef(digest=DIGEST_B, size_bytes=100_000, lists=(DIGEST_A,))),),
    ),
)
