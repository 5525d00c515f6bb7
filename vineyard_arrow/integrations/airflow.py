"""An XCom backend for Airflow 3: what a task returns is an object of the store.

The task that takes it gets it in its own process without a copy; Airflow's database has only where
it is. Small plain values stay with Airflow. See docs/managers.md.

Examples
--------
::

    AIRFLOW__CORE__XCOM_BACKEND=vineyard_arrow.integrations.airflow.VineyardXCom
    AIRFLOW__VINEYARD_ARROW__XCOM_SOCKET=/run/vineyard-arrow/store.sock
"""

from __future__ import annotations

import glob
import json
import logging
import platform
import uuid
from functools import cache
from typing import Any

import numpy as np

from ..errors import (
    ConfigError,
    ConnectionLostError,
    LibraryNotFoundError,
    ObjectNotFoundError,
    VineyardArrowError,
)
from ..objects import ObjectID
from ..registry import default_registry
from .outputs import Outputs

try:
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.configuration import conf
except ModuleNotFoundError as error:
    raise LibraryNotFoundError(
        "Airflow 3 is needed for this, but it is not installed",
        "pip install 'vineyard-arrow[airflow]'",
    ) from error

__all__ = ["VineyardXCom", "delete_run"]

SECTION = "vineyard_arrow"  # of airflow.cfg
REFERENCE = "__vineyard_arrow__"  # the key by which a dict in the database stands for an object
DEFAULT_THRESHOLD = 64 << 10
PLAIN = "vineyard_arrow.types.python"  # whose builders know no memory to share
log = logging.getLogger(__name__)


class VineyardXCom(BaseXCom):  # type: ignore[misc]
    """Keeps values in the store, by the name ``airflow/<dag>/<run>/<task>/<map index>/<key>``.

    To the store go tables, frames, arrays, graphs and what else has memory to share, also inside
    of lists and dicts; what Airflow cannot serialize; and what is larger as JSON than
    ``[vineyard_arrow] xcom_threshold`` bytes (65536). All else stays in Airflow's database.

    A value goes when Airflow deletes its XCom: when the task runs again, or by ``XCom.delete``.
    Airflow deletes rows of old runs without asking the backend (``airflow db clean``, a run
    deleted in the UI); call `delete_run` at the end of a run, or what it left stays until the
    daemon ends.

    ``[vineyard_arrow] xcom_socket`` is the store's socket, the user's own by default.
    """

    @staticmethod
    def serialize_value(
        value: Any,
        *,
        key: str | None = None,
        task_id: str | None = None,
        dag_id: str | None = None,
        run_id: str | None = None,
        map_index: int | None = None,
    ) -> Any:
        """What Airflow's database is to have: the value, or a dict that tells where it is.

        Raises
        ------
        StoreFullError, InvalidObjectError
            As `Client.put`.
        """
        if not _is_for_store(value):
            plain = _as_airflow_has_it(value)
            if plain is not None:
                return plain[0]
        parts = [dag_id, run_id, task_id, "-1" if map_index is None else str(map_index), key]
        known = [part for part in parts if part is not None]
        name = "/".join(["airflow", *(known if len(known) == len(parts) else [str(uuid.uuid4())])])
        meta = _outputs().put(name, value)
        return {
            REFERENCE: str(meta.id),
            "name": name,
            "type": f"{type(value).__module__}.{type(value).__qualname__}",
            "bytes": meta.nbytes,
            "host": platform.node(),
        }

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        """The value, over the store's own memory; fetched if another instance has it.

        Raises
        ------
        ObjectNotFoundError
            If it is not in the store any more; it tells which, and what to do.
        """
        value = BaseXCom.deserialize_value(result)
        if not _is_reference(value):
            return value
        try:
            return _outputs().client().get(ObjectID(value[REFERENCE]), fetch=True)
        except (ConfigError, ConnectionLostError, ObjectNotFoundError) as error:
            raise ObjectNotFoundError(
                f"{value['name']!r} ({value[REFERENCE]}, put on {value['host']}) is not in the"
                f" store: {getattr(error, 'message', error)}",
                "a store keeps values while its daemon runs: clear the task that made it, so that"
                " it runs again",
            ) from error

    @classmethod
    def purge(cls, xcom: Any, *args: Any) -> None:
        """Delete the value of an XCom that Airflow is about to delete, if it is there."""
        value: Any = getattr(xcom, "value", None)
        if not _is_reference(value):
            return
        try:
            _outputs().remove(ObjectID(value[REFERENCE]))
        except VineyardArrowError as error:  # no reason for the task to fail
            log.warning("%s is not deleted from the store: %s", value["name"], error)


def delete_run(dag_id: str, run_id: str) -> None:
    """Delete all values of a run: for a last task with ``trigger_rule="all_done"``.

    Their XComs stay in the database, and say that they are gone to who pulls them.
    """
    outputs = _outputs()
    for meta in outputs.list(f"airflow/{glob.escape(dag_id)}/{glob.escape(run_id)}/*"):
        assert meta.id is not None
        outputs.remove(meta.id)


@cache
def _outputs() -> Outputs:
    return Outputs(conf.get(SECTION, "xcom_socket", fallback=None) or None)


def _is_reference(value: Any) -> bool:
    return isinstance(value, dict) and REFERENCE in value


def _is_for_store(value: Any) -> bool:
    """Whether it is or has something that Airflow would copy, and the store shares."""
    if value is None or isinstance(value, str | int | float | np.generic):
        return False
    if isinstance(value, dict):
        return REFERENCE in value or any(map(_is_for_store, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_for_store, value))
    return default_registry.builder_for(value).__module__ != PLAIN


def _as_airflow_has_it(value: Any) -> tuple[Any] | None:
    """What Airflow makes of a value, if it can, and that is small."""
    try:
        plain = BaseXCom.serialize_value(value)
        nbytes = len(json.dumps(plain))
    except (TypeError, ValueError, AttributeError, RecursionError):
        return None
    threshold = conf.getint(SECTION, "xcom_threshold", fallback=DEFAULT_THRESHOLD)
    return (plain,) if nbytes < threshold else None
