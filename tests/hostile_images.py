"""Files that claim to be pictures, and what a refusal says of each."""

import io
import struct
import zlib

from PIL import Image


def png_head(width, height):
    """A PNG of a few bytes that claims any size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 10)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


GOOD = encoded(Image.effect_noise((64, 64), 80).convert("RGB"), format="PNG")
HOSTILE = {
    "a bomb": (png_head(60_000, 60_000), "pixels; give one of at most 40 million"),
    "too many pixels": (png_head(8000, 6000), "8000 x 6000 pixels"),
    "a lie about its size": (png_head(3000, 3000), "cannot be read"),
    "a torn file": (GOOD[:400], "cannot be read"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "no PNG, JPEG or WebP"),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no PNG, JPEG or WebP"),
    "another format": (encoded(Image.new("RGB", (8, 8)), format="TIFF"), "no PNG, JPEG or WebP"),
    "nothing": (b"", "no PNG, JPEG or WebP"),
}
