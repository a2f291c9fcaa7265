"""What needs what: the matrix of a product's firmware, and who needs the base before a release."""

from __future__ import annotations

import hashlib

from cloud.fleet import DeviceSituation, FleetView
from cloud.needs import Breakage, Need, matrix, needs
from cloud.values import FirmwareView
from protocol.down import NoticeRelease
from protocol.facts import DeviceFacts
from protocol.identity import EVERYONE
from protocol.manifest import Requirements
from protocol.schedule import Terms
from protocol.selection import Assignment
from protocol.values import ComponentState


def firmware(
    component: str, version: str, *, agent: str | None = None, published: bool = True, **needs: str
) -> FirmwareView:
    return FirmwareView(
        product="kiosk",
        component=component,
        version=version,
        build=1,
        seq=1,
        digest=digest(component, version),
        size_bytes=10,
        hardware_models=("pi4",),
        requires=Requirements(agent=agent, components=needs),
        notes="",
        data_schema=0,
        reads_schemas=(),
        blobs=(),
        signer_keyids=(),
        published=published,
        added_at_ms=0,
        published_at_ms=0 if published else None,
    )


def digest(component: str, version: str) -> str:
    return hashlib.sha256(f"{component} {version}".encode()).hexdigest()


def device(device_id: str, *, agent: str = "1.0.0", needs: str | None = None, **runs: str) -> DeviceSituation:
    """A device that runs these versions; `needs` is the range of os that its app stated."""
    components = {
        name: ComponentState(
            component=name,
            version=version,
            build=1,
            digest=digest(name, version),
            requires={"os": needs} if needs and name == "app" else {},
        )
        for name, version in runs.items()
    }
    facts = DeviceFacts(device_id=device_id, hardware_model="pi4", agent_version=agent, components=components)
    return DeviceSituation(facts=facts, assignment=Assignment(groups=(EVERYONE,)), online=True)


def noticed(of: FirmwareView, label: int = 1, **more: int) -> NoticeRelease:
    return NoticeRelease(
        release_id=f"rel-{of.component}-{label}",
        label=label,
        order=label,
        firmware=of.ref,
        **more,  # type: ignore[arg-type]
    )


OS_1, OS_2, OS_3 = (firmware("os", f"{major}.0.0") for major in (1, 2, 3))
APP_1 = firmware("app", "1.0.0", os="<3.0.0")
APP_2 = firmware("app", "2.0.0", os=">=2.0.0", agent="1.1.0")
ALL = (APP_2, APP_1, OS_3, OS_2, OS_1, firmware("os", "4.0.0", published=False))


def test_the_matrix_says_what_each_needs_what_would_do_and_what_breaks() -> None:
    rows = {(row.component, row.version): row for row in matrix(ALL)}
    assert len(rows) == len(ALL)
    app = rows["app", "2.0.0"]
    assert [(it.what, it.needs, it.fulfilled_by) for it in app.requires] == [
        ("agent", ">=1.1.0", ()),
        ("os", ">=2.0.0", ("2.0.0", "3.0.0")),
    ]
    assert rows["app", "1.0.0"].requires[0].fulfilled_by == ("1.0.0", "2.0.0")
    assert rows["os", "3.0.0"].breaks == ("app 1.0.0",)
    assert rows["os", "1.0.0"].breaks == ("app 2.0.0",)
    assert rows["os", "2.0.0"].breaks == ()
    assert {row.component for row in matrix(ALL, "os")} == {"os"}


def test_who_needs_the_base_first_is_told_by_what_they_have_and_whether_it_is_on_its_way() -> None:
    fleet = (
        device("a-ready", agent="1.1.0", app="1.0.0", os="2.0.0"),
        device("b-old-os", agent="1.1.0", app="1.0.0", os="1.0.0"),
        device("c-old-os", agent="1.1.0", app="1.0.0", os="1.0.0"),
        device("d-bare", agent="1.1.0", app="1.0.0"),
        device("e-old-agent", app="1.0.0", os="2.0.0"),
        device("f-has-it", agent="1.1.0", app="2.0.0", os="2.0.0"),
    )
    release = noticed(APP_2, percentage=1)
    view = FleetView(product="kiosk", channels={(EVERYONE, "app"): [release]}, devices=fleet)
    found = needs(view, release, EVERYONE, ALL)
    nobody: tuple[str, ...] = ()
    assert found.needs == (
        Need(
            what="os",
            needs=">=2.0.0",
            has="1.0.0",
            devices=("b-old-os", "c-old-os"),
            on_its_way=nobody,
            fulfilled_by=("2.0.0", "3.0.0"),
        ),
        Need(what="agent", needs=">=1.1.0", has="1.0.0", devices=("e-old-agent",), on_its_way=nobody, fulfilled_by=()),
        Need(
            what="os",
            needs=">=2.0.0",
            has="none",
            devices=("d-bare",),
            on_its_way=nobody,
            fulfilled_by=("2.0.0", "3.0.0"),
        ),
    )
    assert (found.devices, found.breaks) == (6, ())
    coming = FleetView(product="kiosk", channels={**view.channels, (EVERYONE, "os"): [noticed(OS_2)]}, devices=fleet)
    assert [it.on_its_way for it in needs(coming, release, EVERYONE, ALL).needs] == [
        ("b-old-os", "c-old-os"),
        (),
        ("d-bare",),
    ]
    other = FleetView(product="kiosk", channels={**view.channels, (EVERYONE, "os"): [noticed(OS_1)]}, devices=fleet)
    assert not any(it.on_its_way for it in needs(other, release, EVERYONE, ALL).needs)


def test_who_would_break_by_a_base_is_told() -> None:
    fleet = (
        device("a", app="1.0.0", os="2.0.0", needs="<3.0.0"),
        device("b", app="2.0.0", os="2.0.0", needs=">=2.0.0"),
    )
    release = noticed(OS_3)
    view = FleetView(product="kiosk", channels={(EVERYONE, "os"): [release]}, devices=fleet)
    (broken,) = needs(view, release, EVERYONE, ALL).breaks
    assert broken.devices == ("a",)
    assert "app 1.0.0, which is installed, needs os <3.0.0" in broken.what
    assert isinstance(broken, Breakage)


def test_pausing_ramping_or_a_label_that_is_not_live_hides_nobody() -> None:
    fleet = (device("a", agent="1.1.0", app="1.0.0", os="1.0.0"),)
    older, newer = noticed(APP_2), noticed(APP_1, label=2)
    paused = NoticeRelease(release_id="rel-app-1", label=1, order=1, firmware=APP_2.ref, terms=Terms(paused=True))
    view = FleetView(product="kiosk", channels={(EVERYONE, "app"): [newer, older]}, devices=fleet)
    assert [it.devices for it in needs(view, paused, EVERYONE, ALL).needs] == [("a",)]
