"""Each source on a small copy of its real layout."""

import io
import json
import pickle
import tarfile

import fsspec
import numpy as np
import pytest
from PIL import Image, ImageOps

from a4a.data.prepare.crops import Crop
from a4a.data.prepare.filters import CheckConfig, RejectedImage, check_image, decode_image, find_duplicates
from a4a.data.prepare.run import prepare
from a4a.data.sources import ImageFolder, SubjectFolders
from a4a.data.sources.base import ImageRecord
from a4a.data.sources.celeba import CelebAMaskHQ
from a4a.data.sources.hub import HubDataset
from a4a.data.sources.openimages import OpenImages
from a4a.data.sources.webdataset import WebDataset
from a4a.errors import InputError
from prepare_resume import encoded, random_image


def opened(source, item):
    return decode_image(source.read(item), item.box)[0]


def test_a_folder_with_metadata_gives_what_it_names(tmp_path):
    for name in ("a", "b", "unnamed"):
        random_image(1).save(tmp_path / f"{name}.png")
    rows = [{"file_name": "b.png", "text": "a cat", "subject": 3}, {"file_name": "a.png"}, {"file_name": "gone.png"}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    source = ImageFolder(str(tmp_path))
    found = source.records()
    assert [(i.id, i.text, i.subject) for i in found] == [
        ("a.png", None, None),
        ("b.png", "a cat", "3"),
        ("gone.png", None, None),
    ]
    assert opened(source, found[0]).size == (64, 64)
    assert check_image(source, found[2], CheckConfig(), Crop(16)) == {"id": "gone.png", "left_out": "missing"}
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n{"file_name": "b.png", "text": ["x", "y"]}')
    with pytest.raises(InputError, match=r"metadata\.jsonl, line 2: expected .* text as a string"):
        source.records()


def test_a_folder_without_captions_gives_all_at_any_depth_of_any_file_system(tmp_path):
    system = fsspec.filesystem("memory")
    for name in ("x/2.png", "1.JPG", "notes.txt"):
        system.pipe_file(f"/drawn/{name}", encoded(random_image(1), "PNG"))
    source = ImageFolder("memory://drawn")
    assert [i.id for i in source.records()] == ["1.JPG", "x/2.png"]
    assert opened(source, source.records()[1]).size == (64, 64)


def test_each_folder_is_a_subject(tmp_path):
    for name in ("anna/1.png", "anna/deep/2.png", "ben/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        random_image(1).save(tmp_path / name)
    random_image(1).save(tmp_path / "loose.png")
    assert [(i.id, i.subject) for i in SubjectFolders(str(tmp_path)).records()] == [
        ("anna/1.png", "anna"),
        ("anna/deep/2.png", "anna"),
        ("ben/1.png", "ben"),
    ]


def tar(path, members):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def test_webdataset_tars_are_listed_and_read(tmp_path):
    for number in range(2):
        first, second = (encoded(random_image(number * 10 + i), "PNG") for i in range(2))
        said = json.dumps({"caption": "a dog", "subject": 7}).encode()
        tar(
            tmp_path / f"train-{number}.tar",
            {"000.png": first, "000.txt": b"a cat\n", "001.png": second, "001.txt": b"a cat\n", "001.json": said},
        )
    source = WebDataset(str(tmp_path / "train-*.tar"))
    found = source.records()
    assert [(i.id, i.text, i.subject) for i in found][:2] == [
        ("train-0/000", "a cat", None),
        ("train-0/001", "a dog", "7"),
    ]
    assert len(found) == 4
    assert opened(pickle.loads(pickle.dumps(source)), found[3]).tobytes() == random_image(11).tobytes()
    (tmp_path / "train-0.tar").write_bytes((tmp_path / "train-0.tar").read_bytes()[:700])
    with pytest.raises(InputError, match=r"train-0\.tar"):
        source.records()
    with pytest.raises(InputError, match="There is no tar"):
        WebDataset(str(tmp_path / "gone.tar")).records()
    tar(tmp_path / "odd.tar", {"a.json": b"[1]"})
    with pytest.raises(InputError, match=r"a\.json holds no JSON object"):
        WebDataset(str(tmp_path / "odd.tar")).records()


def test_equal_names_in_two_tars_are_both_kept_and_two_images_of_a_sample_refused(tmp_path):
    for folder in ("a", "b"):
        tar(tmp_path / folder / "0.tar", {"x.png": encoded(random_image(1), "PNG")})
    assert [i.id for i in WebDataset(str(tmp_path / "*" / "0.tar")).records()] == ["a/0/x", "b/0/x"]
    assert [i.id for i in WebDataset(str(tmp_path / "b" / "0.tar")).records()] == ["0/x"]
    tar(tmp_path / "0.tar", {"x.png": encoded(random_image(1), "PNG"), "x.seg.png": encoded(random_image(2), "PNG")})
    with pytest.raises(InputError, match=r"0\.tar has x\.seg\.png as the second image"):
        WebDataset(str(tmp_path / "0.tar")).records()


def test_a_dataset_on_the_hub_is_listed_and_read(tmp_path):
    import datasets

    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "mask": datasets.Image(),
            "said": datasets.Value("string"),
            "who": datasets.ClassLabel(names=["anna", "ben"]),
        }
    )
    rows = {
        "photo": [random_image(i) for i in range(3)],
        "mask": [random_image(0)] * 3,
        "said": ["a", "b", None],
        "who": [1, 0, 1],
    }
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train.parquet")
    source = HubDataset(str(tmp_path / "set"), image="photo", text="said", subject="who")
    found = source.records()
    assert [(i.id, i.text, i.subject) for i in found] == [
        ("000000000", "a", "ben"),
        ("000000001", "b", "anna"),
        ("000000002", None, "ben"),
    ]
    assert opened(source, found[2]).tobytes() == random_image(2).tobytes()
    prepare(source, tmp_path / "out", crop=Crop(16))
    with pytest.raises(InputError, match=r"made with source.image = photo, not mask"):
        prepare(
            HubDataset(str(tmp_path / "set"), image="mask", text="said", subject="who"), tmp_path / "out", crop=Crop(16)
        )
    with pytest.raises(InputError, match="no column 'image' for image; it has photo"):
        HubDataset(str(tmp_path / "set")).records()
    with pytest.raises(InputError, match="could not be loaded"):
        HubDataset(str(tmp_path / "gone")).records()


