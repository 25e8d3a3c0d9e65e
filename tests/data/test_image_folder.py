import json

import numpy as np
import pytest
import torch
from PIL import Image

from a4a.data.image_folder import ImageFolderDataset
from a4a.data.prepare.filters import decode_image
from a4a.errors import InputError
from a4a.utils.images import open_image


def folder(path, rows, broken=()):
    for number, row in enumerate(rows):
        Image.new("RGB", (40 + number, 30), (10 * number, 100, 200)).save(path / row["file_name"])
    for name in broken:
        (path / name).write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    lines = [*rows, *({"file_name": name, "text": "broken"} for name in broken)]
    (path / "metadata.jsonl").write_text("\n".join(json.dumps(r) for r in lines))
    return path


def test_images_are_cropped_to_one_size_and_paired_with_themselves(tmp_path):
    pictures = ImageFolderDataset(
        folder(tmp_path, [{"file_name": f"{i}.png", "text": f"picture {i}"} for i in range(3)]), size=16
    )
    assert pictures.pixels(torch.tensor([2, 0])).shape == (2, 3, 16, 16)
    assert pictures.pairs.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert pictures.captions == ["picture 0", "picture 1", "picture 2"]
    assert torch.allclose(pictures.pixels(torch.tensor([1]))[0, :, 8, 8], torch.tensor([10, 100, 200]) / 255, atol=1e-3)


def test_the_sizes_are_those_of_the_files_and_of_the_middle_crop(tmp_path):
    rows = [{"file_name": f"{i}.png", "text": "x"} for i in range(3)]  # 30 high, 40 to 42 wide
    sizes = ImageFolderDataset(folder(tmp_path, rows), size=15).sizes(torch.tensor([2, 0]))
    assert sizes.original_size.tolist() == [[30, 42], [30, 40]]
    assert sizes.crop_top_left.tolist() == [[0, 3], [0, 2]]
    assert sizes.target_size.tolist() == [[15, 15]] * 2


def test_images_that_would_be_enlarged_are_left_out_unless_asked_for(tmp_path, capsys):
    rows = [{"file_name": f"{i}.png", "text": str(i)} for i in range(3)]  # 30 high, 40 to 42 wide
    Image.new("RGB", (50, 60)).save(folder(tmp_path, rows) / "1.png")
    images = ImageFolderDataset(tmp_path, size=32)
    assert images.captions == ["1"] and len(images.pairs) == len(images) == 1
    assert "2 images are smaller than 32 x 32 pixels (0.png, 2.png) and left out" in capsys.readouterr().err
    every = ImageFolderDataset(tmp_path, size=32, enlarge=True)
    assert every.sizes(torch.arange(3)).original_size.tolist() == [[30, 40], [60, 50], [30, 42]]
    assert every.sizes(torch.tensor([0])).crop_top_left.tolist() == [[0, 5]]
    assert "and enlarged" in capsys.readouterr().err and every.key != images.key
    with pytest.raises(InputError, match=r"All 3 images .* smaller than 64 x 64 pixels; .* set enlarge to true"):
        ImageFolderDataset(tmp_path, size=64)


def test_images_of_one_subject_are_paired_with_each_other(tmp_path):
    rows = [{"file_name": f"{i}.png", "text": "x", "subject": "a" if i < 3 else "b"} for i in range(4)]
    pairs = ImageFolderDataset(folder(tmp_path, rows), size=16).pairs.tolist()
    assert sorted(pairs) == [[0, 1], [1, 2], [2, 0], [3, 3]]


def test_broken_images_are_left_out_counted_and_named(tmp_path, capsys):
    pictures = ImageFolderDataset(
        folder(tmp_path, [{"file_name": "good.png", "text": "x"}], broken=["bad.png"]), size=16
    )
    assert len(pictures) == 1
    said = capsys.readouterr().err
    assert "1 of 2" in said and "bad.png" in said


def test_16_bit_and_transparent_images_are_decoded_as_prepare_does(tmp_path):
    Image.fromarray(np.full((32, 32), 20000, np.uint16)).save(tmp_path / "grey.png")
    Image.new("RGBA", (32, 32)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((32, 32), 0.5, np.float32)).save(tmp_path / "unknown.tif")
    names = ("clear.png", "grey.png", "unknown.tif")
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps({"file_name": name, "text": "x"}) for name in names))
    seen = ImageFolderDataset(tmp_path, size=16).pixels(torch.tensor([0, 1]))
    for name, pixels, colour in zip(names, seen, (255, 20000 // 257), strict=False):
        prepared, _ = decode_image((tmp_path / name).read_bytes())
        assert prepared.getpixel((5, 5)) == open_image(tmp_path / name).getpixel((5, 5)) == (colour,) * 3
        torch.testing.assert_close(pixels, torch.full((3, 16, 16), colour / 255))
    with pytest.raises(InputError, match="no known range"):
        open_image(tmp_path / "unknown.tif")


def test_the_key_changes_with_content_and_size(tmp_path):
    rows = [{"file_name": "a.png", "text": "x"}]
    keys = {ImageFolderDataset(folder(tmp_path, rows), size=16).key, ImageFolderDataset(tmp_path, size=24).key}
    Image.new("RGB", (50, 50)).save(tmp_path / "a.png")
    assert len(keys | {ImageFolderDataset(tmp_path, size=16).key}) == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "has no images"),
        ("", "names no images"),
        ("{}", "line 1"),
        ("not json", "line 1"),
        ('{"file_name": "a.png", "text": ["x", "y"]}', "line 1"),
        ('{"file_name": "gone.png", "text": "x"}', "no readable image"),
    ],
)
def test_a_bad_folder_gives_one_sentence(tmp_path, content, words):
    if content is not None:
        (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(InputError, match=words) as error:
        ImageFolderDataset(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="gone"):
        ImageFolderDataset(tmp_path / "gone")


def test_captions_may_be_text_files_beside_the_images(tmp_path):
    for name in ("b.png", "deep/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (20, 20)).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(f"caption of {name}\n")
    images = ImageFolderDataset(tmp_path, size=16)
    assert images.captions == ["caption of b.png", "caption of deep/a.png"]
    assert images.pixels(torch.tensor([1])).shape == (1, 3, 16, 16)


def test_images_without_a_caption_are_refused_with_how_to_caption_them(tmp_path):
    folder(tmp_path, [{"file_name": f"{i}.png", "text": "x"} for i in range(3)])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "x"}\n{"file_name": "1.png"}')
    with pytest.raises(InputError, match=r"1 of 2 images .* have no caption \(1\.png\); write .*NAME\.txt.*--caption"):
        ImageFolderDataset(tmp_path)


def test_empty_captions_and_images_that_metadata_does_not_name_are_announced(tmp_path, capsys):
    folder(tmp_path, [{"file_name": f"{i}.png", "text": "x"} for i in range(3)])
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": ""}\n{"file_name": "1.png", "text": "x"}')
    assert len(ImageFolderDataset(tmp_path, size=16)) == 2
    announced = capsys.readouterr().err
    assert "1 of 2 images have an empty caption" in announced and "0.png" in announced
    assert "1 images" in announced and "2.png" in announced and "does not name them" in announced
