"""A dataset for Kedro's catalog: what a node returns is an object of the store.

The node that takes it gets it without a copy, in its own process under ``ParallelRunner``. See
docs/managers.md.

Examples
--------
An entry of ``catalog.yml``, here for all datasets that have none of their own::

    "{dataset}":
      type: vineyard_arrow.integrations.kedro.VineyardDataset
      name: "kedro/{dataset}"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import LibraryNotFoundError
from .outputs import Outputs

try:
    from kedro.io import AbstractDataset, DatasetError
except ModuleNotFoundError as error:
    raise LibraryNotFoundError(
        "kedro is needed for this, but it is not installed", "pip install 'vineyard-arrow[kedro]'"
    ) from error

if TYPE_CHECKING:
    from ..client import Mode

__all__ = ["VineyardDataset"]


class VineyardDataset(AbstractDataset[Any, Any]):  # type: ignore[misc]
    """A value in the store, by name.

    Saving it again deletes the one before; who still reads that keeps its memory. It stays after
    the run, for the next one, until it is deleted or the daemon ends; but with ``transient=True``
    only until Kedro releases it, when no node of the run needs it any more (or, if the run fails,
    until the next). There are no versions.

    Parameters
    ----------
    name : str
        In the store.
    socket : str, optional
        Of the store, as in `vineyard_arrow.connect`.
    as_ : str, optional
        A library to load it as, as in `Client.get`: ``"pandas"``, ``"polars"``, ``"arrow"``, ...
        By default what was saved.
    mode : {"ro", "cow", "copy"}
        As in `Client.get`: with "ro" NumPy and pandas values cannot be written to.
    transient : bool
        Whether it is for the nodes of one run alone, as a ``MemoryDataset`` is.
    version
        Refused.
    metadata : dict, optional
        Ignored, as by all datasets; for plugins.

    Raises
    ------
    DatasetError
        By ``load`` if there is none, with what can be done about it; if it is to be versioned.
    """

    def __init__(
        self,
        *,
        name: str,
        socket: str | None = None,
        as_: str | None = None,
        mode: Mode = "ro",
        transient: bool = False,
        version: Any = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if version is not None:
            raise DatasetError(
                f"{name!r} cannot be versioned: the store keeps one value of a name. Leave out"
                " 'versioned', or put the version into the name."
            )
        self._name, self._as, self._mode, self._transient = name, as_, mode, transient
        self._outputs = Outputs(socket)
        self.metadata = metadata
        self._EPHEMERAL = transient

    def load(self) -> Any:
        """The value, over the store's own memory."""
        return self._outputs.get(self._name, as_=self._as, mode=self._mode)

    def save(self, data: Any) -> None:
        """Store a value: memory of the store is shared, all else copied once."""
        self._outputs.put(self._name, data)

    def _exists(self) -> bool:
        return self._outputs.exists(self._name)

    def _release(self) -> None:
        if self._transient:
            self._outputs.remove(self._name)
        self._outputs.close()

    def _describe(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "socket": self._outputs.socket,
            "as_": self._as,
            "mode": self._mode,
            "transient": self._transient,
        }
