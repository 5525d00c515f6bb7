"""What a file's annotations and defaults say, evaluated without running the file.

Names are followed to the file's own assignments, classes and imports. Of what is imported only
a few modules are looked into; of functions only those are called that make types, schemas,
dtypes and dates.
"""

from __future__ import annotations

import ast
import builtins
import datetime as dt
import enum
import importlib
import operator
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Annotated, Any, Literal, Union

import numpy as np
import pyarrow as pa

from .hints import UnsupportedError

__all__ = ["Expressions"]

# fmt: off
_MODULES = frozenset({
    "abc", "builtins", "collections", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "math", "numpy", "pandas", "pathlib", "polars", "pyarrow", "typing", "uuid", "vineyard_arrow",
})
_BUILTINS = frozenset({
    "bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list",
    "memoryview", "object", "set", "str", "tuple",
})
_TYPES = (
    "null", "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "float16", "float32", "float64", "date32", "date64", "time32", "time64", "timestamp",
    "duration", "month_day_nano_interval", "string", "utf8", "large_string", "large_utf8",
    "string_view", "binary", "large_binary", "binary_view", "decimal128", "decimal256", "list_",
    "large_list", "list_view", "large_list_view", "map_", "struct", "dictionary", "field", "schema",
)
# fmt: on
_ALIASES = {"typing_extensions": "typing"}
_CALLS: list[Any] = [
    *(getattr(pa, name) for name in _TYPES),
    np.dtype,
    dt.date,
    dt.datetime,
    dt.time,
    dt.timedelta,
    enum.auto,
    float,  # of "inf" and "nan"
]
_READ = "of libraries there are numpy, pyarrow, polars and pandas; declare the rest in this file"


