"""`fleetlift doctor`: what a running broker lets whom do, seen from outside, and how to mend it."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from cloud.broker_files import BrokerFiles
from cloud.cli.context import Command, Operator, pass_operator
from cloud.cli.render import Column, Output, plural
from cloud.cli.terminal import console_on
from cloud.config import Home, Settings, load_settings, parse_broker_url, read_broker_password
from cloud.doctor.case import Case, Door, Passes
from cloud.doctor.examination import CHECKS, examine
from cloud.doctor.findings import Finding, Verdict
from cloud.pki.authorities import Authorities
from protocol.errors import UserError
from protocol.topics import Topics

FAILED = 1
HOST = "127.0.0.1"
COLUMNS = (Column("verdict", "verdict"), Column("check", "check"), Column("seen", "seen"))


@click.command(
    cls=Command,
    examples=(
        "fleetlift doctor",
        "fleetlift doctor --broker mqtts://ota.example --revoke -o json",
    ),
)
@click.option("--broker", metavar="URL", help="Where devices reach the broker (default: what fleetlift.toml says).")
@click.option("--cloud-broker", metavar="URL", help="Where the server reaches it (default: what fleetlift.toml says).")
@click.option(
    "--revoke",
    is_flag=True,
    help="Also revoke a throw-away device: writes revoked.crl, has the broker read it, and takes both back.",
)
@pass_operator
def doctor(operator: Operator, broker: str | None, cloud_broker: str | None, revoke: bool) -> int:
    """Examine a running broker from outside, and say what is wrong and how to mend it.

    Run it where the server runs: it certifies throw-away devices for a few minutes and uses the server's certificate.
    It changes nothing on the broker but with --revoke. Its own topics are below devices called doctor-…, which the
    server knows nothing of. The exit code is 1 if a check failed.
    """
    settings = load_settings(operator.home.settings_file)
    with _case(operator.home, settings, broker, cloud_broker, may_revoke=revoke) as case:
        findings = _watched(operator.output, case)
    _tell(operator.output, case, findings)
    return FAILED if _worst(findings) is Verdict.FAIL else 0


@contextlib.contextmanager
def _case(
    home: Home, settings: Settings, broker: str | None, cloud_broker: str | None, *, may_revoke: bool
) -> Iterator[Case]:
    devices, cloud = _doors(home, settings, broker, cloud_broker)
    certificate = settings.broker.certificate_file
    directory = home.storage_path(settings.broker.directory).resolve()
    with tempfile.TemporaryDirectory(prefix="fleetlift-doctor-") as scratch:
        yield Case(
            devices=devices,
            cloud=cloud,
            topics=Topics(settings.broker.topic_root),
            passes=Passes(Path(scratch), Authorities(home.ca) if devices.ca is not None else None),
            cloud_certificate=home.storage_path(certificate) if certificate and cloud.ca is not None else None,
            username=settings.broker.username,
            password=read_broker_password(home, settings),
            files=BrokerFiles(directory, reload_command=settings.broker.reload_command),
            may_revoke=may_revoke,
        )


def _doors(home: Home, settings: Settings, broker: str | None, cloud_broker: str | None) -> tuple[Door, Door]:
    """Return the devices' door and the server's, of the options, else of the settings; raises UserError."""
    told = settings.broker
    scheme = "mqtts" if settings.server.tls else "mqtt"
    cloud_port = told.cloud_port if settings.server.tls else told.embedded_port
    cloud_url = cloud_broker or told.url or f"{scheme}://{HOST}:{cloud_port}"
    device_url = broker or told.device_url or told.url or f"{scheme}://{HOST}:{told.embedded_port}"
    ca, doors = home.storage_path(told.ca_file), []
    for option, url in (("--broker", device_url), ("--cloud-broker", cloud_url)):
        try:
            address = parse_broker_url(url)
        except ValueError as error:
            raise UserError(f"{option}: {error}. Nothing was looked at.") from None
        doors.append(Door(address.host, address.port, ca if address.tls else None))
    return doors[0], doors[1]


def _watched(output: Output, case: Case) -> list[Finding]:
    """Make the examination, and show on a terminal how far it is."""
    console = console_on(output.stderr)
    findings: list[Finding] = []
    with console.status(f"looking at {case.devices}") if console.is_terminal else contextlib.nullcontext() as status:
        for finding in examine(case):
            findings.append(finding)
            if status is not None:
                status.update(f"looking at {case.devices}: {len(findings)} of {len(CHECKS)} checks")
    return findings


def _tell(output: Output, case: Case, findings: list[Finding]) -> None:
    if output.for_program:
        output.document(
            {
                "devices": str(case.devices),
                "cloud": str(case.cloud),
                "verdict": _worst(findings).value,
                "findings": [finding.document() for finding in findings],
            },
            names=[finding.check for finding in findings if finding.seen.verdict is not Verdict.OK],
        )
        return
    output.rows([finding.document() for finding in findings], COLUMNS, nothing="Nothing was looked at.")
    for finding in findings:
        if finding.seen.mend:
            output.say(f"\n{finding.check} ({finding.seen.verdict.value}): {finding.looked_at}.\n  {finding.seen.mend}")
    count = {verdict: sum(finding.seen.verdict is verdict for finding in findings) for verdict in Verdict}
    output.say(
        f"\n{plural(len(findings), 'check')} of {case.devices} and {case.cloud}: {count[Verdict.OK]} ok, "
        f"{count[Verdict.WARN]} to better, {count[Verdict.FAIL]} failed, {count[Verdict.UNKNOWN]} not made."
    )


def _worst(findings: list[Finding]) -> Verdict:
    verdicts = {finding.seen.verdict for finding in findings}
    return next((it for it in (Verdict.FAIL, Verdict.WARN) if it in verdicts), Verdict.OK)
