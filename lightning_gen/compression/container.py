"""The file: magic, version, lengths, header (JSON, deflated), words, and a checksum of all of it.

8 bytes magic | 1 version | 4 length of the header | 8 length of the words | header | words | 16 of SHA-256
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zlib
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np

from lightning_gen.datamodules.errors import UserError
from lightning_gen.datamodules.paths import PRIVATE

MAGIC = b"\x89LGZ\r\n\x1a\n"  # is damaged by text-mode transfers, as PNG's is
VERSION = 1
LENGTHS = struct.Struct("<8sBIQ")
CHECK = 16  # bytes of the checksum
MOST = 2**26  # bytes of an inflated header
EXAMPLES_PER_BYTE = 1024  # of a file, at most; a coder that comes near codes nothing


class Header(NamedTuple):
    """The header of the words.

    Args:
        method: name of the coder.
        model: class of the model.
        run: where its checkpoint was.
        weights: hash of the model, see ``weights_hash``.
        shape: of an example.
        values: of the data's spec.
        examples: their number.
        block: examples that passed the networks together.
        settings: of the coder.
        symbols: hash of what was coded.
        threads: of torch while encoding, which the last digits depend on.
        system: versions and processor, for the error's text.
        names: of the examples' files, without suffix; none for rows of a data set.
    """

    method: str
    model: str
    run: str
    weights: str
    shape: tuple[int, ...]
    values: str
    examples: int
    block: int
    settings: dict[str, int]
    symbols: str
    threads: int
    system: str
    names: tuple[str, ...]


def pack(header: Header, words: np.ndarray) -> bytes:
    """Header and words uint32 -> the file's content."""
    text = zlib.compress(json.dumps(header._asdict(), separators=(",", ":")).encode(), 9)
    payload = words.astype("<u4").tobytes()
    content = LENGTHS.pack(MAGIC, VERSION, len(text), len(payload)) + text + payload
    return content + _checksum(content)


def unpack(content: bytes, name: str) -> tuple[Header, np.ndarray]:
    """The file's content -> header and words uint32.

    Args:
        content: all bytes of the file.
        name: of the file, for the error's text.

    Raises:
        UserError: it is no such file, of another version, truncated or damaged.
    """
    if content[: len(MAGIC)] != MAGIC[: len(content)] or not content:
        raise UserError(f"{name} was not written by compress encode: it begins otherwise")
    if len(content) < LENGTHS.size + CHECK:
        raise UserError(f"{name} is truncated: {len(content)} bytes are too few for a header")
    _, version, header_bytes, payload_bytes = LENGTHS.unpack_from(content)
    if version != VERSION:
        raise UserError(f"{name} is of format {version}, or damaged: this program reads format {VERSION}")
    expected = LENGTHS.size + header_bytes + payload_bytes + CHECK
    if len(content) < expected:
        raise UserError(f"{name} is truncated, or damaged: it has {len(content)} bytes, and its header says {expected}")
    if len(content) > expected:
        raise UserError(f"{name} is damaged: it has {len(content)} bytes, and its header says {expected}")
    if _checksum(content[:-CHECK]) != content[-CHECK:]:
        raise UserError(f"{name} is damaged: its checksum does not hold")
    start = LENGTHS.size + header_bytes
    header = _header(content[LENGTHS.size : start], name)
    if header.examples > EXAMPLES_PER_BYTE * len(content):
        raise UserError(
            f"{name} tells of {header.examples:,} examples in {len(content):,} bytes: no model codes so many"
        )
    return header, np.frombuffer(content[start:-CHECK], "<u4").astype(np.uint32)


def fingerprint(*parts: bytes) -> str:
    """A hash of some bytes, 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:32]


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:CHECK]


def _header(text: bytes, name: str) -> Header:
    """The header, every entry of its type.

    Raises:
        UserError: it is not what ``pack`` writes; a file with a good checksum may still be somebody's forgery.
    """
    try:
        entries = json.loads(zlib.decompressobj().decompress(text, MOST))
        header = Header(**entries)
        header = header._replace(shape=tuple(header.shape), names=tuple(header.names))
        fine = _is_fine(header)
    except (zlib.error, ValueError, TypeError, AttributeError, RecursionError):
        fine = False
    if not fine:
        raise UserError(f"{name} has a header that this program did not write")
    return header


def _is_fine(header: Header) -> bool:
    texts = (header.method, header.model, header.run, header.weights, header.values, header.symbols, header.system)
    counts = (*header.shape, header.examples, header.block, header.threads, *header.settings.values())
    return (
        all(isinstance(text, str) for text in (*texts, *header.names, *header.settings))
        and all(type(n) is int and n >= 0 for n in counts)
        and min(*header.shape, header.examples, header.block, header.threads) >= 1
        and header.threads <= 1024
        and header.examples * math.prod(header.shape) < 2**36
        and len(header.names) in (0, header.examples)
        and len(set(header.names)) == len(header.names)
        and all(map(is_safe_filename, header.names))
    )


def is_safe_filename(name: Any) -> bool:
    """Whether a name is that of a file in a folder, and leads nowhere else."""
    return (
        bool(name)
        and not name.startswith(".")
        and "".join(c for c in name if ord(c) not in PRIVATE).isprintable()
        and len(name.encode(errors="replace")) <= 240
        and PurePosixPath(name).name == name == PureWindowsPath(name).name
    )
