"""An IO manager for Dagster: what an asset or op returns is an object of the store.

The step that takes it gets it in its own process without a copy. See docs/managers.md.

Examples
--------
>>> from vineyard_arrow.integrations.dagster import VineyardIOManager
>>> dagster.Definitions(  # doctest: +SKIP
...     assets=[flights, delays], resources={"io_manager": VineyardIOManager()}
... )
"""

from __future__ import annotations

import contextlib
import glob
import typing
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pyarrow as pa

from ..errors import InvalidObjectError, LibraryNotFoundError, ObjectNotFoundError
from .outputs import Outputs

try:
    import dagster as dg
    from pydantic import Field, PrivateAttr
except ModuleNotFoundError as error:
    raise LibraryNotFoundError(
        "dagster is needed for this, but it is not installed",
        "pip install 'vineyard-arrow[dagster]'",
    ) from error

__all__ = ["VineyardIOManager"]

# Of each library, what makes one of several; Arrow's and polars' copy nothing.
_CONCATENATE = {
    "pyarrow": ("concat_tables", {}),
    "polars": ("concat", {"rechunk": False}),
    "pandas": ("concat", {"ignore_index": True}),
}


class VineyardIOManager(dg.ConfigurableIOManager):  # type: ignore[misc]
    """Keeps outputs in the store, by name.

    An asset is ``<prefix>/<key>``, a partition of it ``<prefix>/<key>@<partition>``: one object,
    until it is materialized anew, which deletes the old one, or deleted by hand. What an op of a
    job returns is ``<prefix>/runs/<run>/<step>/<output>``; it is there for retries until
    `delete_run` is called, or it is older than ``ttl_s``. All of it ends with the daemon.

    The annotation of an input decides what it is given as, as ``as_`` of `Client.get` does:
    ``polars.DataFrame``, ``pandas.DataFrame``, ``pyarrow.Table``, ``Graph``, ... Without one, or
    with one that is no class, it is what was returned. Several partitions come as a dict by
    partition key; of an annotation that is a table or frame, as one.

    A materialization tells the object's id and name, its bytes, how many of these were copied,
    and of tables and frames their rows, schema and first rows.

    Attributes
    ----------
    socket : str, optional
        Of the store, as in `vineyard_arrow.connect`.
    prefix : str
        Of all names.
    mode : {"ro", "cow", "copy"}
        As in `Client.get`: with "ro" NumPy and pandas values cannot be written to.
    ttl_s : float, optional
        Whenever an op's output is stored, those of all runs that are older go; assets do not.
    preview_rows : int
        How many rows a materialization shows.
    """

    socket: str | None = Field(default=None, description="Of the store; by default the user's.")
    prefix: str = Field(default="dagster", description="Of the names of all objects.")
    mode: str = Field(default="ro", description="ro, cow or copy: how values are mapped.")
    ttl_s: float | None = Field(default=None, description="Outputs of ops that are older go.")
    preview_rows: int = Field(default=5, description="Rows that a materialization shows.")
    _outputs: Outputs | None = PrivateAttr(default=None)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Store what an asset or op has returned.

        Raises
        ------
        InvalidObjectError
            If it is of several partitions, and no dict with just their keys.
        """
        metas = {name: self._store.put(name, v) for name, v in self._named(context, obj).items()}
        if not context.has_asset_key:
            self._sweep()
        described: dict[str, Any] = {
            "bytes": sum(meta.nbytes for meta in metas.values()),
            "copied_bytes": sum(meta.copied + meta.gathered for meta in metas.values()),
        }
        if len(metas) == 1:
            [(name, meta)] = metas.items()
            described |= {"id": str(meta.id), "name": name} | _of_table(obj, self.preview_rows)
        context.add_output_metadata(described)

    def load_input(self, context: dg.InputContext) -> Any:
        """What an upstream asset or op has returned, over the store's memory.

        Raises
        ------
        ObjectNotFoundError
            If it is not in the store (any more). Partitions that are missing are left out if the
            input's metadata has ``allow_missing_partitions``.
        """
        annotation = context.dagster_type.typing_type
        if not context.has_asset_partitions:
            return self._get(self._name(context), annotation)
        keys = list(context.asset_partition_keys)
        wants_dict = typing.get_origin(annotation) in (dict, Mapping)
        if len(keys) == 1 and not wants_dict:
            return self._get(self._name(context, keys[0]), annotation)
        each = typing.get_args(annotation)[1] if wants_dict else annotation
        if annotation in (dict, Mapping):
            each = Any
        found = {}
        may_miss = (context.definition_metadata or {}).get("allow_missing_partitions", False)
        for key in keys:
            with contextlib.suppress(*[ObjectNotFoundError] if may_miss else []):
                found[key] = self._get(self._name(context, key), each)
        library = each.__module__.partition(".")[0] if _form(each) else ""
        if wants_dict or library not in _CONCATENATE or not found:
            return found
        function, options = _CONCATENATE[library]
        return getattr(import_module(library), function)(list(found.values()), **options)

    def delete_run(self, run_id: str) -> None:
        """Delete what the ops of a run have returned; for a hook or sensor at its end."""
        for meta in self._store.list(f"{glob.escape(self.prefix)}/runs/{run_id}/*"):
            assert meta.id is not None
            self._store.remove(meta.id)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:
        """Let go of the store; what was read stays valid."""
        self._store.close()

    @property
    def _store(self) -> Outputs:
        if self._outputs is None:
            self._outputs = Outputs(self.socket)
        return self._outputs

    def _get(self, name: str, annotation: Any) -> Any:
        mode: Any = self.mode
        return self._store.get(name, as_=_form(annotation), mode=mode)

    def _name(self, context: Any, partition: str | None = None) -> str:
        if not context.has_asset_key:
            return "/".join([self.prefix, "runs", *context.get_identifier()])
        name = "/".join([self.prefix, *context.asset_key.path])
        return name if partition is None else f"{name}@{partition}"

    def _named(self, context: dg.OutputContext, value: Any) -> dict[str, Any]:
        """What is to be stored by which name."""
        if not context.has_asset_partitions:
            return {self._name(context): value}
        keys = list(context.asset_partition_keys)
        if len(keys) == 1:
            return {self._name(context, keys[0]): value}
        if not isinstance(value, Mapping) or set(value) != set(keys):
            raise InvalidObjectError(
                f"{context.asset_key.to_user_string()} is to give {len(keys)} partitions, and"
                f" gave a {type(value).__name__}",
                "return a dict with a value for each of context.partition_keys",
            )
        return {self._name(context, key): value[key] for key in keys}

    def _sweep(self) -> None:
        if self.ttl_s is None:
            return
        latest = datetime.now(UTC) - timedelta(seconds=self.ttl_s)
        for meta in self._store.list(f"{glob.escape(self.prefix)}/runs/*"):
            if meta.created < latest and meta.id is not None:
                self._store.remove(meta.id)


def _form(annotation: Any) -> type | None:
    """What an annotation asks for, if it is a class of values."""
    if not isinstance(annotation, type) or annotation in (Any, object):
        return None
    return None if getattr(annotation, "_is_protocol", False) else annotation


def _of_table(value: Any, preview_rows: int) -> dict[str, Any]:
    """Rows, schema and first rows of a table or frame, by Dagster's own names."""
    if isinstance(value, pa.Table | pa.RecordBatch):
        head = value.slice(0, preview_rows)
    elif all(hasattr(type(value), name) for name in ("columns", "head", "__len__")):
        head = value.head(preview_rows)
    else:
        return {}
    try:
        head = pa.table(head)
    except (pa.ArrowException, TypeError, ValueError):  # objects of pandas, say
        return {}
    columns = [
        dg.TableColumn(
            field.name, str(field.type), constraints=dg.TableColumnConstraints(field.nullable)
        )
        for field in head.schema
    ]
    described: dict[str, Any] = {
        "dagster/row_count": len(value),
        "dagster/column_schema": dg.TableSchema(columns),
    }
    if preview_rows:
        described["preview"] = dg.MetadataValue.md(_markdown(head))
    return described


def _markdown(table: pa.Table) -> str:
    rows = [table.column_names, ["---"] * table.num_columns]
    rows += [list(row.values()) for row in table.to_pylist()]
    texts = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in texts)
