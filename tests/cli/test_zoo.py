"""The commands of the zoo, without drawing."""

import pytest
from PIL import Image

from a4a.cli import zoo as commands


@pytest.mark.parametrize(("count", "size"), [(3, (48, 16)), (8, (128, 16)), (12, (128, 32)), (16, (128, 32))])
def test_all_samples_are_in_the_grid(count, size, tmp_path, monkeypatch):
    colours = [(10 * i, 0, 0) for i in range(count)]
    monkeypatch.setattr(commands, "load_pipeline", lambda _: None)
    monkeypatch.setattr(
        commands.WorldValidator, "generate", lambda *_: [Image.new("RGB", (16, 16), c) for c in colours]
    )
    commands.show("sd15-mini", tmp_path / "zoo.png", count)
    drawn = Image.open(tmp_path / "zoo.png")
    assert drawn.size == size
    assert {c for _, c in drawn.getcolors()} - {(255, 255, 255)} == set(colours)