def test_celebamask_hq_is_read_as_unpacked(tmp_path):
    root = tmp_path / "CelebAMask-HQ"
    (root / "CelebA-HQ-img").mkdir(parents=True)
    (root / "CelebAMask-HQ-mask-anno" / "0").mkdir(parents=True)
    random_image(9).save(root / "CelebAMask-HQ-mask-anno" / "0" / "00000_hair.png")
    for i in range(3):
        random_image(i).save(root / "CelebA-HQ-img" / f"{i}.jpg")
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx\torig_idx\torig_file\n0\t119613\t119614.jpg\n1\t99094\t099095.jpg\n2\t5\t000006.jpg\n"
    )
    (tmp_path / "identity_CelebA.txt").write_text("119614.jpg 2880\n099095.jpg 2880\n")
    source = CelebAMaskHQ(str(root), str(tmp_path / "identity_CelebA.txt"))
    assert [(i.id, i.subject) for i in source.records()] == [("0.jpg", "2880"), ("1.jpg", "2880"), ("2.jpg", None)]
    assert opened(source, source.records()[1]).size == (64, 64)
    assert {i.subject for i in CelebAMaskHQ(str(root)).records()} == {None}
    (tmp_path / "identity_CelebA.txt").write_text("119614.jpg\n")
    with pytest.raises(InputError, match=r"identity_CelebA\.txt, line 1"):
        source.records()


def test_openimages_boxes_are_cut_out(tmp_path):
    (tmp_path / "train" / "train_0").mkdir(parents=True)
    photo = Image.new("RGB", (200, 100), "blue")
    photo.paste(random_image(1, 60, 60), (20, 20))
    photo.save(tmp_path / "train" / "train_0" / "000a.png")
    head = (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
    )
    rows = [
        "000a,xclick,/m/0bt9lr,1,0.1,0.4,0.2,0.8,0,0,0,0,0",
        "000a,xclick,/m/01yrx,1,0.1,0.9,0.1,0.9,0,0,0,0,0",
        "000a,xclick,/m/0bt9lr,1,0.1,0.15,0.2,0.8,0,0,0,0,0",  # narrow
        "000a,xclick,/m/0bt9lr,1,0.0,0.5,0.2,0.8,0,0,1,0,0",  # a group
        "000a,xclick,/m/0bt9lr,1,0.0,0.5,0.1,0.8,0,0,0,1,0",  # a drawing of one
        "ffff,xclick,/m/0bt9lr,1,0.1,0.9,0.2,0.8,0,0,0,0,0",  # not downloaded
    ]
    (tmp_path / "boxes.csv").write_text("\n".join([head, *rows]) + "\n")
    (tmp_path / "classes.csv").write_text("LabelName,DisplayName\n/m/0bt9lr,Dog\n/m/01yrx,Cat\n")
    options = {
        "images": str(tmp_path / "train"),
        "boxes": str(tmp_path / "boxes.csv"),
        "classes": str(tmp_path / "classes.csv"),
    }
    source = OpenImages(**options, labels=["Dog"], margin=0, text="a photo of a {label}")
    (found,) = source.records()
    assert (found.text, found.group, found.subject) == ("a photo of a dog", "000a", None)
    assert opened(source, found).tobytes() == random_image(1, 60, 60).tobytes()
    assert [opened(source, i).size for i in OpenImages(**options).records()] == [(192, 96), (72, 72)]
    both = OpenImages(**options).records()
    (largest,) = OpenImages(**options, per_photo=1).records()
    assert largest == both[0] and largest.box == pytest.approx((0.02, 0.02, 0.98, 0.98))
    assert OpenImages(**options, limit=1).records() == OpenImages(**options, limit=1, margin=0.1).records()
    assert OpenImages(**options, limit=1).records()[0] in both
    with pytest.raises(InputError, match=r"source\.limit is 0"):
        OpenImages(**options, limit=0)
    with pytest.raises(InputError, match="no class 'dog'"):
        OpenImages(**options, labels=["dog"]).records()
    with pytest.raises(InputError, match=r"no table of classes .*gone\.csv"):
        OpenImages(**{**options, "classes": str(tmp_path / "gone.csv")}).records()
    (tmp_path / "boxes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no table of boxes"):
        source.records()


