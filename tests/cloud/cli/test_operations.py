"""Every command is an operation of the API, or happens on this machine alone: so every command has a rule."""

from collections.abc import Iterator
from typing import Final

import click

from cloud.access.roles import Role
from cloud.access.rules import RULES, Subject
from cloud.cli import fleetlift

LOCAL: Final = {
    *("init", "serve", "demo", "doctor", "simulate", "completion", "see", "login", "logout"),
    *("context list", "context remove", "context show", "context use"),
    *("operator add", "operator list", "operator revoke"),  # on the server's own machine, with its home
    *("firmware build", "firmware sign"),
    *("key add", "key create", "key import", "key join", "key protect", "key public", "key renew", "key replace"),
    *("key revoke", "key show", "key sign", "key threshold", "key online add", "key online replace"),
    "key online retire",
}
"""They work on files of this machine; the drafts that some of them make are for `key publish`."""
COMMANDS: Final = {
    "audit export": "export_audit",
    "audit list": "list_audit",
    "audit verify": "export_audit",
    "api-token create": "create_token",
    "api-token list": "list_tokens",
    "api-token revoke": "revoke_token",
    "ca fetch": "list_authorities",
    "ca list": "list_authorities",
    "ca retire": "retire_authority",
    "ca rotate": "rotate_authority",
    "console": "create_login_code",
    **dict.fromkeys(
        (f"device bulk {it}" for it in ("add", "lock", "ota", "remove", "revoke", "unlock")), "change_devices"
    ),
    "device certificates": "list_certificates",
    "device enrol": "prepare_devices",
    "device history": "show_history",
    "device import": "import_fleet",
    "device list": "list_devices",
    "device lock": "lock_device",
    "device revoke": "revoke_device",
    "device show": "show_device",
    "device timeline": "show_device_timeline",
    "device unlock": "unlock_device",
    "device why": "show_why",
    "firmware list": "list_firmware",
    "firmware matrix": "show_matrix",
    "firmware retire": "publish_role",
    "firmware role": "publish_role",
    "firmware show": "show_firmware",
    "firmware upload": "put_blob",
    "group add": "change_members",
    "group create": "create_group",
    "group delete": "delete_group",
    "group list": "list_groups",
    "group rank": "change_group",
    "group remove": "change_members",
    "group show": "show_group",
    "group test": "try_query",
    "group where": "change_group",
    "key fetch": "show_metadata",
    "key list": "show_standing",
    "key metadata": "show_metadata",
    "key online prepare": "prepare_online_key",
    "key publish": "accept_metadata",
    "ota cancel": "cancel_ota",
    "ota show": "show_ota",
    "ota start": "create_ota",
    "person add": "add_person",
    "person disable": "change_person",
    "person enable": "change_person",
    "person grant": "set_grant",
    "person list": "list_people",
    "person password": "set_password",
    "person show": "show_person",
    "person withdraw": "withdraw_grant",
    "product create": "create_product",
    "product disable": "change_product",
    "product enable": "change_product",
    "product list": "list_products",
    "product set": "change_product",
    "product show": "show_product",
    "release abort": "abort_rollout",
    "release advance": "advance_rollout",
    "release approve": "approve_rollout",
    "release disable": "patch_release",
    "release enable": "patch_release",
    "release list": "list_releases",
    "release needs": "show_needs",
    "release now": "patch_release",
    "release patch": "patch_release",
    "release pause": "pause_release",
    "release plan": "plan_release",
    "release promote": "promote_release",
    "release push": "create_release",
    "release resume": "resume_release",
    "release retry": "retry_release",
    "release rollback": "roll_back",
    "release rollout": "show_rollout",
    "release show": "show_release",
    "release status": "show_progress",
    "release timeline": "show_release_timeline",
    "set add": "change_set_members",
    "set create": "create_set",
    "set delete": "delete_set",
    "set list": "list_sets",
    "set remove": "change_set_members",
    "set show": "show_set",
    "set take-turn-away": "take_turn_away",
    "status": "show_fleet",
    "token create": "create_enrolment_token",
    "token list": "list_enrolment_tokens",
    "token revoke": "revoke_enrolment_token",
    "webhook add": "add_webhook",
    "webhook disable": "change_webhook",
    "webhook enable": "change_webhook",
    "webhook list": "list_webhooks",
    "webhook remove": "remove_webhook",
    "webhook show": "show_webhook",
    "webhook test": "try_webhook",
}
"""What each command does in the end; what it looks up before takes no more than that."""
FOR_PROGRAMS: Final = {
    *("list_attempts", "list_events", "show_metrics", "show_decisions", "show_blob", "show_audit_head"),
    *("show_me", "show_system", "enrol_device", "forecast_release", "check_plan", "release_by_plan"),
    "show_waiting",
    *("show_fleet_history", "show_running", "list_attention", "verify_audit"),
    *("find_same_release", "explain_match", "list_dependants"),
}
"""Operations that are no command of their own; `ota`, `status`, `release push` and others call some of them."""


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[str]:
    if not isinstance(command, click.Group):
        yield " ".join(path)
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*path, name))


def test_every_command_is_an_operation_with_a_rule_or_local() -> None:
    commands = set(leaves(fleetlift))
    assert commands - LOCAL == set(COMMANDS) - (LOCAL - commands)
    assert set(COMMANDS.values()) <= set(RULES)


def test_every_operation_is_a_commands_or_for_programs() -> None:
    assert set(RULES) == set(COMMANDS.values()) | FOR_PROGRAMS
    assert not set(COMMANDS.values()) & FOR_PROGRAMS


def test_what_a_viewer_cannot_do_changes_something() -> None:
    """Whoever may only look has all commands that list and show, and none that change anything of the fleet."""
    allowed = {name for name, operation in COMMANDS.items() if RULES[operation].role is Role.VIEWER}
    words = {name.rpartition(" ")[2] for name in allowed if RULES[COMMANDS[name]].of is not Subject.KNOWN}
    assert words == {
        *("list", "show", "export", "verify", "fetch", "certificates", "history", "timeline", "why", "matrix", "test"),
        *("metadata", "needs", "rollout", "status"),
    }
