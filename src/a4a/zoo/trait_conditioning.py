"""The second part of a denoiser's training: conditioned on a subject's traits, which captions never name."""

from typing import Any

import torch
from torch import Tensor

from a4a.adapters.base import ImagePromptAdapter
from a4a.adapters.ip_adapter import IPAdapter
from a4a.backbones import Backbone
from a4a.injection import Injection
from a4a.training.base import Batch
from a4a.training.denoising import Denoising, LearningRates, ObjectiveConfig
from a4a.zoo.world import Subjects


class TraitConditioned(Denoising):
    """The denoising loss of the whole denoiser, three times in four with an adapter on the subject's exact traits.

    A real text-to-image model has learned from captions how to be told what someone looks like. Captions of the world
    never name traits, so that a denoiser trained on them alone has no way to be conditioned on a subject, and no
    adapter can make it draw one well while it is frozen. The adapter of this training is thrown away after it.
    """

    text_only = 0.25
    """Share of the steps without the adapter."""

    def __init__(self, backbone: Backbone, rates: LearningRates):
        traits = Subjects.sample(1, "train").trait_vectors().shape[1]
        projection = {"image_embed_dim": traits}
        adapter = IPAdapter.from_denoiser(backbone.sites, backbone.text_projections(), projection)
        super().__init__(backbone, adapter, ObjectiveConfig(rates=rates))
        self.denoiser.train().requires_grad_(True)

    def parameter_groups(self) -> list[dict[str, Any]]:
        denoiser = {
            "name": "denoiser",
            "params": list(self.denoiser.parameters()),
            "lr": self.config.rates.denoiser,
        }
        return [*super().parameter_groups(), denoiser]

    def set_condition(
        self, injection: Injection, adapter: ImagePromptAdapter, batch: Batch, without_image: Tensor
    ) -> None:
        if torch.rand(()) < self.text_only:
            injection.clear()
        else:
            super().set_condition(injection, adapter, batch, without_image)