class Expressions:
    """See the module's docstring.

    Parameters
    ----------
    tree : ast.Module
    stand_in : callable
        What takes the place of a class of the file.

    Attributes
    ----------
    classes : dict of str to ast.ClassDef
        Those at the level of the module, in order.
    """

    def __init__(self, tree: ast.Module, stand_in: Callable[[ast.ClassDef], type]) -> None:
        self.classes: dict[str, ast.ClassDef] = {}
        self._imports: dict[str, tuple[str, str | None]] = {}
        self._assigned: dict[str, ast.expr] = {}
        self._stand_in = stand_in
        self._known: dict[str, Any] = {}
        self._open: set[str] = set()  # names that are being evaluated
        self._collect(tree.body)

    def _collect(self, body: Iterable[ast.stmt], instead: bool = False) -> None:
        """Take note of names; ``instead``: where one is known, this is what replaces it."""

        def note(found: dict[str, Any], name: str, value: Any) -> None:
            known = name in self.classes or name in self._imports or name in self._assigned
            if not (instead and known):
                found[name] = value

        for node in body:
            match node:
                case ast.Import():
                    for alias in node.names:
                        name = alias.asname or alias.name.partition(".")[0]
                        note(self._imports, name, (alias.name if alias.asname else name, None))
                case ast.ImportFrom():
                    module = "." * node.level + (node.module or "")
                    for alias in node.names:
                        note(self._imports, alias.asname or alias.name, (module, alias.name))
                case ast.ClassDef():
                    note(self.classes, node.name, node)
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    note(self._assigned, name, value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    note(self._assigned, name, value)
                case _ if type(node).__name__ == "TypeAlias":  # type X = ..., of Python 3.12
                    made: Any = node
                    note(self._assigned, made.name.id, made.value)
                case ast.If() | ast.Try():  # TYPE_CHECKING, or what may not be installed
                    self._collect(node.body, instead)
                    for handler in getattr(node, "handlers", ()):
                        self._collect(handler.body, True)
                    self._collect(node.orelse, True)

    def hint(self, node: ast.expr) -> Any:
        """An expression in the place of a type: text in it is another one.

        Raises
        ------
        UnsupportedError
            If it is made of something that is not evaluated.
        """
        match node:
            case ast.Constant(value=str() as text):
                try:
                    return self.hint(ast.parse(text.strip(), mode="eval").body)
                except SyntaxError:
                    raise UnsupportedError(f"{text!r} is no type", "write one") from None
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                return self._made(node, lambda: Union[self.hint(left), self.hint(right)])  # noqa: UP007
            case ast.Subscript(value=base, slice=inner):
                return self._subscript(node, self.hint(base), inner)
        return self.value(node)

    def _subscript(self, node: ast.expr, base: Any, inner: ast.expr) -> Any:
        nodes = inner.elts if isinstance(inner, ast.Tuple) else [inner]
        if base is Literal:
            arguments = [self.value(each) for each in nodes]
        elif base is Annotated:
            arguments = [self.hint(nodes[0]), *(self.value(each) for each in nodes[1:])]
        else:
            arguments = [self.hint(each) for each in nodes]
        index = tuple(arguments) if isinstance(inner, ast.Tuple) else arguments[0]
        return self._made(node, lambda: operator.getitem(base, index))

    def value(self, node: ast.expr) -> Any:
        """Any other expression.

        Raises
        ------
        UnsupportedError
            If it is made of something that is not evaluated.
        """
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self._name(node.id)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Tuple():
                return tuple(map(self.value, node.elts))
            case ast.List():
                return list(map(self.value, node.elts))
            case ast.Dict(keys=keys, values=values) if None not in keys:
                pairs = zip(keys, values, strict=True)
                return self._made(node, lambda: {self.value(k): self.value(v) for k, v in pairs})  # type: ignore[arg-type]
            case ast.UnaryOp(op=ast.USub()):
                return self._made(node, lambda: -self.value(node.operand))
            case ast.Call():
                return self._call(node)
            case ast.Subscript() | ast.BinOp(op=ast.BitOr()):
                return self.hint(node)
        raise UnsupportedError(
            f"{ast.unparse(node)} is not evaluated", "the file is not run: write it out"
        )

    def _made(self, node: ast.expr, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except UnsupportedError:
            raise
        except Exception as error:  # whatever a library thinks of its arguments
            raise UnsupportedError(f"{ast.unparse(node)}: {error}", "mend it first") from None

    def _call(self, node: ast.Call) -> Any:
        function = self.value(node.func)
        if not any(function is each for each in _CALLS):
            raise UnsupportedError(
                f"{ast.unparse(node.func)} is not called, since the file is not run",
                "write it out, of pyarrow's types and schemas, and NumPy's dtypes",
            )
        arguments = [self.value(each) for each in node.args]
        keywords = {k.arg: self.value(k.value) for k in node.keywords if k.arg is not None}
        return self._made(node, lambda: function(*arguments, **keywords))

    def _attribute(self, node: ast.Attribute) -> Any:
        base = self.value(node.value)
        if isinstance(base, (ModuleType, type)) and not node.attr.startswith("_"):
            try:
                found = getattr(base, node.attr)
            except AttributeError:
                raise UnsupportedError(
                    f"there is no {ast.unparse(node)}", "write one there is"
                ) from None
            if not isinstance(found, ModuleType) or _is_read(found.__name__):
                return found
        raise UnsupportedError(f"{ast.unparse(node)} is not evaluated", "write it out")

    # ---- names

    def _name(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        if name in self._open:
            raise UnsupportedError(f"{name} is defined by itself", "define it otherwise")
        self._open.add(name)
        try:
            found = self._known[name] = self._find(name)
        finally:
            self._open.discard(name)
        return found

    def _find(self, name: str) -> Any:
        if name in self.classes:
            return self._stand_in(self.classes[name])
        if name in self._assigned:
            return self.value(self._assigned[name])
        if name in self._imports:
            return self._imported(name, *self._imports[name])
        if name in _BUILTINS:
            return getattr(builtins, name)
        raise UnsupportedError(f"{name} is not defined in this file", "define or import it")

    def _imported(self, name: str, module: str, attribute: str | None) -> Any:
        module = _ALIASES.get(module, module)
        if not _is_read(module):
            raise UnsupportedError(f"{name} comes from {module}, which is not read", _READ)
        try:
            found = importlib.import_module(module)
            return found if attribute is None else _member(found, attribute)
        except (ImportError, AttributeError) as error:
            raise UnsupportedError(f"{name} cannot be looked up: {error}", "install it") from None


def _is_read(module: str) -> bool:
    return module.partition(".")[0] in _MODULES


def _member(module: ModuleType, name: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        return importlib.import_module(f"{module.__name__}.{name}")
