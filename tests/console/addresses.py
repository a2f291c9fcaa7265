"""Every page of the console, by name: what is looked at for accessibility, in each width, and in pictures."""

from cloud.store.store import Store
from tests.cloud.homes import PRODUCT

DEVICE = "north-03"


def addresses(store: Store) -> dict[str, str]:
    """Return name and address of each page of the small fleet."""
    releases = {it.label: it.release_id for it in store.releases.releases(product=PRODUCT)}
    running, stopped = releases[max(releases)], releases[3]
    return {
        "overview": "/",
        "products": "/products",
        "product": f"/products/{PRODUCT}",
        "channel": f"/products/{PRODUCT}/app/everyone",
        "release-form": f"/products/{PRODUCT}/app/everyone/release",
        "release": f"/releases/{running}",
        "release-stopped": f"/releases/{stopped}",
        "release-edit": f"/releases/{running}/edit",
        "release-now": f"/releases/{running}/now",
        "promote": f"/releases/{releases[2]}/promote",
        "roll-back": f"/releases/{releases[2]}/rollback",
        "devices": "/devices",
        "device": f"/devices/{DEVICE}",
        "groups": "/groups",
        "group": f"/groups/{PRODUCT}/field-north",
        "firmware": "/firmware",
        "firmware-one": f"/firmware/{PRODUCT}/app/2.0.0",
        "enrolment": "/enrolment",
        "people": "/people",
        "person": "/people/ann",
        "audit": "/audit",
        "webhooks": "/settings/webhooks",
    }
