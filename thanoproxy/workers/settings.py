"""What a pool of workers is told when it starts: plain data, so that it can cross to another process."""

from __future__ import annotations

from typing import Literal

import msgspec

from thanoproxy.images.settings import RemoteSettings, StoreSettings

__all__ = ["MIB", "RemoteSettings", "StoreSettings", "WorkerSettings"]

MIB = 1024 * 1024


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes.

    `devices`: 'auto' (every CUDA device, or else the CPU), or names such as 'cpu', 'cuda:0', one worker for each.
    `build_devices`: 'own' (a BUILD has its worker's device), 'all', or names of devices that it may use besides.
    `threads`: cores for computing; `loader_threads`: for reading and decoding; None means as many as the process may use.
    `compile`: 'auto': networks are compiled in the background on CUDA; 'off': nowhere.
    `decoders`: whether those threads decode themselves or each has a process for it; 'auto': processes beside a GPU on many cores.
    `gpu_decode`: whether the device decodes plain JPEG files itself (on a CPU, too, where that is no use but for tests).
    `hang_after`: seconds after which one that gets on with nothing is replaced; 0: never.
    `queue_rows`: how many rows may wait at one worker when another statement begins; it is refused else (`TooManyRequests`).
    """

    artifacts_url: str
    image_roots: tuple[str, ...] = ()
    remote_images: RemoteSettings = RemoteSettings()
    weights_roots: tuple[str, ...] = ()
    file_roots: tuple[str, ...] = ()
    allow_download: bool = False
    devices: tuple[str, ...] = ("auto",)
    build_devices: tuple[str, ...] = ("own",)
    threads: int | None = None
    loader_threads: int | None = None
    compile: Literal["auto", "off"] = "auto"
    decoders: Literal["auto", "threads", "processes"] = "auto"
    gpu_decode: bool = False
    model_memory: int = 4096 * MIB
    pixel_cache: int = 1024 * MIB
    prediction_cache: int = 256 * MIB
    hang_after: float = 300.0
    queue_rows: int = 65536
