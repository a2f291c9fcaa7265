"""Who may call which operation: every route of the API by its name, and what it is about.

Roles are for a product, or for `*`, which is all of them and the server itself. A route without a rule is for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from cloud.access.roles import Role

Body = Mapping[str, Any]


class Subject(StrEnum):
    """What an operation is about: where its product is found."""

    SERVER = "server"
    """The server itself: a role for `*`."""
    ANY = "any"
    """A role for some product; the handler shows what belongs to the caller's products."""
    KNOWN = "known"
    """Whoever has shown who they are."""
    PRODUCT = "product"
    """The product in the path."""
    BODY = "body"
    """The product in the body."""
    BODY_OR_ALL = "body or all"
    """The product in the body; without one, all."""
    DEVICES = "devices"
    """Every product of the devices in the body."""
    METADATA = "metadata"
    """The products whose signed roles are in the body; root or targets are the server's."""
    DEVICE = "device"
    RELEASE = "release"
    OTA = "ota"
    WEBHOOK = "webhook"
    """The webhook's product; one without is told of all."""
    SET = "set"
    """Every product of the set's members, and of the devices that are to become members."""
    ENROLMENT_TOKEN = "enrolment token"  # noqa: S105 - a name
    PERSON = "person"
    """One's own; others' are the server's."""
    TOKEN = "token"  # noqa: S105 - a name
    """One's own; others' are the server's."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The least role for an operation on what it is `of`; `asks` says which one it takes for what the body says."""

    role: Role
    of: Subject
    asks: Callable[[Body], Role] | None = None

    def role_for(self, body: Body) -> Role:
        """Return the role that this very request takes."""
        return self.role if self.asks is None else self.asks(body)


def _disabling(body: Body) -> Role:
    """Whoever moves devices may stop a release, and nothing else of it."""
    return Role.OPERATOR if body == {"enabled": False} else Role.RELEASE_MANAGER


def _forcing(body: Body) -> Role:
    """Going over what an application asked for is a decision about what runs."""
    return Role.RELEASE_MANAGER if body.get("forced") not in (None, False) else Role.OPERATOR


def _signed(body: Body) -> Role:
    server = any(body.get(name) is not None for name in ("root", "targets"))
    return Role.ADMIN if server else Role.RELEASE_MANAGER


