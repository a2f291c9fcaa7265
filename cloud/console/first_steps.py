"""What somebody does first, each step ticked off as it becomes true. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from cloud.console.lines import line
from cloud.values import ProductView

EXAMPLE = "thermostat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Something that a fleet needs before it is one; `there` is to be said on the device."""

    name: str
    text: str
    lines: tuple[str, ...]
    done: bool
    there: str = ""


def steps_of(products: Sequence[ProductView], *, released: frozenset[str], running: frozenset[str]) -> tuple[Step, ...]:
    """Return the first steps, of whoever reads them as a page; none once all are done.

    `released` are the versions of releases, `running` those that devices run.
    """
    product = products[0].product if products else EXAMPLE
    steps = (
        Step(
            name="Run the server",
            text="It answers you now, and devices reach it by its MQTT broker.",
            lines=(line("serve"),),
            done=True,
        ),
        Step(
            name="Make a product",
            text="A product is one kind of device. The key that signs its firmware is made on your machine and stays.",
            lines=(line("product", "create", product, "--hardware", "raspberrypi4"),),
            done=bool(products),
        ),
        Step(
            name="Enrol a device",
            text="The code that this prints lets one device in.",
            there="fleetlift-agent enrol --code-file -",
            lines=(line("token", "create", "--product", product),),
            done=any(it.devices for it in products),
        ),
        Step(
            name="Release something",
            text="A directory with an application is packaged, signed on your machine, uploaded, and released.",
            lines=(line("release", "push", "./app", "--product", product, "--version", "1.0.0"),),
            done=bool(released),
        ),
        Step(
            name="See it arrive",
            text="A device runs what you released.",
            lines=(line("release", "status", "v1", "--product", product, "--watch"),),
            done=bool(released & running),
        ),
    )
    return () if all(step.done for step in steps) else steps
