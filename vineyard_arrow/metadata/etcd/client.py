"""One client of etcd: the etcd3 package's, mended, with deadlines, retries and our errors.

Mended are: several endpoints, replies over 4 MiB, `limit` and `revision` of ranges, sign-in by
file with renewal. Watches and leases run on streams of their own (`watch`, `lease`). Importing
this imports grpc. Knows nothing of transactions' meaning.
"""

from __future__ import annotations

import itertools
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from ...errors import (
    AccessDeniedError,
    ConfigError,
    InvalidObjectError,
    LeaseLostError,
    MetadataCompactedError,
    MetadataFullError,
    MetadataUnavailableError,
    VineyardArrowError,
)
from .stubs import load_etcd3

_etcd3, rpc = load_etcd3()
_Etcd3Client: Any = _etcd3.Etcd3Client

RETRY_S = 0.05
ATTEMPT_S = 2.0  # to wait for one of several servers
_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    # Clients of one process share connections else, and the state of broken ones.
    ("grpc.use_local_subchannel_pool", 1),
)
_PEM = "PEM files are wanted: -----BEGIN CERTIFICATE-----"
_TEXTS: tuple[tuple[str, type[VineyardArrowError], str | None], ...] = (
    (
        "database space exceeded",
        MetadataFullError,
        "compact and defragment etcd, raise its quota, then disarm the alarm: etcdctl alarm disarm",
    ),
    ("requested lease not found", LeaseLostError, None),
    ("lease already exists", LeaseLostError, None),
    ("has been compacted", MetadataCompactedError, None),
    ("is a future revision", InvalidObjectError, None),
    ("too many operations", InvalidObjectError, None),
    ("request is too large", InvalidObjectError, None),
    ("message larger than max", InvalidObjectError, None),
    ("duplicate key", InvalidObjectError, None),
    ("authentication failed", AccessDeniedError, "look at the file that --meta-login-file names"),
    (
        "user name is empty",
        AccessDeniedError,
        "this etcd wants a user and password (--meta-login-file), or a token (--meta-token-file)",
    ),
    ("permission denied", AccessDeniedError, "grant this user the prefix of the cluster"),
    ("invalid auth token", AccessDeniedError, "look at the file that --meta-token-file names"),
)


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """Where an etcd is, and how to be let in.

    Parameters
    ----------
    endpoints : tuple of str
        ``host:port`` of one or more members.
    ca_file, cert_file, key_file : Path, optional
        PEM files: the authority that servers are checked by (with it the connection is
        encrypted), and this side's own certificate with its key.
    login_file : Path, optional
        Has one line, ``user:password``.
    token_file : Path, optional
        Has one line, a token that etcd takes as it is (a JWT).
    """

    endpoints: tuple[str, ...]
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    login_file: Path | None = None
    token_file: Path | None = None

    def __str__(self) -> str:
        return ",".join(self.endpoints)


