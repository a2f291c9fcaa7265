"""`fleetlift demo`: the whole path, end to end, on real processes, with every claim checked from outside."""

import contextlib
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from cloud.broker import BrokerKind
from cloud.cli.context import Command, pass_operator
from cloud.cli.context import Operator as Shared
from cloud.cli.terminal import console_on
from cloud.demo import releasing, storms, thieves
from cloud.demo.operating import HARDWARE, PRODUCT, Image, Operator
from cloud.demo.releasing import Story
from cloud.demo.telling import Teller
from cloud.demo.world import World
from firmware_samples.build import build_all
from protocol.errors import FleetliftError

ACTS: tuple[tuple[str, str, tuple[Callable[[Story], None], ...]], ...] = (
    ("a", "Six devices join; 1.0.0 for half of everyone, then for all", (releasing.joining, releasing.by_percentage)),
    ("b", "1.1.0 at once, for one group; one device is busy", (releasing.at_once,)),
    ("c", "2.0.0 is broken", (releasing.broken,)),
    ("d", "64 MiB, and an agent that is killed twice", (storms.killed_agent,)),
    ("e", "Broker and cloud are killed in the middle of a rollout", (storms.killed_servers,)),
    ("f", "A stranger with access to the broker", (storms.forged,)),
    ("g", "Rolling back, a locked device, a single device", (releasing.rolling_back, releasing.finish)),
    ("h", "A stolen device", (thieves.stolen_device,)),
)


@click.command(
    "demo",
    cls=Command,
    examples=(
        "fleetlift demo",
        "fleetlift demo --broker mosquitto --report checks.json",
    ),
)
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C, and say how to look around.")
@click.option(
    "--broker", type=click.Choice(["mosquitto", "amqtt"]), help="Which broker (default: Mosquitto if it is there)."
)
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write checks as JSON.")
@pass_operator
def demo(operator: Shared, *, keep: bool, broker: BrokerKind | None, report: Path | None) -> None:
    """Show the whole path, end to end: a broker, a cloud, six agents, real firmware; exit code 1 if a claim fails."""
    directory = Path(tempfile.mkdtemp(prefix="fleetlift-demo-"))
    output = operator.output
    teller = Teller(console_on(output.stderr if output.for_program else output.stdout))
    world = World(directory, broker)
    try:
        _tell(teller, world, click.get_current_context().find_root().command)
    except FleetliftError as error:
        teller.expect("the demonstration goes on to its end", passed=False, saw=str(error))
    except BaseException:
        world.stop()
        raise
    code = teller.close()
    if report is not None:
        teller.report(report)
    if output.for_program:
        output.document(teller.document(), names=[check.claim for check in teller.checks if not check.passed])
    if keep:
        _say_how_to_look(teller, world)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()  # the broker ends with the process that started it: this one
    world.stop()
    shutil.rmtree(directory, ignore_errors=True)
    raise SystemExit(code)


def _tell(teller: Teller, world: World, commands: click.Command) -> None:
    images = {version: Image(version, path) for version, path in _build(world).items()}
    operator = Operator(world, teller, commands)
    story = Story(world, teller, operator, images)
    teller.act("a", ACTS[0][1])
    operator.run("init", "--product", PRODUCT, "--hardware", HARDWARE, *world.settings())
    world.broker.start()
    teller.say(f"broker: {world.broker.kind}, in a process of its own, at {world.broker.url}")
    world.start_cloud()
    teller.say(f"cloud at {world.url}, keys in {world.home / 'operator' / 'keys'}")
    for name, title, parts in ACTS:
        if name != "a":
            teller.act(name, title)
        for part in parts:
            part(story)
    _show(teller, operator)


def _build(world: World) -> dict[str, Path]:
    built = build_all(world.directory / "images")
    return {name.removeprefix("thermostat-"): path for name, path in built.items() if name.startswith("thermostat-")}


def _show(teller: Teller, operator: Operator) -> None:
    teller.console.print()
    teller.say(f"{'device':8}{'':10}{'runs':14}{'refused'}")
    for row in operator.run("device", "list", quiet=True):
        runs = ", ".join(f"{item['component']} {item['version']}" for item in row["components"])
        refused = ", ".join(f"{code} {count}" for code, count in sorted(row["refused"].items())) or "-"
        teller.say(f"{row['device_id']:8}{'online' if row['online'] else 'offline':10}{runs:14}{refused}")
    teller.console.print()
    teller.say(f"{'release':14}{'version':10}{'':10}{'downloads':>9}{'installs':>9}{'rollbacks':>10}{'active':>9}")
    for page in operator.run("release", "list", quiet=True):
        release, metrics = page["release"], page["metrics"]
        name = f"{release['channel']['group']} v{release['label']}"
        state = "live" if release["live"] else "enabled" if release["enabled"] else "disabled"
        counts = f"{metrics['downloads']:9}{metrics['installs']:9}{sum(metrics['rollbacks'].values()):10}"
        version = release["firmware"]["version"]
        teller.say(f"{name:14}{version:10}{state:10}{counts}{metrics['active_percent']:7.0f} %")


def _say_how_to_look(teller: Teller, world: World) -> None:
    teller.say(f"everything still runs, in {world.directory}")
    teller.say(f"look around:  fleetlift device list --home {world.home}")
    teller.say(f"a device:     fleetlift-agent status --config {world.directory}/devices/pi-1/agent.toml")
    teller.say(f"the API:      {world.url}/api/v1/openapi.json")
    teller.say("to end it:    Ctrl-C here, which also removes the directory")
