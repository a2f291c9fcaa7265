"""Whether a release was made already, exactly so: what lets a pipeline push twice and release once."""

from fastapi import APIRouter
from pydantic import BaseModel

from cloud.api.backend import Server
from cloud.api.documents import NewRelease, ReleasePage
from cloud.api.naming import find_firmware, find_group
from cloud.api.plans import policy_of
from cloud.api.releases import draft_of, page_of

router = APIRouter(tags=["releases"])


class SameRelease(BaseModel):
    """The release of the channel, Live or else the newest, that says the same, if there is one."""

    same: ReleasePage | None


@router.post("/releases/same")
def find_same_release(server: Server, body: NewRelease) -> SameRelease:
    """Tell whether a release was made already with this firmware and these parameters; changes nothing.

    It is looked for where it would make a difference: the Live release of the channel, or the newest where that was
    disabled. Descriptions, and what was changed of a release after it was made, do not count.
    """
    find_group(server.store, body.product, body.group)
    find_firmware(server.store, body.product, body.component, body.version)
    draft = draft_of(body, None)
    found = server.store.releases.same(draft, policy_of(body.plan, draft.terms))
    return SameRelease(same=None if found is None else page_of(server, found))
