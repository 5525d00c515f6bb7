"""Partitions of tables, frames, arrays and graphs: planned first, then made, all or none.

`rows` and `blocks` plan tables and arrays, `graphs` graphs; `owners` says which row goes where,
`placing` on which instance a partition lives; `reach` is what makes them there. See
docs/partition.md. The drivers that lead here are `drivers.partitions`.
"""

from __future__ import annotations

from .plan import Plan

__all__ = ["Plan"]