class FailoverChannel:
    """A channel to several endpoints: calls go to one of them, until it fails."""

    def __init__(self, address: EtcdAddress) -> None:
        if not address.endpoints:
            raise ConfigError("etcd has no endpoint", "name one: host:port")
        credentials = _credentials(address)
        self._channels = [
            grpc.insecure_channel(endpoint, options=_OPTIONS)
            if credentials is None
            else grpc.secure_channel(endpoint, credentials, options=_OPTIONS)
            for endpoint in address.endpoints
        ]
        self._current = 0
        self.closed = False

    def __len__(self) -> int:
        return len(self._channels)

    def unary_unary(self, method: str, **how: Any) -> Callable[..., Any]:
        """A callable as that of `grpc.Channel`; a failure of the server moves on to the next."""
        calls = [channel.unary_unary(method, **how) for channel in self._channels]

        def call(request: Any, timeout: float, metadata: Any = None) -> Any:
            used = self._current
            try:
                return calls[used](request, timeout=timeout, metadata=metadata)
            except grpc.RpcError as error:
                if is_unavailable(error):
                    self.move_on(used)
                raise
            except ValueError:
                self._check_open()
                raise

        return call

    def unary_stream(self, method: str, **how: Any) -> Callable[..., Any]:
        """As that of `grpc.Channel`, to the endpoint that calls go to when it's called."""
        return self._streaming("unary_stream", method, how)

    def stream_stream(self, method: str, **how: Any) -> Callable[..., Any]:
        """As that of `grpc.Channel`, to the endpoint that calls go to when it's called."""
        return self._streaming("stream_stream", method, how)

    def _streaming(self, kind: str, method: str, how: dict[str, Any]) -> Callable[..., Any]:
        calls = [getattr(channel, kind)(method, **how) for channel in self._channels]

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return calls[self._current](*arguments, **options)
            except ValueError:
                self._check_open()
                raise

        return call

    def _check_open(self) -> None:
        if self.closed:
            raise MetadataUnavailableError("the connection to etcd was closed")

    @property
    def current(self) -> int:
        """Number of the endpoint that calls go to."""
        return self._current

    def move_on(self, failed: int) -> None:
        """Let calls go to the next endpoint, if they still go to ``failed``."""
        if self._current == failed:
            self._current = (failed + 1) % len(self._channels)

    def close(self) -> None:
        """Close the connections; calls under way fail. May be called twice."""
        self.closed = True
        for channel in self._channels:
            channel.close()


class EtcdClient(_Etcd3Client):  # type: ignore[misc]
    """etcd3's client over a `FailoverChannel`. For any number of threads.

    Its stubs (``kvstub``, ``leasestub`` and so on) are to be used by way of `call`.
    """

    channel: Any
    metadata: tuple[tuple[str, str], ...] | None

    def __init__(self, address: EtcdAddress) -> None:
        super().__init__()
        self.channel.close()  # one endpoint; it never connected
        self.address = address
        self.channel = FailoverChannel(address)
        self.kvstub = rpc.KVStub(self.channel)
        self.leasestub = rpc.LeaseStub(self.channel)
        self.watchstub = rpc.WatchStub(self.channel)
        self.auth_stub = rpc.AuthStub(self.channel)
        self.maintenancestub = rpc.MaintenanceStub(self.channel)
        self.clusterstub = rpc.ClusterStub(self.channel)
        self._signing_in = threading.Lock()
        self._reached = False  # whether any server ever answered

    def _build_get_range_request(
        self, key: Any, *arguments: Any, limit: int = 0, revision: int = 0, **options: Any
    ) -> Any:
        request = super()._build_get_range_request(key, *arguments, **options)
        request.limit, request.revision = limit, revision
        return request

    def range_request(self, key: bytes, range_end: bytes, limit: int, revision: int) -> Any:
        """The message for one page of a range."""
        return self._build_get_range_request(
            key, range_end or None, limit=limit, revision=revision, sort_target=None
        )

    def call(
        self, method: Callable[..., Any], request: Any, timeout_s: float, *, retry: bool = True
    ) -> Any:
        """Make a call, again and elsewhere if no server carries it out; return its reply.

        Parameters
        ----------
        retry : bool
            Whether it may be carried out twice.

        Raises
        ------
        VineyardArrowError
            What the server said, in our terms.
        MetadataUnavailableError
            If there was no answer in time, or (without ``retry``) at the first try; at once if
            none ever answered, and all servers refuse to connect for what the certificates are.
        """
        deadline = time.monotonic() + timeout_s
        signed_in = False
        refusals = 0  # one after the other
        for attempt in itertools.count():
            left = deadline - time.monotonic()
            several = retry and len(self.channel) > 1
            limit = max(0.001, min(left, ATTEMPT_S) if several else left)
            try:
                reply = method(request, timeout=limit, metadata=self.sign_in(limit))
                self._reached = True
                return reply
            except grpc.RpcError as error:
                if not signed_in and self.forget_token(error):
                    signed_in = True
                    continue
                failure = error_of(error, f"etcd at {self.address}", timeout_s)
                left = deadline - time.monotonic()
                unavailable = isinstance(failure, MetadataUnavailableError)
                if not (unavailable and retry) or left <= RETRY_S:
                    raise failure from None
                refusals = refusals + 1 if _is_refusal(error) else 0
                if refusals >= len(self.channel) and not self._reached:
                    raise failure from None
                if attempt >= len(self.channel) - 1:
                    time.sleep(RETRY_S)  # all were asked
        raise AssertionError

    def sign_in(self, timeout_s: float) -> tuple[tuple[str, str], ...]:
        """Metadata for calls: a token, if etcd wants one; the files are read anew."""
        signed = self.metadata
        if signed is not None:
            return signed
        with self._signing_in:
            if self.metadata is None:
                token = None
                if self.address.token_file is not None:
                    token = _line_of(self.address.token_file)
                elif self.address.login_file is not None:
                    user, colon, password = _line_of(self.address.login_file).partition(":")
                    if not colon:
                        raise ConfigError(
                            f"{self.address.login_file}, for etcd, has no password",
                            "write one line: user:password",
                        )
                    request = rpc.AuthenticateRequest(name=user, password=password)
                    reply = self.auth_stub.Authenticate(request, timeout=max(0.001, timeout_s))
                    token = reply.token
                self.metadata = (("token", token),) if token else ()
            return self.metadata

    def forget_token(self, error: Any) -> bool:
        """Sign in anew before the next call, if that may help after this error of grpc's."""
        text = error.details() or ""
        stale = "invalid auth token" in text or "revision of auth store is old" in text
        if stale:
            self.metadata = None
        return stale


