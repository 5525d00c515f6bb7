"""TLS over any channel: what a transport carries is then encrypted, and the listening end known.

OpenSSL works on memory here, so transports need not know of it. Certificates are those by which
the instance serves over TCP.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..errors import AccessDeniedError, ConfigError, ProtocolError
from .transports import Channel, DroppedError

_READ = 256 << 10
_WRITE = 1 << 20  # bytes sealed at a time: that much is copied
_T = TypeVar("_T")


def server_context(cert_file: str, key_file: str | None) -> ssl.SSLContext:
    """For the end that listens; ConfigError if the files are no good."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{cert_file} is of no use for TLS: {error}") from None
    return context


def client_context(authorities: str) -> ssl.SSLContext:
    """For the end that connects, which trusts these authorities (PEM) alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(cadata=authorities)
    except ssl.SSLError as error:
        raise ConfigError(f"tls_root_certs are of no use: {error}") from None
    return context


class SealedChannel:
    """A `Channel` in another one.

    Parameters
    ----------
    channel : Channel
        Connected; closed with this.
    context : ssl.SSLContext
    host : str, optional
        Whose certificate the other end must have; none at the end that listens.

    Raises
    ------
    AccessDeniedError
        If it has not.
    ProtocolError
        If it does not speak TLS.
    """

    def __init__(self, channel: Channel, context: ssl.SSLContext, host: str | None = None) -> None:
        self._channel = channel
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._scratch = memoryview(bytearray(_READ))
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=host is None, server_hostname=host
        )
        self._through(self._tls.do_handshake)
        self._flush()

    def _through(self, step: Callable[..., _T], *arguments: Any) -> _T:
        """Repeat a step of OpenSSL until it has what it needs of the other end."""
        while True:
            try:
                return step(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                nbytes = self._channel.receive_into([self._scratch])
                if not nbytes:
                    raise DroppedError("the other end of the migration hung up") from None
                self._incoming.write(self._scratch[:nbytes])
            except ssl.SSLCertVerificationError as error:
                self._flush()
                raise AccessDeniedError(
                    f"the other end of the migration is not trusted: {error.verify_message}"
                ) from None
            except ssl.SSLError as error:
                self._flush()
                raise ProtocolError(f"the other end speaks no TLS of ours: {error}") from None

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._channel.send([self._outgoing.read()])

    def set_timeout(self, timeout_s: float) -> None:
        """See `Channel.set_timeout`."""
        self._channel.set_timeout(timeout_s)

    def send(self, pieces: Sequence[memoryview | bytes]) -> None:
        """See `Channel.send`."""
        for piece in pieces:
            view = memoryview(piece)
            for begin in range(0, len(view), _WRITE):
                self._through(self._tls.write, view[begin : begin + _WRITE])
                if self._outgoing.pending >= _WRITE:
                    self._flush()
        self._flush()

    def receive_into(self, targets: Sequence[memoryview]) -> int:
        """See `Channel.receive_into`."""
        target = targets[0]
        try:
            done = self._through(self._unseal, target)
            # What has come is unsealed at once: a record is 16 KiB at most.
            while done < len(target) and (self._incoming.pending or self._tls.pending()):
                done += self._unseal(target[done:])
        except ssl.SSLWantReadError:  # half a record
            return done
        except DroppedError:
            return 0
        return done

    def _unseal(self, target: memoryview) -> int:
        return self._tls.read(len(target), target)  # type: ignore[return-value]

    def close(self) -> None:
        """See `Channel.close`."""
        self._channel.close()
