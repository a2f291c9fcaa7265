"""The errors' tree: one root, each error in the room that raises it.

    FleetliftError
    ├── ProtocolError               bytes or values that do not follow docs/protocol.md
    │   ├── IdentityError           an id, a version or a version range that is not one
    │   ├── MessageError            a control message refused, with the field by name
    │   ├── ChunkError              a chunk or a chunk list that is not what was signed
    │   ├── ManifestError           signed firmware metadata that lacks or garbles a field
    │   └── EnrolmentError          an enrolment code or message that is not one
    ├── UserError                   a person's mistake: said in a sentence, never as a traceback
    └── (the wings' own errors: LinkError, StoreError, SlotError, JournalError, TrustError, ...)

A failed update is data (`phases.Reason`), never an exception.
"""

from __future__ import annotations


class FleetliftError(Exception):
    """The root of every error that this project raises."""


class ProtocolError(FleetliftError):
    """Something from the wire does not follow the protocol; `code` names the refusal in counters."""

    code = "malformed"


class IdentityError(ProtocolError):
    """An id, a version or a version range that is not one."""

    code = "bad_identity"


class MessageError(ProtocolError):
    """A control message was refused; the text names the field."""

    code = "bad_message"


class ChunkError(ProtocolError):
    """A chunk or a chunk list is not what the signed metadata promised."""

    code = "bad_chunk"


class ManifestError(ProtocolError):
    """Signed firmware metadata lacks or garbles a field."""

    code = "bad_manifest"


class EnrolmentError(ProtocolError):
    """An enrolment code, or a message of enrolment, that is not one; the text never repeats a secret."""

    code = "bad_enrolment"


class UserError(FleetliftError):
    """A person's mistake.

    The text says what happened, what was not changed and what to do; `exit_code` is the command's:
    1 failed, 2 usage, 3 timed out, 4 not allowed, 5 conflict.
    """

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
