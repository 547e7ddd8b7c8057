"""What a worker's BUILDs work with, as its settings say."""

from __future__ import annotations

from thanoproxy.catalog.artifacts import ArtifactStore
from thanoproxy.engine.build import Workshop
from thanoproxy.engine.device import Device
from thanoproxy.images import Sources
from thanoproxy.images.loader import LoaderThreads
from thanoproxy.models.weights import WeightsFinder
from thanoproxy.workers.ranks import starter
from thanoproxy.workers.settings import WorkerSettings

__all__ = ["open_workshop"]


def open_workshop(settings: WorkerSettings, device: Device, store: ArtifactStore, sources: Sources, threads: LoaderThreads) -> Workshop:
    """Raises `ConfigurationError` for devices that a BUILD cannot use."""
    weights = WeightsFinder(settings.weights_roots, allow_download=settings.allow_download)
    return Workshop(device, store, sources, threads, weights, settings.pixel_cache, starter(settings, device))
