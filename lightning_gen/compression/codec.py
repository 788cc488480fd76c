"""A trained model as a codec: its coder, the headers of its files, and the check that they belong to it."""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_gen.compression import container
from lightning_gen.compression.bitsback import BitsBack
from lightning_gen.compression.coder import Coder, decoding_error
from lightning_gen.compression.container import Header, fingerprint
from lightning_gen.compression.tokens import TokenCoder
from lightning_gen.datamodules.errors import UserError
from lightning_gen.protocols import Tokenises
from lightning_gen.training.module import GenerativeModule


class Encoded(NamedTuple):
    """A file's content, not yet written, and measurements of its coding.

    Args:
        content: of the file.
        header: of the file.
        payload: bytes of the words in it.
        symbols: what was coded.
        encoding: seconds.
        decoding: seconds, of the verification.
    """

    content: bytes
    header: Header
    payload: int
    symbols: Tensor
    encoding: float
    decoding: float


def coder_for(model: GenerativeModule) -> Coder:
    """How a model codes: tokens with a prior lossy, a VAE lossless.

    Raises:
        UserError: it cannot; says why.
    """
    return TokenCoder(model) if isinstance(model, Tokenises) else BitsBack(model)


def encode(model: GenerativeModule, x: Tensor, *, run: str, names: tuple[str, ...] = (), block: int = 0) -> Encoded:
    """Examples -> a file's content, verified by decoding it.

    Args:
        model: in eval mode on the CPU.
        x: (n, *shape) in the range of the data, n >= 1.
        run: where the model's checkpoint is.
        names: of the examples; none for rows of a data set.
        block: examples that pass the networks together, at most; 0 for the coder's own choice.

    Raises:
        UserError: the model cannot code, or not these examples, or its file does not decode to them.
    """
    coder = coder_for(model)
    if tuple(x.shape[1:]) != tuple(model.spec.shape):
        raise UserError(f"examples of shape {tuple(x.shape[1:])}: the model codes those of shape {model.spec.shape}")
    block = block or coder.default_block
    with torch.inference_mode():
        start = time.perf_counter()
        symbols = coder.to_symbols(x, block)
        words, settings = coder.encode(symbols, block)
        header = Header(
            coder.name,
            type(model).__name__,
            run,
            weights_hash(model),
            tuple(model.spec.shape),
            model.spec.values,
            len(x),
            block,
            settings,
            _hash(symbols),
            torch.get_num_threads(),
            _system(),
            names,
        )
        content = container.pack(header, words)
        middle = time.perf_counter()
    decoded, _ = decode_symbols(model, content, "the new file")
    end = time.perf_counter()
    if not torch.equal(decoded, symbols):
        raise decoding_error("decoding gave other values than were encoded; nothing was written")
    return Encoded(content, header, 4 * len(words), symbols, middle - start, end - middle)


def decode_symbols(model: GenerativeModule, content: bytes, name: str) -> tuple[Tensor, Header]:
    """A file's content -> what was coded, and the header.

    Raises:
        UserError: the file is damaged, belongs to another model, or does not decode here.
    """
    header, words = container.unpack(content, name)
    coder = coder_for(model)
    check_belongs(model, coder, header, name)
    with torch.inference_mode(), threads(header.threads):
        symbols = coder.decode(words, header.examples, header.block, header.settings)
    if _hash(symbols) != header.symbols:
        raise decoding_error(f"it gives other values here than where it was made ({header.system}; here {_system()})")
    return symbols, header


def decode(model: GenerativeModule, content: bytes, name: str) -> tuple[Tensor, Header]:
    """A file's content -> examples x (n, *shape) in the range of the data, and the header.

    Raises:
        UserError: as ``decode_symbols``.
    """
    symbols, header = decode_symbols(model, content, name)
    with torch.inference_mode():
        return coder_for(model).from_symbols(symbols, header.block), header


def check_belongs(model: GenerativeModule, coder: Coder, header: Header, name: str) -> None:
    """Whether a file was made by this model.

    Raises:
        UserError: it was not; says by which.
    """
    made_by = f"{name} was made by a {header.model} on {header.values} data of shape {header.shape}"
    own = (tuple(model.spec.shape), model.spec.values, coder.name)
    if (header.shape, header.values, header.method) != own:
        raise UserError(f"{made_by}, by {header.method}; this is a {type(model).__name__} on {own[1]} data of {own[0]}")
    if header.weights != weights_hash(model):
        raise UserError(
            f"{made_by} with other weights than these: give the run or checkpoint that made it ({header.run})"
        )


def weights_hash(model: GenerativeModule) -> str:
    """A hash of the model: class, options, parameters and buffers."""
    options = {key: str(value) for key, value in sorted(model.hparams.items())}
    parts = [json.dumps([type(model).__qualname__, options, str(model.spec)]).encode()]
    for key, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            parts += [key.encode(), str(value.dtype).encode(), value.detach().cpu().contiguous().numpy().tobytes()]
    return fingerprint(*parts)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of torch, on which the last digits depend."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _hash(symbols: Tensor) -> str:
    plain = symbols.contiguous()
    return fingerprint(str((tuple(plain.shape), plain.dtype)).encode(), plain.numpy().tobytes())


def _system() -> str:
    return f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
