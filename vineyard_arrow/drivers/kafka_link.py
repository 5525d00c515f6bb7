"""What reading from Kafka and writing to it have in common: urls, options, and errors in our words.

It knows no store and no formats. The options are those of librdkafka, which
`confluent_kafka` wraps: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md.
No value of an option that is a secret gets into what it says.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import (
    AccessDeniedError,
    BrokerError,
    BrokerUnavailableError,
    ConfigError,
    PathNotFoundError,
    TopicNotFoundError,
    VineyardArrowError,
)
from .libraries import library
from .registry import shown

__all__ = ["LOOK_S", "OPTIONS_FILE", "Link", "Options", "Topic", "topic_of"]

LOOK_S = 0.2  # how late an interrupt, or the end of a wait, may be seen
OPTIONS_FILE = "VINEYARD_ARROW_KAFKA"  # names a file of options

Options = Mapping[str, Any] | str | os.PathLike[str] | None

_CREATE_S = 3.0  # a broker may make a topic as it is first asked for
_SECRET = re.compile(r"password|secret|token|jaas|oauthbearer\.config|pem", re.IGNORECASE)
_URL = re.compile(r"kafka://([^/?#@]+)/([A-Za-z0-9._-]{1,249})", re.IGNORECASE)
# What is said in other ways, or has to be as it is.
_OURS = {
    "bootstrap.servers": "the url has the brokers",
    "metadata.broker.list": "the url has the brokers",
    "group.id": "group= says it",
    "transactional.id": "transactional_id= says it",
    "auto.offset.reset": "start= says it",
    "enable.auto.commit": "offsets are committed once their rows are kept",
    "enable.partition.eof": "it is always on",
    "partition.assignment.strategy": "it is range, or roundrobin",
    "group.protocol": "it is classic",
}

_log = logging.getLogger("vineyard_arrow.kafka")
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic, and the brokers where to begin to look for it."""

    servers: str
    name: str
    url: str


def topic_of(url: str) -> Topic:
    """The topic that a url names."""
    found = _URL.fullmatch(url)
    if found is None:
        raise ConfigError(
            f"{shown(url)} names no topic of Kafka",
            "kafka://host:port/topic, or several hosts with commas; all else by options=",
        )
    return Topic(found[1], found[2], shown(url))


def _options_of(given: Options) -> dict[str, Any]:
    """The options of the file that the environment names, and over them those given."""
    named = os.environ.get(OPTIONS_FILE)
    options = _options_in(named) if named else {}
    options |= given if isinstance(given, Mapping) else _options_in(given) if given else {}
    for name in options:
        if name in _OURS:
            raise ConfigError(f"the option {name!r} is not to be set", _OURS[name])
    return options


def _options_in(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The options in a file: ``name=value`` in each line, as Kafka's tools and kcat have them."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise PathNotFoundError(f"the options in {path} cannot be read: {error.strerror}") from None
    options = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if text and not text.startswith(("#", "!")):
            name, sign, value = text.partition("=")
            if not sign:
                raise ConfigError(
                    f"{path}, line {number} is no option", "it is a name, =, and a value"
                )
            options[name.strip()] = value.strip()
    return options


class Link:
    """One end of connections to brokers: a consumer or a producer of `confluent_kafka`.

    Parameters
    ----------
    topic : Topic
    options : mapping, path or None
        Of librdkafka; a path is that of a file of them.
    timeout_s : float
        How long brokers may be silent, where an answer is owed.
    """

    _creates = False  # topics, by asking for them

    def __init__(self, topic: Topic, options: Options, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ConfigError(f"timeout_s={timeout_s!r}", "it is a positive number")
        self.topic, self.timeout_s = topic, timeout_s
        self._options = _options_of(options)
        self._secrets = {str(v) for k, v in self._options.items() if _SECRET.search(k)} - {""}
        self._heard: Any = None  # the last error about a connection
        self.down_since: float | None = None

    def _opened(self, kind: str, defaults: Mapping[str, Any], ours: Mapping[str, Any]) -> Any:
        with library("kafka"):
            import confluent_kafka
        settings = {
            **defaults,
            **self._options,
            **ours,
            "bootstrap.servers": self.topic.servers,
            "error_cb": self._told,
        }
        try:
            return getattr(confluent_kafka, kind)(settings, logger=_log)
        except (confluent_kafka.KafkaException, TypeError, ValueError) as error:
            said = error.args[0] if error.args else error
            text = said.str() if hasattr(said, "str") else str(said)
            raise ConfigError(
                f"{self.topic.url}: {self._without_secrets(text)}",
                "options= are those of librdkafka",
            ) from None

    def _told(self, error: Any) -> None:
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.down_since = self.down_since or time.monotonic()
        else:
            self._heard = error

    def partitions(self, handle: Any) -> list[int]:
        """The partitions of the topic.

        Raises
        ------
        TopicNotFoundError, BrokerUnavailableError, AccessDeniedError
        """
        from confluent_kafka import KafkaError, KafkaException

        begun = time.monotonic()
        while True:
            waited = time.monotonic() - begun
            try:
                patience = min(1.0, max(LOOK_S, self.timeout_s - waited))
                found = handle.list_topics(self.topic.name, timeout=patience)
                topic = found.topics[self.topic.name]
            except KafkaException as error:
                handle.poll(0)  # for what was said of connections
                last = error.args[0]
                if self._heard is not None and self._heard.code() in _codes("denied", "hopeless"):
                    raise self.said(self._heard) from None
            else:
                self.down_since = None
                if topic.error is None:
                    return sorted(topic.partitions)
                last = topic.error
                unknown = last.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
                if not (last.retriable() or unknown) or (
                    unknown and (not self._creates or waited > _CREATE_S)
                ):
                    raise self.said(last)
            if waited > self.timeout_s:
                raise self.gone(last)

    # ---- errors

    def gone(self, error: Any = None) -> BrokerUnavailableError:
        """That brokers did not answer in time, and what was heard of them last."""
        last = self._heard or error
        told = f": {self._without_secrets(last.str())}" if last is not None else ""
        return BrokerUnavailableError(
            f"{self.topic.url}: no broker answered for {self.timeout_s:g} s{told}",
            "is it host:port of a running broker, and reachable? timeout_s= waits longer",
        )

    def said(self, error: Any) -> VineyardArrowError:
        """What a broker or the library says, as an error of our tree."""
        error = error.args[0] if isinstance(error, Exception) else error
        text = f"{self.topic.url}: {self._without_secrets(error.str())}"
        code = error.code()
        if code in _codes("denied"):
            return AccessDeniedError(text, "sasl.username, sasl.password, ... in options=")
        if code in _codes("unknown"):
            return TopicNotFoundError(
                f"{self.topic.url}: there is no such topic or partition", "make it first"
            )
        if code in _codes("hopeless"):
            return BrokerUnavailableError(
                text, "the name of the host, or security.protocol, ssl.ca.location in options="
            )
        if code in _codes("gone"):
            return self.gone(error)
        return BrokerError(text)

    def _without_secrets(self, text: str) -> str:
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text


_GROUPS = {
    "denied": (
        "_AUTHENTICATION",
        "SASL_AUTHENTICATION_FAILED",
        "TOPIC_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
    ),
    "unknown": ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"),
    "hopeless": ("_RESOLVE", "_SSL"),
    "gone": ("_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_MSG_TIMED_OUT", "_WAIT_COORD"),
}


def _codes(*groups: str) -> set[int]:
    from confluent_kafka import KafkaError

    return {getattr(KafkaError, name) for group in groups for name in _GROUPS[group]}
