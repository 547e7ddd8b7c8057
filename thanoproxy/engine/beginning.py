"""What a training begins with: random weights, an architecture's published ones, or a model (FIT)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import nn

from thanoproxy.catalog.artifacts import ArtifactStore
from thanoproxy.engine.model import read_preprocessing
from thanoproxy.errors import ArtifactCorrupt, ThanoError
from thanoproxy.models import registry
from thanoproxy.models.architecture import Architecture, Recipe
from thanoproxy.models.preprocessing import Preprocessing
from thanoproxy.models.weights import Weights, WeightsFinder, put_into
from thanoproxy.workers import jobs

__all__ = ["Beginning", "begin"]


@dataclass(frozen=True)
class Beginning:
    """`weights` is None for random ones; `known` are the classes of the model they come from, in its order, none if it is no model."""

    architecture: Architecture
    preprocessing: Preprocessing
    weights: Weights | None
    known: tuple[str, ...] = ()

    def network(self, classes: list[str], recipe: Recipe, seed: int) -> nn.Module:
        """The network for these classes, among which are the known ones."""
        torch.manual_seed(seed)
        if self.weights is None:
            return self.architecture.make(len(classes), pretrained=False, drop_path=recipe.drop_path)
        with torch.device("meta"):  # without random weights, which take longer to draw than these to read
            network = self.architecture.make(len(classes), pretrained=True, drop_path=recipe.drop_path)
        network.to_empty(device="cpu")
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
                module.num_batches_tracked.zero_()  # a file of weights may lack it
        put_into(network, self.weights, self.architecture)
        head = self.architecture.head(network)
        if self.known:
            self._extend(head, self.weights, [classes.index(label) for label in self.known])
        else:
            nn.init.trunc_normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        return network

    @torch.no_grad()
    def _extend(self, head: nn.Linear, weights: Weights, places: list[int]) -> None:
        """Known labels keep what was learnt of them; a new one begins without an opinion."""
        for name, parameter in head.named_parameters():
            parameter.zero_()
            parameter[places] = weights.tensors[f"{self.architecture.head_name}.{name}"].to(parameter.dtype)


def begin(request: jobs.Build, options: jobs.TrainOptions, finder: WeightsFinder, store: ArtifactStore) -> Beginning:
    """Find what `request` begins with.  Raises `FileUnavailable` and `InvalidOption`, or `ArtifactCorrupt` for a FIT."""
    if request.start is not None:
        return _begin_with(request.start, store)
    architecture = registry.lookup(request.architecture).load()
    preprocessing = architecture.preprocessing(input_size=options.input_size, color=options.color, pretrained=options.pretrained)
    weights = finder.find(architecture, options.weights) if options.pretrained else None
    return Beginning(architecture, preprocessing, weights)


def _begin_with(artifact: str, store: ArtifactStore) -> Beginning:
    manifest = store.manifest(artifact)
    data = store.weights(artifact, manifest)
    try:
        architecture = registry.lookup(manifest.architecture).load()
        weights = Weights(f"{artifact[:12]}…", load_safetensors(data))
    except (SafetensorError, ThanoError) as error:
        raise ArtifactCorrupt(f"model artifact {artifact[:12]}… does not fit {manifest.architecture}", detail=str(error)) from error
    return Beginning(architecture, read_preprocessing(artifact, manifest), weights, tuple(manifest.classes))
