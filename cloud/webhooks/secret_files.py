"""What webhooks are signed with: a private file for each, nowhere else; never in the database, an answer or a log."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cloud.durable import make_private_directory, sync_directory, write_durably
from cloud.store.errors import ConflictError, InvalidError, StoreError
from cloud.webhooks.letters import check_secret
from protocol.identity import check_id

MAX_BYTES = 1024


class SecretFiles:
    """The directory of the secrets, one file (0600) a webhook, called as it is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, name: str, secret: str) -> None:
        """Keep a new webhook's secret durably; ConflictError if there is one of that name."""
        path = self._path(name)
        try:
            make_private_directory(self._directory)
            write_durably(path, f"{check_secret(secret)}\n".encode(), replace=False)
        except FileExistsError:
            raise ConflictError(f"webhook {name} has a secret already; nothing was changed") from None
        except OSError as error:
            raise StoreError(f"the secret of webhook {name} cannot be kept: {error.strerror}") from error

    def read(self, name: str) -> str:
        """Return a webhook's secret; StoreError if it cannot be read, or is none."""
        try:
            with self._path(name).open(encoding="ascii") as file:
                return check_secret(file.read(MAX_BYTES).strip())
        except OSError as error:
            raise StoreError(f"the secret of webhook {name} cannot be read: {error.strerror}") from error
        except (UnicodeDecodeError, InvalidError):
            raise StoreError(f"the file of webhook {name}'s secret holds none") from None

    def remove(self, name: str) -> None:
        """Forget a webhook's secret; one that is not there is forgotten already."""
        with contextlib.suppress(FileNotFoundError):
            self._path(name).unlink()
            sync_directory(self._directory)

    def _path(self, name: str) -> Path:
        return self._directory / check_id(name, "webhook")
