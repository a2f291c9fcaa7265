"""What a device with an identity asks its server for: its next certificate, and the authorities of today. Blocking."""

from __future__ import annotations

import base64
import dataclasses
import logging
from collections.abc import Callable

from device_agent.clock import DeviceClock
from device_agent.identity.access import IdentityAccess
from device_agent.identity.certificates import blocks
from device_agent.identity.keys import Keys, der_of
from device_agent.identity.server import KEY_TAKEN, EnrolmentServer, ServerError
from device_agent.identity.store import Identity, IdentityStore
from device_agent.tls import verifying_context
from protocol.enrolment import RENEWAL_CONTEXT, RenewalRequest

_LOG = logging.getLogger(__name__)


class Asking:
    """One thing at a time. All raise ServerError, KeyFileError and IdentityFilesError; then all is as it was."""

    def __init__(self, store: IdentityStore, keys: Keys, clock: DeviceClock, url: Callable[[Identity], str]) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._url = url
        self._access = IdentityAccess(store, clock)

    def certificate(self, identity: Identity) -> Identity:
        """Renew the certificate, with a new key; return the identity that is in force, durably, from now on."""
        url = self._url(identity)
        key = self._store.next_key(self._keys)
        request = self._keys.request(key, identity.device_id)
        signature = self._keys.sign(self._store.pair(identity), RENEWAL_CONTEXT + der_of(request))
        message = RenewalRequest(
            certificate=self._store.certificate_of(identity),
            csr=request,
            signature=base64.b64encode(signature).decode(),
        )
        try:
            answer = self._server(url).renew(message)
        except ServerError as error:
            if error.code == KEY_TAKEN:
                self._store.drop_key()
            raise
        answer = dataclasses.replace(answer, ca=self._proved(url, answer.ca))
        return self._store.adopt(answer, url, device_id=identity.device_id, product=identity.product)

    def authorities(self, identity: Identity) -> bool:
        """Take over the authorities of today; tell whether they changed."""
        url = self._url(identity)
        return self._store.keep_authorities(self._proved(url, self._server(url).trust().ca))

    def _server(self, url: str) -> EnrolmentServer:
        return EnrolmentServer(url, self._access.server, self._clock)

    def _proved(self, url: str, authorities: str) -> str:
        """Return `authorities` if the server is reached by them, else those that it is reached by now.

        They come from where the present ones lead to, so they are not doubted, but a mistake would be the last one.
        """
        present = self._store.authorities()
        if set(blocks(authorities)) == set(blocks(present)):
            return authorities
        try:
            EnrolmentServer(url, lambda: verifying_context(authorities, self._clock), self._clock).trust()
        except ServerError as error:
            _LOG.warning("the server's new authorities do not lead to it, and are not taken over: %s", error)
            return present
        return authorities
