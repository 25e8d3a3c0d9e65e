"""Measure what the zoo's VAE and CLIP let through, on validation subjects: `python benchmarks/zoo_upper_bounds.py`.

The identity of fresh drawings after the VAE is an upper bound for any adapter. How well a linear map reads a trait from
the embedding of a portrait (R squared, held out) is one for a linear image projection, and so is the identity of
subjects that are drawn again from the traits that it reads.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F

from a4a.backbones import load_pipeline
from a4a.encoders.clip import CLIPImageEncoder
from a4a.evaluation.methods import HeldOutPhoto
from a4a.evaluation.statistics import bootstrap_mean
from a4a.utils.images import to_pil, to_tensor
from a4a.zoo.dataset import draw_bytes
from a4a.zoo.drawing import draw
from a4a.zoo.evaluation import Identity, WorldValidator
from a4a.zoo.registry import MODELS
from a4a.zoo.world import Subjects, Views


@torch.no_grad()
def through_the_vae() -> None:
    """Print the scores of fresh drawings after the VAE."""
    validator, vae = WorldValidator("validation", 100), load_pipeline(MODELS / "pixart-mini").vae
    drawings = to_tensor(HeldOutPhoto().generate(validator.task, range(len(validator.task)), []))
    torch.manual_seed(0)
    decoded = torch.cat(
        [vae.decode(vae.encode(d * 2 - 1).latent_dist.sample()).sample / 2 + 0.5 for d in drawings.split(50)]
    )
    scores = validator.score(to_pil(decoded))
    print(f"fresh drawings through the VAE: identity {scores['identity']}, found of 100 {scores['retrieval'].mean:.0%}")


@torch.no_grad()
def linear_probe(count: int = 3000, held_out: int = 600) -> None:
    """Print how well a linear map reads each trait, and the identity of subjects drawn from what it reads."""
    subjects, views = Subjects.sample(count, "validation"), Views.sample(count, 77).as_portraits()
    encoder = CLIPImageEncoder.from_pretrained(MODELS / "clip-large" / "image_encoder")
    embeds = torch.cat([encoder(p.float() / 255) for p in draw_bytes(subjects, views).split(250)])
    inputs = torch.cat([embeds, torch.ones(count, 1)], dim=1)
    known, new = inputs[:-held_out], inputs[-held_out:]
    turns = ("skin_hue", "hat_hue", "pattern_hue", "eye_hue")
    lengths = ("lightness", "eye_size", "eye_distance")
    kinds = {"shape": 4, "ears": 4, "pattern": 4, "hat": 4}
    targets = {name: F.one_hot(getattr(subjects, name), n).float() for name, n in kinds.items()}
    targets |= {
        n: torch.stack([(getattr(subjects, n) * 2 * math.pi).cos(), (getattr(subjects, n) * 2 * math.pi).sin()], 1)
        for n in turns
    }
    targets |= {name: getattr(subjects, name)[:, None] for name in lengths}
    targets["scene"] = F.one_hot(views.scene).float()
    read = {}
    for name, target in targets.items():
        weights = torch.linalg.solve(known.T @ known + 0.1 * torch.eye(known.shape[1]), known.T @ target[:-held_out])
        expected = target[-held_out:]
        read[name] = new @ weights
        error = (read[name] - expected).square().sum() / (expected - expected.mean(0)).square().sum()
        print(f"{name:14} R squared {1 - float(error):5.2f}")
    traits = {name: read[name].argmax(1) for name in kinds}
    traits |= {name: torch.atan2(read[name][:, 1], read[name][:, 0]) / (2 * math.pi) % 1 for name in turns}
    traits |= {name: read[name][:, 0] for name in lengths}
    true, others = subjects[-held_out:], Views.sample(held_out, 78)
    encoder = Identity()
    portraits = encoder.unit_vectors(to_pil(draw(true, Views.sample(held_out, 79).as_portraits())))
    for source, drawn in (("the true traits", true), ("the traits that were read", replace(true, **traits))):
        identity = (encoder.unit_vectors(to_pil(draw(drawn, others))) * portraits).sum(1)
        print(f"drawn again from {source}: identity {bootstrap_mean(identity.double().numpy()[:, None])}")


if __name__ == "__main__":
    through_the_vae()
    linear_probe()
