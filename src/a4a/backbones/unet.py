"""U-Nets with cross-attention to text: Stable Diffusion 1.5, 2.1 and SDXL."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from a4a.backbones.base import Backbone, Text
from a4a.features import Site


class UNet(Backbone):
    denoisers = ("UNet2DConditionModel",)

    @classmethod
    def find_sites(cls, denoiser: nn.Module) -> tuple[Site, ...]:
        """In the order of published IP-Adapters: down, up, middle; the order of execution has the middle in between."""
        names = [name for name, _ in denoiser.named_modules() if name.endswith(".attn2")]
        parts = {part: [n for n in names if n.startswith(part)] for part in ("down_blocks", "mid_block", "up_blocks")}
        executed = parts["down_blocks"] + parts["mid_block"] + parts["up_blocks"]
        depth = {name: i / max(len(executed) - 1, 1) for i, name in enumerate(executed)}
        order = parts["down_blocks"] + parts["up_blocks"] + parts["mid_block"]
        return tuple(Site(name, denoiser.get_submodule(name).to_k.out_features, depth[name]) for name in order)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]

    @property
    def _is_xl(self) -> bool:
        return self.denoiser.config.addition_embed_type == "text_time"

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        arguments = {
            "prompt": list(prompts),
            "device": self.device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
        }
        encoded = self.pipe.encode_prompt(**arguments)  # pyright: ignore[reportAttributeAccessIssue]
        names = ("states", "", "pooled", "") if self._is_xl else ("states", "")
        return {name: tensor.cpu() for name, tensor in zip(names, encoded, strict=True) if name}

    def no_text(self) -> Text:
        text = self.encode_text([""])
        zeros = self._is_xl and self.pipe.config.force_zeros_for_empty_prompt  # pyright: ignore[reportAttributeAccessIssue]
        return {name: torch.zeros_like(t) for name, t in text.items()} if zeros else text

    def text_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
        config = self.denoiser.config
        tokenizer = getattr(self.pipe, "tokenizer", None)
        shapes = {
            "states": ((tokenizer.model_max_length if tokenizer is not None else 77, config.cross_attention_dim), None)
        }
        if self._is_xl:
            shapes["pooled"] = (
                (config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim,),
                None,
            )  # pyright: ignore[reportArgumentType]
        return shapes  # pyright: ignore[reportReturnType]

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Text) -> Tensor:
        added = {}
        if self._is_xl:
            factor = self.pipe.vae_scale_factor  # pyright: ignore[reportAttributeAccessIssue]
            height, width = (side * factor for side in noisy.shape[-2:])
            ids = noisy.new_tensor([[height, width, 0, 0, height, width]])  # original size, crop, target size
            added = {
                "added_cond_kwargs": {"text_embeds": text["pooled"].to(noisy), "time_ids": ids.expand(len(noisy), -1)}
            }
        return self.denoiser(noisy, timesteps, text["states"].to(noisy), **added).sample