@pytest.mark.parametrize("source", [ImageFolder, SubjectFolders, CelebAMaskHQ])
def test_a_folder_that_is_missing_or_empty_is_one_sentence(tmp_path, source):
    with pytest.raises(InputError, match="There is no data folder"):
        source(str(tmp_path / "gone")).records()
    (tmp_path / "CelebA-HQ-img").mkdir()
    with pytest.raises(InputError, match="has no images"):
        source(str(tmp_path)).records()
    with pytest.raises(InputError, match="no path"):
        source("nosuchprotocol://x").records()


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_16_bit_greys_are_kept_and_exif_rotation_is_applied():
    import numpy as np

    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    image, repaired = decode_image(encoded(Image.fromarray(ramp), "PNG"))
    assert np.abs(np.asarray(image)[..., 0].astype(int) - ramp // 257).max() <= 1 and repaired == ["16 bits made 8"]
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, repaired = decode_image(encoded(random_image(1, 64, 32), "PNG", exif=exif))
    assert turned.size == (32, 64) and "upright" in repaired[0]
    assert decode_image(encoded(random_image(1, 64, 32), "JPEG", exif=exif), (0, 0, 0.5, 1))[0].size == (32, 32)


def test_animations_are_left_out_but_not_second_views_of_cameras():
    with pytest.raises(RejectedImage, match="animated: 2 frames"):
        decode_image(encoded(random_image(1), "WEBP", save_all=True, append_images=[random_image(2)]))
    assert decode_image(encoded(random_image(1), "MPO", save_all=True, append_images=[random_image(2)]))[0].size == (
        64,
        64,
    )


def test_duplicates_are_images_that_look_the_same(tmp_path):
    flat = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", (254, 1, 2))]
    pictures = [random_image(0), random_image(0, 96, 96), random_image(1), *flat]
    for i, image in enumerate(pictures):
        image.save(tmp_path / f"{i}.png")
    source = ImageFolder(str(tmp_path))
    records = [check_image(source, item, CheckConfig(), Crop(16)) for item in source.records()]
    assert find_duplicates(records, 2) == {"1.png": "0.png", "5.png": "3.png"}


def test_crops_lie_inside_the_image_and_are_the_same_every_time():
    crop = Crop(32, views=3, flips=True)
    views = crop(random_image(0, 80, 50), "a")
    assert [v.image.size for v in views] == [(32, 32)] * 6
    assert len({v.image.tobytes() for v in views}) == 6
    assert crop(random_image(0, 80, 50), "a") == views
    assert crop(random_image(0, 80, 50), "b")[2] != views[2]
    wide = Crop(64, buckets=True, divisibility=8)(random_image(0, 90, 60), "a")[0].image
    assert wide.width > wide.height and wide.width % 8 == wide.height % 8 == 0
    assert ImageRecord("x").text is None


def test_a_crop_grows_into_the_photo_around_its_box():
    square, shaped = Crop(32), Crop(32, buckets=True, divisibility=8)
    assert square.around((40, 40, 50, 60), 200, 100) == (29, 34, 61, 66)  # to the size of the crop, not a magnified box
    assert square.around((0, 0, 10, 10), 200, 100) == (0, 0, 32, 32)
    assert square.around((190, 95, 200, 100), 200, 100) == (168, 68, 200, 100)
    assert square.around((20, 10, 80, 50), 200, 100) == (20, 0, 80, 60)  # square, so that the crop shows all of the box
    assert shaped.around((20, 10, 80, 20), 200, 100) == (20, 0, 80, 32)
    assert square.around((5, 5, 15, 10), 40, 20) == (0, 0, 32, 20)  # as much as the photo has
    photo = random_image(3, 200, 100)
    data = encoded(photo, "PNG")
    assert decode_image(data, (0.2, 0.4, 0.25, 0.6), square)[0].tobytes() == photo.crop((29, 34, 61, 66)).tobytes()


def test_no_view_is_magnified_unless_enlarging_is_asked_for():
    image = random_image(0, 36, 48)
    for view in Crop(32, views=6)(image, "a"):  # at most 36 / 32 pixels of the image for one of the crop
        top, left = view.crop_top_left
        assert top + 32 <= 48 and left + 32 <= 36
    assert Crop(32).too_small(image) is None and Crop(40, enlarge=True).too_small(image) is None
    assert Crop(40).too_small(image) == "small: 36 x 48 pixels, for a crop of 40 x 40"
    (enlarged,) = Crop(40, enlarge=True)(image, "a")
    assert enlarged.original_size == (48, 36) and enlarged.crop_top_left == (7, 0)


def test_a_view_can_be_cut_out_of_the_resized_image_where_its_size_conditions_say():
    """As IP-Adapter's training does: the image is resized first (mirrored before that), then cropped."""
    image = random_image(0, 90, 50)
    for number, view in enumerate(Crop(32, views=3, flips=True)(image, "a")):
        top, left = view.crop_top_left
        assert view.original_size == (50, 90) and view.target_size == (32, 32)
        if number < 2:  # the middle crop is as high as the resized image, the others lie in a larger one
            assert (top, left) == (0, (round(90 * 32 / 50) - 32) // 2)
            source = ImageOps.mirror(image) if number % 2 else image
            whole = source.resize((round(90 * 32 / 50), 32), Image.Resampling.LANCZOS)
            cut = whole.crop((left, top, left + 32, top + 32))
            assert np.abs(np.asarray(cut).astype(int) - np.asarray(view.image)).mean() < 8
        else:
            assert top >= 0 and left > 0
    plain, mirrored = Crop(32, views=2, flips=True)(image, "b")[2:]
    shown = plain.crop_top_left[1] + mirrored.crop_top_left[1] + 32
    assert plain.crop_top_left[0] == mirrored.crop_top_left[0] and 90 * 32 / 50 <= shown + 1 <= 90 * 32 / 50 / 0.8 + 2


# --- captions and what is left aside ----------------------------------------------------------------------------------


def test_an_image_without_text_takes_the_caption_from_the_text_file_beside_it(tmp_path):
    for name in ("a.png", "b.jpg", "c.png"):
        random_image(1).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("  a cat\n")
    (tmp_path / "b.txt").write_text("from the file")
    (tmp_path / "c.txt").write_text("\n")
    assert [r.text for r in ImageFolder(str(tmp_path)).records()] == ["a cat", "from the file", None]
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n{"file_name": "b.jpg", "text": "from the table"}')
    assert [r.text for r in ImageFolder(str(tmp_path)).records()] == ["a cat", "from the table"]
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"a\.txt is no UTF-8 text"):
        ImageFolder(str(tmp_path)).records()


def test_a_folder_names_the_images_that_its_metadata_leaves_out(tmp_path):
    for i in range(9):
        random_image(i).save(tmp_path / f"{i}.png")
    source = ImageFolder(str(tmp_path))
    assert len(source.records()) == 9 and source.warnings() == []
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png"}\n{"file_name": "0.png"}')
    source.records()
    unlisted, repeated = source.warnings()
    assert unlisted.startswith("8 images") and "1.png, 2.png, 3.png, 4.png, 5.png, ..." in unlisted
    assert "0.png" in repeated and "more than once" in repeated


def test_images_in_no_subjects_folder_are_announced(tmp_path):
    (tmp_path / "anna").mkdir()
    for name in ("anna/1.png", "loose.png"):
        random_image(1).save(tmp_path / name)
    source = SubjectFolders(str(tmp_path))
    source.records()
    assert "loose.png" in source.warnings()[0]


def test_a_source_in_a_file_of_its_own_is_known_by_its_class_name():
    from a4a.data import sources

    shipped = {"CelebAMaskHQ", "HubDataset", "ImageFolder", "OpenImages", "SubjectFolders", "WebDataset"}
    assert set(sources.__all__) == {"ImageRecord", "Source", *shipped}
    assert all(getattr(sources, name).__doc__ and name in (sources.__doc__ or "") for name in shipped)
