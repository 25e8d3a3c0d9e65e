import importlib.util

import numpy as np
import pytest
from PIL import Image

import tiny_encoders
from a4a.encoders import ArcFace
from a4a.errors import InputError
from a4a.evaluation.metrics import IDA, GeneratedSet


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_encoders.faces(tmp_path_factory.mktemp("faces") / "antelopev2")


def test_the_detector_folder_may_be_nested_as_in_the_archive(folder):
    pictures = [tiny_encoders.random_blocks(0), tiny_encoders.random_blocks(1)]
    outer, inner = ArcFace(folder.parent), ArcFace(folder)
    assert outer.key == inner.key
    vectors = outer(pictures)
    assert vectors.shape == (2, 32)
    assert vectors.norm(dim=1).numpy() == pytest.approx(1)
    assert vectors.equal(inner(pictures))


def test_missing_faces_are_counted_and_left_out(folder):
    scores = IDA(folder)(
        tiny_encoders.generated(subjects=3, of=lambda s, g: tiny_encoders.random_blocks(s, face=g == 0))
    )
    assert scores["face_found"].tolist() == [[1, 0]] * 3
    assert scores["ida"][:, 0] == pytest.approx(1)
    assert np.isnan(scores["ida"][:, 1]).all()
    assert np.array_equal(scores["ida_missing_as_0"], np.nan_to_num(scores["ida"]))


def test_no_face_anywhere_is_no_error(folder):
    scores = IDA(folder)(tiny_encoders.generated(subjects=2, of=lambda s, g: tiny_encoders.noise(s, face=False)))
    assert np.isnan(scores["ida"]).all()
    assert not scores["face_found"].any()
    assert not scores["ida_missing_as_0"].any()


def test_a_reference_without_a_face_is_named(folder):
    references = [tiny_encoders.random_blocks(s, face=s not in (1, 3)) for s in range(4)]
    bad = GeneratedSet(references, [["a"]] * 4, [[tiny_encoders.random_blocks(s)] for s in range(4)])
    with pytest.raises(InputError, match=r"^Reference 1 \(counted from 0; 2 of 4 are like it\) has nothing .* face"):
        IDA(folder)(bad)


def test_the_largest_face_is_embedded(folder):
    blank = np.full((96, 96, 3), 128)
    crowd = tiny_encoders.with_face(tiny_encoders.with_face(blank, 24, 24), 72, 72, blue=255)
    crowd[40:56, 8:40], crowd[88:, 56:88] = (255, 0, 0), (255, 128, 0)
    without = [Image.fromarray(tiny_encoders.with_face(crowd, x, y).astype(np.uint8)) for x, y in ((72, 72), (24, 24))]
    large_gone, small_kept = ArcFace(folder, 96)([without[0], Image.fromarray(crowd)])
    gone = np.array(crowd)
    gone[16:32, 16:32] = 128
    alone = ArcFace(folder, 96)([Image.fromarray(gone)])[0]
    assert small_kept @ alone > 0.99
    assert large_gone @ alone < 0.95


def test_images_smaller_and_larger_than_the_detectors_input_are_read(folder):
    sizes = [(24, 24), (64, 64), (300, 200), (1000, 1500)]
    pictures = [tiny_encoders.random_blocks(0).resize(size, Image.Resampling.NEAREST) for size in sizes]
    for det_size in (None, 64, 640):
        assert not ArcFace(folder, det_size)(pictures).isnan().any()


def test_grey_and_transparent_images_are_read(folder):
    transparent, plain = ArcFace(folder)(
        [tiny_encoders.random_blocks(0).convert("RGBA"), tiny_encoders.random_blocks(0)]
    )
    assert transparent.equal(plain)
    assert ArcFace(folder)([tiny_encoders.random_blocks(0).convert("L")]).isnan().all()


def test_loading_and_encoding_print_nothing(tmp_path, capfd, recwarn):
    ArcFace(tiny_encoders.faces(tmp_path / "quiet"))([tiny_encoders.random_blocks(0)])
    assert capfd.readouterr() == ("", "")
    assert [w for w in recwarn if "estimate" in str(w.message)] == []


def test_bad_folders_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            InputError,
            match=r"holds no ONNX files; give the folder into which InsightFace's antelopev2 was unpacked\.$",
        ):
            IDA(folder)
    with pytest.raises(InputError, match="no ONNX model for face recognition; unpack all"):
        IDA(tiny_encoders.faces(tmp_path / "a", recogniser=False))(tiny_encoders.generated())
    with pytest.raises(InputError, match="no ONNX model for face detection; unpack all"):
        IDA(tiny_encoders.faces(tmp_path / "b", detector=False))(tiny_encoders.generated())
    with pytest.raises(InputError, match=r"detector in .* gives no landmarks"):
        IDA(tiny_encoders.faces(tmp_path / "c", landmarks=False))(tiny_encoders.generated())
    (tiny_encoders.faces(tmp_path / "d") / "arcface.onnx").write_bytes(b"half a file")
    with pytest.raises(
        InputError, match=r"ONNX file that could not be loaded .*; unpack InsightFace's antelopev2 again"
    ):
        IDA(tmp_path / "d")(tiny_encoders.generated())


@pytest.mark.parametrize("size", [0, -32, 100])
def test_bad_detector_sizes_are_refused(folder, size):
    with pytest.raises(InputError, match=f"det_size is {size}; expected a multiple of 32"):
        IDA(folder, det_size=size)


def test_without_insightface_the_error_says_what_to_install(folder, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("a4a.encoders.arcface.find_spec", lambda name: None if name == "insightface" else found(name))
    with pytest.raises(InputError, match=r"needs insightface, not installed here; pip install 'a4a\[eval\]'\.$"):
        IDA(folder)
