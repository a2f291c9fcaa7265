"""The fleet over time: a sample every ten minutes in which something changed, thinned as it grows old."""

import asyncio
from typing import Final

from cloud.store.samples import Samples

SAMPLE_EVERY_S: Final = 600.0


class Sampling:
    """Takes samples, and thins out the old ones."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    async def step(self) -> None:
        """Take a sample of what has changed, forget what is too fine by now, then wait a while."""
        await asyncio.to_thread(self._samples.take)
        await asyncio.to_thread(self._samples.thin)
        await asyncio.sleep(SAMPLE_EVERY_S)
