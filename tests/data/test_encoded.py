import pytest
import torch

from a4a.backbones import backbone_for
from a4a.data.encoded import encode
from a4a.data.pictures import Pictures


class Grey(Pictures):
    def __init__(self, count, side):
        self.count, self.side, self.key = count, side, f"{count} {side}"
        self.captions, self.pairs = ["a cat"] * count, torch.arange(count)[:, None].expand(-1, 2)

    def __len__(self):
        return self.count

    def pixels(self, indices):
        return torch.full((1, 1, 1, 1), 0.5).expand(len(indices), 3, self.side, self.side)


@pytest.mark.parametrize(("side", "batches"), [(16, [64, 2]), (512, [16, 2]), (1024, [4, 4, 1]), (2048, [1, 1])])
def test_large_pictures_go_through_the_vae_few_at_a_time(pixart, tmp_path, monkeypatch, side, batches):
    seen, count = [], sum(batches)
    backbone = backbone_for(pixart)
    monkeypatch.setattr(backbone, "encode_pixels", lambda pixels: seen.append(len(pixels)) or torch.zeros(len(pixels), 4, 1, 1))
    table = encode(Grey(count, side), backbone, None, tmp_path)
    assert seen == batches and table.latents.shape == (count, 4, 1, 1)
