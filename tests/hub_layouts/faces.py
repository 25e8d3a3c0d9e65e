"""InsightFace's antelopev2 as its zip holds it: a folder in the zip, and three models that nobody asked for."""

import zipfile
from pathlib import Path

import numpy as np


def antelopev2(path: Path) -> None:
    """Write the zip. Needs onnx, which only the extra `dev` installs."""
    from onnx import TensorProto, helper, numpy_helper

    import tiny_encoders

    unpacked = path.parent / "antelopev2-files"
    tiny_encoders.faces(unpacked)
    (unpacked / "scrfd.onnx").rename(unpacked / "scrfd_10g_bnkps.onnx")
    (unpacked / "arcface.onnx").rename(unpacked / "glintr100.onnx")
    for name, side, width in (("1k3d68", 192, 3309), ("2d106det", 192, 212), ("genderage", 96, 3)):
        weights = numpy_helper.from_array(np.zeros((3, width), np.float32), "weights")
        nodes = [
            helper.make_node("GlobalAveragePool", ["data"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["fc1"]),
        ]
        inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["None", 3, side, side])]
        outputs = [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["None", width])]
        tiny_encoders.save_onnx(helper.make_graph(nodes, name, inputs, outputs, [weights]), unpacked / f"{name}.onnx")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(unpacked.iterdir()):
            archive.write(file, f"antelopev2/{file.name}")
