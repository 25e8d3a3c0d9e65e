"""What several tests of the pipeline need."""

import pytest

from tiny_encoders import image_encoder


@pytest.fixture
def encoder_folder(tmp_path):
    encoder, folder = image_encoder(), tmp_path / "encoder"
    encoder.module.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    return folder