VIEWER, OPERATOR, MANAGER, ADMIN = Role.VIEWER, Role.OPERATOR, Role.RELEASE_MANAGER, Role.ADMIN
_READS: Final = {
    Subject.KNOWN: ("show_system", "show_me"),
    Subject.ANY: (
        *("list_products", "list_groups", "list_firmware", "list_releases", "list_devices", "list_attempts"),
        *("list_sets", "list_webhooks", "list_enrolment_tokens", "list_events", "list_people"),
        *("show_blob", "show_standing", "show_metadata", "show_fleet", "list_attention", "show_fleet_history"),
    ),
    Subject.SERVER: (
        *("list_audit", "show_audit_head", "verify_audit", "export_audit", "show_metrics"),
        *("list_authorities", "list_dependants"),
    ),
    Subject.PRODUCT: (
        *("show_product", "show_group", "explain_match", "try_query", "show_firmware", "show_running", "show_matrix"),
    ),
    Subject.DEVICE: (
        *("show_device", "show_history", "show_decisions", "show_why", "show_device_timeline", "list_certificates"),
    ),
    Subject.RELEASE: (
        *("show_release", "show_progress", "show_waiting", "show_rollout", "show_needs", "show_release_timeline"),
    ),
    Subject.OTA: ("show_ota",),
    Subject.SET: ("show_set",),
    Subject.WEBHOOK: ("show_webhook",),
}
_DECISIONS: Final[Mapping[str, Rule]] = {
    # Moving devices, and stopping what moves
    "enrol_device": Rule(OPERATOR, Subject.BODY),
    "prepare_devices": Rule(OPERATOR, Subject.BODY),
    "import_fleet": Rule(OPERATOR, Subject.DEVICES),
    "create_enrolment_token": Rule(OPERATOR, Subject.BODY),
    "revoke_enrolment_token": Rule(OPERATOR, Subject.ENROLMENT_TOKEN),
    "lock_device": Rule(OPERATOR, Subject.DEVICE),
    "unlock_device": Rule(OPERATOR, Subject.DEVICE),
    "revoke_device": Rule(OPERATOR, Subject.DEVICE),
    "take_turn_away": Rule(OPERATOR, Subject.DEVICE),
    "change_devices": Rule(OPERATOR, Subject.BODY, _forcing),
    "create_ota": Rule(OPERATOR, Subject.DEVICE, _forcing),
    "cancel_ota": Rule(OPERATOR, Subject.OTA),
    "change_members": Rule(OPERATOR, Subject.PRODUCT),
    "change_set_members": Rule(OPERATOR, Subject.SET),
    "forecast_release": Rule(OPERATOR, Subject.BODY),
    "find_same_release": Rule(OPERATOR, Subject.BODY),
    "plan_release": Rule(OPERATOR, Subject.BODY),
    "check_plan": Rule(OPERATOR, Subject.BODY),
    "pause_release": Rule(OPERATOR, Subject.RELEASE),
    "resume_release": Rule(OPERATOR, Subject.RELEASE),
    "abort_rollout": Rule(OPERATOR, Subject.RELEASE),
    "retry_release": Rule(OPERATOR, Subject.RELEASE),
    "patch_release": Rule(MANAGER, Subject.RELEASE, _disabling),
    # Deciding what runs
    "put_blob": Rule(MANAGER, Subject.ANY),
    "publish_role": Rule(MANAGER, Subject.PRODUCT),
    "create_release": Rule(MANAGER, Subject.BODY),
    "release_by_plan": Rule(MANAGER, Subject.BODY),
    "roll_back": Rule(MANAGER, Subject.RELEASE),
    "promote_release": Rule(MANAGER, Subject.RELEASE),
    "advance_rollout": Rule(MANAGER, Subject.RELEASE),
    "approve_rollout": Rule(MANAGER, Subject.RELEASE),
    "create_group": Rule(MANAGER, Subject.BODY),
    "change_group": Rule(MANAGER, Subject.PRODUCT),
    "delete_group": Rule(MANAGER, Subject.PRODUCT),
    "create_set": Rule(MANAGER, Subject.ANY),
    "delete_set": Rule(MANAGER, Subject.SET),
    "accept_metadata": Rule(ADMIN, Subject.METADATA, _signed),
    # Saying who may what, and how things work
    "create_product": Rule(ADMIN, Subject.SERVER),
    "change_product": Rule(ADMIN, Subject.PRODUCT),
    "add_webhook": Rule(ADMIN, Subject.BODY_OR_ALL),
    "change_webhook": Rule(ADMIN, Subject.WEBHOOK),
    "remove_webhook": Rule(ADMIN, Subject.WEBHOOK),
    "try_webhook": Rule(ADMIN, Subject.WEBHOOK),
    "rotate_authority": Rule(ADMIN, Subject.SERVER),
    "retire_authority": Rule(ADMIN, Subject.SERVER),
    "prepare_online_key": Rule(ADMIN, Subject.SERVER),
    "add_person": Rule(ADMIN, Subject.SERVER),
    "change_person": Rule(ADMIN, Subject.SERVER),
    "show_person": Rule(VIEWER, Subject.PERSON),
    "set_password": Rule(ADMIN, Subject.PERSON),
    "set_grant": Rule(ADMIN, Subject.PRODUCT),
    "withdraw_grant": Rule(ADMIN, Subject.PRODUCT),
    # One's own
    "list_tokens": Rule(VIEWER, Subject.KNOWN),
    "create_token": Rule(VIEWER, Subject.KNOWN),
    "revoke_token": Rule(ADMIN, Subject.TOKEN),
    "create_login_code": Rule(VIEWER, Subject.KNOWN),
}
RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {name: Rule(VIEWER, of) for of, names in _READS.items() for name in names} | dict(_DECISIONS)
)
"""By operation id, which is the name of the handler's function."""
