"""What the slots remember of an image, beside its digest: what it needs, and of which schema its data is."""

from dataclasses import replace
from pathlib import Path

from device_agent.slots.files import FilesSlots
from device_agent.slots.records import MAX_RECORD_BYTES, Committed, SlotName, SlotRecord, load, state_of, store
from protocol.identity import MAX_ID_LENGTH, MAX_INTEGER, MAX_RANGE_LENGTH
from protocol.manifest import MAX_SCHEMAS, Requirements
from protocol.values import MAX_COMPONENTS
from tests.device_agent.slots.firmware import COMPONENT, firmware

NEEDS = Requirements(agent="0.1.0", components={"os": ">=2.0.0"})


def test_what_an_image_needs_and_reads_is_remembered_with_it(tmp_path: Path) -> None:
    wanted = replace(firmware("1.0.0"), requires=NEEDS, data_schema=3, reads_schemas=(1, 2))
    store(tmp_path / "slot.json", SlotRecord.of(wanted))
    found = load(tmp_path / "slot.json", SlotRecord)
    assert found is not None
    assert (found.state.requires, found.state.data_schema, found.reads_schemas) == ({"os": ">=2.0.0"}, 3, (1, 2))
    assert found.state == state_of(wanted, wanted.digest)


def test_a_record_of_before_is_of_schema_0_and_needs_nothing(tmp_path: Path) -> None:
    old = firmware("1.0.0")
    (tmp_path / "slot.json").write_text(
        f'{{"component":"app","version":"1.0.0","build":1,"digest":"{old.digest}","size_bytes":{old.size_bytes}}}'
    )
    assert load(tmp_path / "slot.json", SlotRecord) == SlotRecord.of(old)


def test_the_slots_tell_what_runs_and_what_it_reads(tmp_path: Path) -> None:
    slots = FilesSlots(tmp_path / "slots", COMPONENT)
    wanted = replace(firmware("1.0.0", b"image"), requires=NEEDS, data_schema=3, reads_schemas=(2,))
    target = slots.open_target(wanted)
    target.write(0, b"image")
    target.digest()
    target.close()
    for step in (slots.stage, slots.activate, slots.apply, slots.confirm):
        step(wanted)
    view = slots.inspect()
    assert view.running == state_of(wanted, wanted.digest)
    assert view.reads_schemas == (2,)


def test_the_largest_record_is_read_again(tmp_path: Path) -> None:
    names = [f"{number:0{MAX_ID_LENGTH}d}" for number in range(MAX_COMPONENTS + 4)]
    record = SlotRecord.of(
        replace(
            firmware("1.0.0"),
            requires=Requirements(components=dict.fromkeys(names, ">=1.0.0")),
            data_schema=MAX_INTEGER,
            reads_schemas=(MAX_INTEGER,) * MAX_SCHEMAS,
        )
    )
    assert len(record.requires) == MAX_COMPONENTS
    committed = Committed(slot=SlotName.A, image=record, previous=record)
    store(tmp_path / "committed.json", committed)
    longest = MAX_COMPONENTS * 2 * MAX_RANGE_LENGTH
    assert (tmp_path / "committed.json").stat().st_size + longest < MAX_RECORD_BYTES
    assert load(tmp_path / "committed.json", Committed) == committed
