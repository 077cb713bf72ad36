"""Decompression that stops at a bound: a small message is not to unpack to hundreds of megabytes.

kombu unpacks the body of a message whose header `compression` names a codec, whole and before anybody can look at it.
"""

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final

from kombu import compression

UNPACKED_BYTES_MAX: Final = 32 << 20
"""The longest body. The largest legal message is a snapshot of 20,000 sessions: 6 MB, 25 with names of 255 letters."""

_LZMA_BYTES_MAX: Final = 40 << 20
"""The memory that a stream of lzma may ask for, beside its output: enough for the presets up to 8."""

_ZSTD_WINDOW_LOG_MAX: Final = 24

Codec = Callable[[bytes], bytes]


class CodecError(ValueError):
    """A compressed body is too large, broken, or of a codec that knows no bound."""


def bound_decompression() -> None:
    """Have kombu stop at the bound, in this process, with each codec that is registered; one without a bound refuses.

    kombu's `gzip` is a stream of zlib. Internal: the registry of `kombu.compression`, 5.7; its `register` and
    `encoders` are public and not documented.
    """
    for content_type in compression.encoders():
        find_encoder: Any = compression.get_encoder  # its stub is wrong
        encoder, _ = find_encoder(content_type)
        compression.register(encoder, _CODECS.get(content_type, _refuse), content_type)


def decompress(body: bytes, name: str) -> bytes:
    """Unpack a body by the name of its codec, as kombu does after `bound_decompression`. Raises CodecError.

    Internal: `kombu.compression._aliases`, 5.7, the short names of codecs.
    """
    aliases: dict[str, str] = vars(compression)["_aliases"]
    return _CODECS.get(aliases.get(name, name), _refuse)(body)


def _bounded(name: str, make: Callable[[], Any], error_types: tuple[type[Exception], ...]) -> Codec:
    """Return a decoder of one stream; `make` returns an incremental decompressor as the standard library has them."""

    def decode(body: bytes) -> bytes:
        try:
            stream = make()
            unpacked: bytes = stream.decompress(body, UNPACKED_BYTES_MAX + 1)
        except error_types as error:
            raise CodecError(f"{name}: {error}") from error
        if len(unpacked) > UNPACKED_BYTES_MAX:
            raise CodecError(f"{name}: unpacks to more than {UNPACKED_BYTES_MAX:,} bytes")
        if not stream.eof:
            raise CodecError(f"{name}: the stream is cut short")
        if stream.unused_data:
            raise CodecError(f"{name}: something follows the stream")
        return unpacked

    return decode


def _refuse(_: bytes) -> bytes:
    raise CodecError("no codec of this name that knows a bound")


def _brotli(brotli: Any) -> Codec:
    def decode(body: bytes) -> bytes:
        try:
            stream = brotli.Decompressor()
            unpacked: bytes = stream.process(body, output_buffer_limit=UNPACKED_BYTES_MAX + 1)
        except (brotli.error, TypeError) as error:  # an older brotli knows no limit
            raise CodecError(f"brotli: {error}") from error
        if len(unpacked) > UNPACKED_BYTES_MAX or not stream.is_finished():
            raise CodecError(f"brotli: unpacks to more than {UNPACKED_BYTES_MAX:,} bytes, or is cut short")
        return unpacked

    return decode


def _zstd(zstd: Any) -> Codec:
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG_MAX}
    return _bounded("zstd", lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError, EOFError))


def _make_codecs() -> dict[str, Codec]:
    codecs = {
        "application/x-gzip": _bounded("gzip", zlib.decompressobj, (zlib.error,)),
        "application/x-bz2": _bounded("bzip2", bz2.BZ2Decompressor, (OSError, EOFError)),
        "application/x-lzma": _bounded(
            "lzma", lambda: lzma.LZMADecompressor(memlimit=_LZMA_BYTES_MAX), (lzma.LZMAError, EOFError)
        ),
    }
    optional = {
        "application/x-brotli": (("brotli", "brotlicffi"), _brotli),
        "application/zstd": (("compression.zstd", "backports.zstd"), _zstd),
    }
    for content_type, (modules, make) in optional.items():
        for module in modules:
            try:
                codecs[content_type] = make(importlib.import_module(module))
                break
            except ImportError:
                continue
    return codecs


_CODECS: Final = _make_codecs()
