"""Two small real files to attach, made without any library: a PNG of an envelope and a one-page PDF."""

from __future__ import annotations

import struct
import zlib

WIDTH, HEIGHT = 96, 64
PAPER, INK = b"\xff\xf4\xd6", b"\xb4\x53\x09"


def png() -> bytes:
    """An envelope, 96 x 64 pixels in eight-bit RGB (PNG specification, sections 11.2.2 to 11.2.5)."""
    lines = b"".join(b"\0" + b"".join(_pixel(x, y) for x in range(WIDTH)) for y in range(HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines, 9)) + _chunk(b"IEND", b"")
    )


def _pixel(x: int, y: int) -> bytes:
    border = min(x, y, WIDTH - 1 - x, HEIGHT - 1 - y) < 3  # noqa: PLR2004 - pixels
    flap = abs(y - min(x, WIDTH - 1 - x) * 3 // 4) < 2  # noqa: PLR2004 - pixels
    return INK if border or flap else PAPER


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pdf(*lines: str) -> bytes:
    """A page in A5 with a line of text for each of `lines`, in Latin-1 (PDF 1.4)."""
    shown = " T* ".join(f"({_escaped(line)}) Tj" for line in lines)
    page = f"BT /F1 14 Tf 22 TL 48 500 Td {shown} ET".encode("latin-1", "replace")
    fonts = b"<< /Font << /F1 5 0 R >> >>"
    objects = (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 420 595] /Contents 4 0 R /Resources %s >>" % fonts,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(page), page),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    )
    return _assembled(objects)


def _assembled(objects: tuple[bytes, ...]) -> bytes:
    """The objects, and the table that says at which byte each begins."""
    text, starts = b"%PDF-1.4\n", []
    for number, thing in enumerate(objects, start=1):
        starts.append(len(text))
        text += b"%d 0 obj\n%s\nendobj\n" % (number, thing)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    size = len(objects) + 1
    return text + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n"
        % (size, table, size, len(text))
    )


def _escaped(line: str) -> str:
    return line.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
