"""A channel on which messages and payload come and go; the one place of a migration's I/O."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import AccessDeniedError, ConfigError, ProtocolError, VineyardArrowError, from_code
from . import protocol as m
from .transports import Channel, DroppedError

if TYPE_CHECKING:
    import pyarrow as pa

_T = TypeVar("_T")


def find_codec(name: str | None) -> pa.Codec | None:
    """Arrow's codec of this name; ConfigError if it has none."""
    if name is None:
        return None
    import pyarrow as pa

    if name not in ("zstd", "lz4") or not pa.Codec.is_available(name):
        raise ConfigError(f"cannot compress by {name!r}", "there are zstd and lz4")
    return pa.Codec("lz4_raw" if name == "lz4" else name)


class Line:
    """One end of a connection between sender and receiver."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.inbound = m.Inbound()

    # ---- messages

    def send(self, *messages: Any) -> None:
        """Send messages; if the other end has said why it hangs up, raise that."""
        self._send([m.encode(message) for message in messages])

    def _send(self, pieces: list[memoryview | bytes]) -> None:
        try:
            self.channel.send(pieces)
        except DroppedError:
            while True:  # what it said before
                self._step()

    def expect(self, *kinds: type[_T]) -> _T:
        """The next message; ProtocolError if it is none of these.

        Raises what the other end says went wrong, if it does.
        """
        while (found := self._step()) is None:
            pass
        if not isinstance(found, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ProtocolError(f"{type(found).__name__} where {expected} was expected")
        return found

    def _step(self) -> m.Message | m.Packed | None:
        nbytes = self.channel.receive_into(self.inbound.targets)
        if not nbytes:
            raise DroppedError("the other end of the migration hung up")
        found = self.inbound.received(nbytes)
        if isinstance(found, m.Failure):
            raise from_code(found.code, found.message, found.hint)
        return found

    def fail(self, error: VineyardArrowError) -> None:
        """Tell the other end, if it still listens."""
        with contextlib.suppress(VineyardArrowError):
            self.channel.send([m.encode(m.Failure(error.code, error.message, error.hint))])

    def close(self) -> None:
        """Hang up."""
        self.channel.close()

    # ---- payload

    def send_payload(self, payload: m.Payload, begin: int, codec: pa.Codec | None) -> None:
        """Send it from ``begin`` on."""
        while begin < payload.nbytes:
            end = m.block_end(begin, payload.nbytes)
            pieces: list[Any] = list(payload.pieces(begin, end))
            packed = _pack(pieces, end - begin, codec) if codec is not None else None
            if packed is None:
                header = m.block_header(m.RAW, end - begin, begin)
            else:
                header = m.block_header(m.PACKED, len(packed), begin)
                pieces = [packed]
            self._send([header, *pieces])
            begin = end

    def receive_payload(self, codec: pa.Codec | None) -> int:
        """Receive some of it, to where `Inbound.payload` says; return how much there is now."""
        found = self._step()
        if isinstance(found, m.Packed):
            if codec is None:
                raise ProtocolError("a packed block, though no codec was agreed on")
            _unpack(found, codec)
        elif found is not None:
            raise ProtocolError(f"{type(found).__name__} in the middle of the payload")
        return self.inbound.position

    # ---- who is there

    def prove(self, token: bytes) -> None:
        """The sender's part: each end shows that it knows the token, without telling it."""
        challenge = self.expect(m.Challenge)
        _check_version(challenge.version)
        nonce = os.urandom(m.NONCE_NBYTES)
        mac = m.prove(token, "sender", challenge.nonce, nonce)
        self.send(m.Proof(m.VERSION, nonce, mac))
        welcome = self.expect(m.Welcome)
        if not m.is_proof(welcome.mac, token, "receiver", nonce, challenge.nonce):
            raise AccessDeniedError("the receiver does not know the token of this migration")
        self.inbound.limit = m.MAX_MESSAGE

    def admit(self, token: bytes) -> None:
        """The receiver's part."""
        nonce = os.urandom(m.NONCE_NBYTES)
        self.send(m.Challenge(m.VERSION, nonce))
        proof = self.expect(m.Proof)
        _check_version(proof.version)
        if not m.is_proof(proof.mac, token, "sender", nonce, proof.nonce):
            raise AccessDeniedError("the sender does not know the token of this migration")
        self.send(m.Welcome(m.prove(token, "receiver", proof.nonce, nonce)))
        self.inbound.limit = m.MAX_MESSAGE


def _check_version(version: int) -> None:
    if version != m.VERSION:
        raise ProtocolError(
            f"the other end migrates by version {version}, this one by {m.VERSION}",
            "use one release at both ends",
        )


def _pack(pieces: list[Any], nbytes: int, codec: pa.Codec) -> memoryview | None:
    """The block compressed, or None if that makes it no shorter."""
    whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
    packed = memoryview(codec.compress(whole)).cast("B")
    return packed if len(packed) < nbytes else None


def _unpack(block: m.Packed, codec: pa.Codec) -> None:
    nbytes = sum(map(len, block.targets))
    try:
        data = memoryview(codec.decompress(block.body, nbytes)).cast("B")
    except (OSError, ValueError) as error:  # Arrow's words
        raise ProtocolError(f"a block cannot be unpacked: {error}") from None
    if len(data) != nbytes:
        raise ProtocolError(f"a block of {len(data):,} bytes, where {nbytes:,} belong")
    at = 0
    for target in block.targets:
        target[:] = data[at : at + len(target)]
        at += len(target)
