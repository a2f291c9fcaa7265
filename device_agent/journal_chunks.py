"""Which chunks of an image are on the disk: bitmaps and chunk lists, written after the data itself is durable.

`image` is the digest of the image that is being fetched, `blob` that of a blob that it is made from. What is noted
here may be less than what is on the disk, never more: forget an image before its data is discarded.
"""

from __future__ import annotations

from device_agent.journal_database import Database


class ChunkStore:
    """Keeps the received chunks of images. Thread-safe; raises JournalError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def bitmap(self, image: str, blob: str) -> bytes | None:
        """Return which chunks of a blob are durable, as it was stored, or None."""
        rows = self._database.rows("SELECT bitmap FROM chunks WHERE image = ? AND blob = ?", image, blob)
        return bytes(rows[0][0]) if rows else None

    def save_bitmap(self, image: str, blob: str, bitmap: bytes) -> None:
        """Store which chunks of a blob are durable."""
        self._database.write("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", image, blob, bitmap)

    def chunk_list(self, blob: str) -> bytes | None:
        """Return a chunk list that was received and verified whole, by its own digest, or None."""
        rows = self._database.rows("SELECT content FROM chunk_lists WHERE blob = ?", blob)
        return bytes(rows[0][0]) if rows else None

    def save_chunk_list(self, image: str, blob: str, content: bytes) -> None:
        """Store a chunk list for as long as its image is being fetched."""
        self._database.write("INSERT OR REPLACE INTO chunk_lists VALUES (?, ?, ?)", blob, image, content)

    def forget(self, image: str) -> None:
        """Forget what was received of an image."""
        with self._database.transaction():
            self._database.write("DELETE FROM chunks WHERE image = ?", image)
            self._database.write("DELETE FROM chunk_lists WHERE image = ?", image)

    def forget_others(self, image: str) -> None:
        """Forget what was received of every other image."""
        with self._database.transaction():
            self._database.write("DELETE FROM chunks WHERE image != ?", image)
            self._database.write("DELETE FROM chunk_lists WHERE image != ?", image)
