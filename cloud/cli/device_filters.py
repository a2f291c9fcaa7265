"""What devices are looked for by: the options of `device list`, and of decisions for many devices."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import click

from cloud.attention import Trouble
from cloud.cli.codes import Duration
from cloud.fleet import ANY_REASON, NO_REASON, CertificateStanding
from protocol.phases import Reason, Wait

F = TypeVar("F", bound=Callable[..., object])
_OPTIONS: Final = (
    click.option("--product", metavar="P", help="Of this product (default: the context's)."),
    click.option("--group", metavar="G", help="In this group."),
    click.option("--online/--offline", default=None, help="Connected now, or not."),
    click.option("--component", metavar="C", help="That have this component; with --version: of this component."),
    click.option("--version", metavar="V", help="That run this version."),
    click.option("--pending/--nothing-pending", default=None, help="That something waits on, or nothing."),
    click.option("--text", metavar="TEXT", help="With this text in the id."),
    click.option("--hardware-model", metavar="M", help="Of this hardware model."),
    click.option("--attribute", multiple=True, metavar="NAME=VALUE", help="With this attribute; repeated: with all."),
    click.option("--held/--not-held", default=None, help="Whose applications hold updates back now, or do not."),
    click.option(
        "--failed",
        type=click.Choice([ANY_REASON, NO_REASON, *sorted(it.value for it in Reason)]),
        metavar="REASON",
        help="Whose last update failed for this reason; any: for whichever; none: for none that was told.",
    ),
    click.option("--quiet-for", "quiet_for_s", type=Duration(), metavar="TIME", help="Away for so long, as 24h or 7d."),
    click.option("--locked/--not-locked", default=None, help="Locked to a version, or not."),
    click.option("--revoked/--not-revoked", default=None, help="Shut out, or not."),
    click.option("--refused/--not-refused", default=None, help="That refused something they were sent, or nothing."),
    click.option(
        "--waits",
        type=click.Choice(sorted(it.value for it in Wait)),
        metavar="WHY",
        help="On which something waits for this: turn, consent, declined, window, requirement and so on.",
    ),
    click.option(
        "--trouble",
        type=click.Choice([it.value for it in Trouble]),
        metavar="WHY",
        help="That need somebody for this, as `status` counts: taken_back, failed, refused, certificate and so on.",
    ),
    click.option(
        "--certificate",
        type=click.Choice([it.value for it in CertificateStanding]),
        metavar="HOW",
        help="Whose newest certificate is none, good, expires_soon (within two weeks), expired or revoked.",
    ),
    click.option(
        "--decision",
        type=click.IntRange(min=1),
        metavar="N",
        help="That one decision for many changed, by its number in the audit.",
    ),
)


def filter_options(function: F) -> F:
    """Add the options that say which devices are meant; `where_of` makes of them what the API is asked."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def where_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is asked for, without what is not; the product apart, that is what the API is asked."""
    asked = {name: value for name, value in options.items() if value is not None and value != ()}
    if "attribute" in asked:
        asked["attribute"] = list(asked["attribute"])
    return asked
