"""Put on the PYTHONPATH of worker processes: images that kill them, or that they hang of.

deadly:…    the process is killed while it is read, as by a decoder's segmentation fault
frozen:…    it is never read to the end, as from a server that went away
stuck:…     the device never ends the batch that it computes next, as in a driver that hangs
"""

from __future__ import annotations

import os
import signal
import time
from typing import Self

from thanoproxy import images
from thanoproxy.images.source import Setup, Source

FOREVER = 3600


class Deadly(Source):
    @classmethod
    def open(cls, setup: Setup) -> Self:
        return cls()

    def claims(self, image: str | bytes) -> bool:
        return isinstance(image, str) and image.startswith(("deadly:", "frozen:", "stuck:"))

    def read(self, image: str | bytes) -> bytes:
        assert isinstance(image, str)
        if image.startswith("deadly:"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif image.startswith("frozen:"):
            time.sleep(FOREVER)
        from thanoproxy.engine import inference

        inference.normalize = lambda *_: time.sleep(FOREVER)
        return b""


images.SOURCES = (Deadly, *images.SOURCES)
