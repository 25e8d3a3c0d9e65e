"""Denoisers of diffusers that no backbone serves, and why: errors and docs/support.md say it.

A reason completes "DENOISER is not supported: ...". A family that gets a backbone leaves this list.
"""

DEFAULT = "no backbone is written for it yet"
"""The reason where nothing else stands against it."""

_REASONS = {
    "it makes videos, and an image prompt for videos is built for Wan alone so far": (
        "AllegroTransformer3DModel",
        "AnyFlowFARTransformer3DModel",
        "AnyFlowTransformer3DModel",
        "ChronoEditTransformer3DModel",
        "CogVideoXTransformer3DModel",
        "ConsisIDTransformer3DModel",
        "Cosmos3OmniTransformer",
        "CosmosTransformer3DModel",
        "EasyAnimateTransformer3DModel",
        "HeliosTransformer3DModel",
        "HunyuanVideo15Transformer3DModel",
        "HunyuanVideoFramepackTransformer3DModel",
        "HunyuanVideoTransformer3DModel",
        "I2VGenXLUNet",
        "Kandinsky5Transformer3DModel",
        "Kandinsky6Transformer3DModel",
        "LTX2VideoTransformer3DModel",
        "LTXVideoTransformer3DModel",
        "LatteTransformer3DModel",
        "MiniMaxH3Transformer3DModel",
        "MochiTransformer3DModel",
        "MotifVideoTransformer3DModel",
        "SanaVideoTransformer3DModel",
        "SanaWMLTX2RefinerTransformer3DModel",
        "SanaWMTransformer3DModel",
        "SkyReelsV2Transformer3DModel",
        "UNet3DConditionModel",
        "UNetMotionModel",
        "UNetSpatioTemporalConditionModel",
        "WanAnimate2Transformer3DModel",
        "WanAnimateTransformer3DModel",
        "WanVACETransformer3DModel",
    ),
    "it makes sound": (
        "AceStepTransformer1DModel",
        "AudioLDM2UNet2DConditionModel",
        "LongCatAudioDiTTransformer",
        "MiniMaxMusic3RVQDepthDecoder",
        "MiniMaxMusic3Transformer1DModel",
        "StableAudio3DiTModel",
        "StableAudioDiTModel",
        "T5FilmDecoder",
        "UNet1DModel",
    ),
    "it makes proteins": ("RFD4ProteinaTransformer",),
    "it makes image embeddings, no images": ("PriorTransformer",),
    "it takes no text, beside which an image prompt could work": (
        "DiTTransformer2DModel",
        "Kandinsky6SRTransformer3DModel",
        "UNet2DModel",
    ),
    "it is a part of a denoiser": (
        "DreamLiteTransformer2DModel",
        "MotionAdapter",
        "Transformer2DModel",
        "TransformerTemporalModel",
    ),
    "it takes reference images in its own sequence": (
        "JoyImageEditPlusTransformer3DModel",
        "JoyImageEditTransformer3DModel",
        "OmniGenTransformer2DModel",
    ),
    "it is FLUX's design with blocks and text encoders of its own, for which no backbone is written yet": (
        "BriaFibo2Transformer2DModel",
        "BriaFiboTransformer2DModel",
        "BriaTransformer2DModel",
        "LongCatImageTransformer2DModel",
        "OvisImageTransformer2DModel",
    ),
    "a gate is between its attention and the output projection, for which no attention contract is written yet": (
        "Krea2Transformer2DModel",
    ),
    "its sequence has other rows in the first step than in those that read its cache, for which no attention contract is "
    "written yet": ("QwenImage21Transformer2DModel",),
    "its blocks are a mixture of experts and it reads prompts with four text encoders, for which no backbone is written "
    "yet": ("HiDreamImageTransformer2DModel",),
    "it reads the words to draw with a second text encoder and is guided in several ways, for which no backbone is "
    "written yet": ("HunyuanImageTransformer2DModel",),
    "its queries are made by a projection that holds keys and values too, for which no attention contract is written yet": (
        "PRXTransformer2DModel",
    ),
}

UNSUPPORTED: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names}
"""The reason by the denoiser's class."""


def why_unsupported(denoiser: str) -> str:
    """The reason why no backbone serves the denoisers of this class."""
    return UNSUPPORTED.get(denoiser, DEFAULT)
