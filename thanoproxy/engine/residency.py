"""Models kept in memory, the least recently used dropped first: one load per model for all sessions, one backbone for all models of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from thanoproxy.catalog.artifacts import ArtifactStore
from thanoproxy.engine.device import Device
from thanoproxy.engine.model import Model, load_model

__all__ = ["Residency"]


class Residency:
    """The models of one device, within `budget` bytes of weights; the model in use stays however large it is.

    Any thread may call it.  Two that want the same model at once wait for one load; different models load side by side.
    """

    def __init__(
        self, store: ArtifactStore, device: Device, budget: int, load: Callable[[ArtifactStore, str, Device], Model] = load_model
    ) -> None:
        self._store = store
        self._device = device
        self._budget = budget
        self._load = load
        self._models: OrderedDict[str, _Resident] = OrderedDict()
        self._loading: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, identity: str, *, verify: bool = False) -> Model:
        """The model of artifact `identity`, loaded and verified if it is not here.

        With `verify`, a model whose files have changed since they were read is read again.  Raises `ArtifactCorrupt`.
        """
        with self._lock:
            loading = self._loading.setdefault(identity, threading.Lock())
        with loading:
            resident = self._models.get(identity)
            if resident is not None and verify and resident.stamp != self._store.stamp(identity):
                self.drop(identity)
                resident = None
            if resident is None:
                # The stamp comes first: a change during the load is seen the next time.
                stamp = self._store.stamp(identity)
                resident = _Resident(stamp, self._shared(self._load(self._store, identity, self._device)))
            with self._lock:
                self._models[identity] = resident
                self._models.move_to_end(identity)
                self._evict()
        return resident.model

    def drop(self, identity: str) -> None:
        """Forget a model; whoever is using it still may."""
        with self._lock:
            self._models.pop(identity, None)

    def loaded(self, identity: str) -> Model | None:
        """The model if it is here; does not wait, and counts as use."""
        with self._lock:
            resident = self._models.get(identity)
            if resident is None:
                return None
            self._models.move_to_end(identity)
            return resident.model

    def _shared(self, model: Model) -> Model:
        """The same model with the network of one that is here, if its backbone is the same."""
        with self._lock:
            others = [one.model for one in self._models.values() if one.model.backbone == model.backbone]
        return replace(model, network=others[0].network) if others else model

    def _evict(self) -> None:
        while len(self._models) > 1 and self._held > self._budget:
            self._models.popitem(last=False)
            self._device.release()

    @property
    def _held(self) -> int:
        """In bytes; of those that share a backbone the first counts whole, and of the others their head."""
        whole = {resident.model.backbone: resident.model for resident in self._models.values()}
        heads = sum(resident.model.head_bytes for resident in self._models.values())
        return heads + sum(model.size_bytes - model.head_bytes for model in whole.values())


class _Resident:
    def __init__(self, stamp: object, model: Model) -> None:
        self.stamp = stamp
        self.model = model