def _credentials(address: EtcdAddress) -> Any:
    if address.ca_file is None:
        if address.cert_file or address.key_file:
            raise ConfigError("a certificate for etcd needs the file of its authority too")
        return None
    if (address.cert_file is None) != (address.key_file is None):
        raise ConfigError("a certificate for etcd needs its key, and a key its certificate")
    pem = [
        None if path is None else _read(path)
        for path in (address.ca_file, address.key_file, address.cert_file)
    ]
    _check_pem(address)
    return grpc.ssl_channel_credentials(*pem)


def _check_pem(address: EtcdAddress) -> None:
    """Raise ConfigError for files that grpc would only complain of at every connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(address.ca_file)
    except ssl.SSLError:
        raise ConfigError(f"{address.ca_file}, for etcd, has no certificate", _PEM) from None
    if address.cert_file is not None:
        try:
            context.load_cert_chain(address.cert_file, address.key_file, password=b"")
        except ssl.SSLError as error:
            files = f"{address.cert_file} and {address.key_file}, for etcd"
            why = error.reason or "one is none"
            raise ConfigError(f"{files}, are no certificate and its key: {why}", _PEM) from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}, for etcd: {error.strerror}", "look at the --meta-*-file settings"
        ) from None


def _line_of(path: Path) -> str:
    line = _read(path).decode(errors="replace").strip()
    if not line:
        raise ConfigError(f"{path}, for etcd, is empty")
    return line


def is_unavailable(error: Any) -> bool:
    """Whether no server answered; others may."""
    return error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    )


def _is_refusal(error: Any) -> bool:
    """Whether a connection failed for its certificates: whoever tries again fails again."""
    text = error.details() or ""
    return "SSL_ERROR_SSL" in text or "verification check failed" in text.lower()


def error_of(error: Any, who: str, timeout_s: float) -> VineyardArrowError:
    """What a failed call means, in our terms."""
    text = error.details() or error.code().name
    for part, kind, hint in _TEXTS:
        if part in text:
            return kind(f"{who}: {text}", hint)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        text = f"no answer within {timeout_s:.3g} s"
    lower = text.lower()
    hint = None
    if any(word in lower for word in ("certificate", "handshake", "hostname")):
        hint = (
            "look at the certificates that --meta-ca-file, --meta-cert-file and --meta-key-file"
            " name; an etcd without TLS wants no such files"
        )
    return MetadataUnavailableError(f"{who}: {text}", hint)
