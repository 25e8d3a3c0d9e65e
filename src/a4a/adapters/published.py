"""Published IP-Adapters whose shapes are known without a download."""

_SD15_WIDTHS = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
SOURCES = {
    "h94/IP-Adapter/models/ip-adapter_sd15.safetensors": {
        "widths": _SD15_WIDTHS,
        "image_embed_dim": 1024,
        "text_width": 768,
        "tokens": 4,
    },
}
"""IP-Adapters: width of every site in the file's order."""
