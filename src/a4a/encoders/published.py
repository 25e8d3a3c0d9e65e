"""Published image encoders: width of the embedding and number of parameters, known without a download."""

IMAGE_ENCODERS = {
    "h94/IP-Adapter/models/image_encoder": (1024, 632_076_800),
    "h94/IP-Adapter/sdxl_models/image_encoder": (1280, 1_844_907_776),
}
"""Width of the embeddings, and parameters."""
