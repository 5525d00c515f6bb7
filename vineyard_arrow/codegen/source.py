"""The shared classes of a Python file, read from its text: the file is never imported.

So it may import what is not installed, and nothing in it runs. What annotations and defaults
can be made of is therefore little (`expressions`), and all of it in this one file, but for
NumPy, pyarrow, polars, pandas and the standard library's types.
"""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import enum
import typing
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InvalidObjectError
from ..types.shared import shared
from .expressions import Expressions
from .hints import UnsupportedError, check_class, renamed_from, type_of_hint
from .model import Class, Factory, Field, File, Problem, refusal

__all__ = ["module_of", "read_file"]

_MISSING = dataclasses.MISSING
_FACTORIES = ((list, "list"), (dict, "dict"), (tuple, "tuple"))
_LITERALS = (bool, int, float, str, bytes, dt.date, dt.time, dt.timedelta, enum.Enum, type(None))
# Arguments of @dataclass that generated classes keep.
_OPTIONS = ("frozen", "slots", "kw_only", "order", "eq", "unsafe_hash")


def read_file(path: str, module: str | None = None) -> File:
    """The shared classes that a file declares.

    Parameters
    ----------
    path : str
    module : str, optional
        What the file is imported as, for the typenames of classes that give none; by default
        its name below the outermost folder that has an ``__init__.py``.

    Raises
    ------
    AnnotationError
        For what a shared class cannot have, all of it at once, with lines.
    OSError
        If the file cannot be read.
    """
    try:
        tree = ast.parse(Path(path).read_bytes(), path)
    except SyntaxError as error:
        problem = Problem(path, error.lineno or 1, f"no Python: {error.msg}", "mend it first")
        raise refusal([problem]) from None
    except ValueError as error:  # null bytes
        raise InvalidObjectError(f"{path} is no text: {error}") from None
    try:
        return _Reader(path, module or module_of(path), tree).read()
    except RecursionError:
        raise InvalidObjectError(f"an expression in {path} nests too deeply") from None


def module_of(path: str) -> str:
    """What a file is imported as, by the packages that it lies in."""
    file = Path(path).resolve()
    names = [] if file.stem == "__init__" else [file.stem]
    folder = file.parent
    while (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names)


class _Reader:
    def __init__(self, path: str, module: str, tree: ast.Module) -> None:
        self._path = path
        self._module = module
        self._tree = tree
        self._problems: list[Problem] = []
        self._names = Expressions(tree, self._stand_in)
        self._shared: dict[type, tuple[str, str]] = {}  # stand-ins: typename, name
        self._fields: dict[str, dict[str, Field]] = {}  # of dataclasses, by the class's name

    def read(self) -> File:
        """All of it; raises what problems there are."""
        nodes = self._names.classes
        for node in ast.walk(self._tree):
            if not isinstance(node, ast.ClassDef) or node is nodes.get(node.name):
                continue
            if self._is_shared(node):
                self._problem(
                    node, f"{node.name} is shared, but not a class of the module", "move it there"
                )
        declared = [node for node in nodes.values() if self._is_shared(node)]
        if not declared and not self._problems:
            self._problem(
                self._tree, "it has no shared class", "decorate one with @vineyard_arrow.shared"
            )
        classes = tuple(filter(None, map(self._class, declared)))
        for i, made in enumerate(classes):
            if any(made.typename == other.typename for other in classes[:i]):
                self._problem(made, f"{made.typename!r} is another class too", "give each its own")
        if self._problems:
            raise refusal(self._problems)
        return File(self._path, classes)

    def _problem(self, where: Any, message: str, instead: str) -> None:
        line = getattr(where, "lineno", None) or getattr(where, "line", None) or 1
        self._problems.append(Problem(self._path, line, message, instead))

    # ---- classes

    def _is_shared(self, node: ast.ClassDef) -> bool:
        return self._decorator(node, shared) is not None

    def _decorator(self, node: ast.ClassDef, wanted: Any) -> dict[str, ast.expr] | None:
        """The arguments of a decorator, if the class has it."""
        for each in node.decorator_list:
            call = each if isinstance(each, ast.Call) else None
            try:
                found = self._names.value(each if call is None else call.func)
            except UnsupportedError:
                continue  # somebody else's
            if found is wanted:
                keywords = [] if call is None else call.keywords
                return {k.arg: k.value for k in keywords if k.arg is not None}
        return None

    def _stand_in(self, node: ast.ClassDef) -> type:
        """What takes the place of one of the file's classes in annotations."""
        for base in node.bases:
            try:
                found = self._names.value(base)
            except UnsupportedError:
                continue
            if isinstance(found, type) and issubclass(found, enum.Enum):
                return self._enum(node, found)
        namespace: dict[str, Any] = {}
        if self._decorator(node, dataclasses.dataclass) is not None:
            namespace["__dataclass_fields__"] = {}  # so that it is known for one
        made = type(node.name, (), namespace)
        if self._is_shared(node):
            self._shared[made] = (self._typename(node), node.name)
        return made

    def _enum(self, node: ast.ClassDef, base: Any) -> type:
        members: dict[str, Any] = {}
        for each in node.body:
            match each:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=function)) if (
                    self._names.value(function) is enum.auto
                ):
                    members[name] = enum.auto()
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Name(id=other)) if (
                    other in members
                ):
                    members[name] = members[other]  # another name of it
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    members[name] = self._names.value(value)
        try:
            made: type = base(node.name, members.items())
        except Exception as error:  # of the enumeration that it is derived from
            raise UnsupportedError(f"{node.name}: {error}", "mend it first") from None
        return made

    def _typename(self, node: ast.ClassDef) -> str:
        argument = (self._decorator(node, shared) or {}).get("typename")
        given = None if argument is None else self._names.value(argument)
        return f"{self._module}.{node.name}" if given is None else given

    def _class(self, node: ast.ClassDef) -> Class | None:
        options = self._decorator(node, dataclasses.dataclass)
        if options is None:
            self._problem(node, f"{node.name} is not a dataclass", "write @dataclass under @shared")
            return None
        try:
            version = (self._decorator(node, shared) or {}).get("version")
            made = Class(
                node.name,
                self._typename(node),
                1 if version is None else self._names.value(version),
                tuple(self._fields_of(node).values()),
                self._shared_base(node),
                self._options(options),
                ast.get_docstring(node) or "",
                node.lineno,
            )
            check_class(made)
        except UnsupportedError as error:
            self._problem(node, f"{node.name}: {error.message}", error.instead)
            return None
        return made

    def _options(self, arguments: dict[str, ast.expr]) -> dict[str, bool]:
        given = {name: self._names.value(node) for name, node in arguments.items()}
        return {name: bool(given[name]) for name in _OPTIONS if name in given}

    def _bases(self, node: ast.ClassDef) -> list[ast.ClassDef]:
        """The dataclasses of the file that a class is derived from."""
        bases = []
        for base in node.bases:
            found = self._names.value(base)  # of another file it may have fields: refused
            named = self._names.classes.get(getattr(base, "id", ""))
            if named is not None and isinstance(found, type) and not issubclass(found, enum.Enum):
                bases.append(named)
        if len(bases) > 1:
            raise UnsupportedError("it has several bases", "derive it from one class of the file")
        return bases

    def _shared_base(self, node: ast.ClassDef) -> str | None:
        """The nearest shared class above."""
        for base in self._bases(node):
            return base.name if self._is_shared(base) else self._shared_base(base)
        return None

    # ---- fields

    def _fields_of(self, node: ast.ClassDef) -> dict[str, Field]:
        known = self._fields.get(node.name)
        if known is not None:
            return known
        fields: dict[str, Field] = {}
        self._fields[node.name] = fields
        for base in self._bases(node):
            own = not self._is_shared(base)
            for name, field in self._fields_of(base).items():
                fields[name] = field if own else msgspec.structs.replace(field, own=False)
        options = self._decorator(node, dataclasses.dataclass)
        if options is None:  # no fields of its own
            return fields
        kw_only = self._options(options).get("kw_only", False)
        for each in node.body:
            if not (isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)):
                continue
            name = each.target.id
            try:
                hint = self._names.hint(each.annotation)
                if hint is dataclasses.KW_ONLY:
                    kw_only = True
                elif hint is not typing.ClassVar and typing.get_origin(hint) is not typing.ClassVar:
                    made = self._field(name, hint, each, kw_only)
                    if made is not None:
                        fields[name] = made
            except UnsupportedError as error:
                self._problem(each, f"{node.name}.{name}: {error.message}", error.instead)
        return fields

    def _field(self, name: str, hint: Any, node: ast.AnnAssign, kw_only: bool) -> Field | None:
        """A field; None for what is not stored."""
        given = self._given(node.value)
        if isinstance(hint, dataclasses.InitVar) or hint is dataclasses.InitVar:
            if given.keys() & {"default", "default_factory"}:
                return None
            raise UnsupportedError("an InitVar is no field", "give it a default, or make it one")
        value = self._names.value
        if "init" in given and not value(given["init"]):
            return None
        metadata = value(given["metadata"]) if "metadata" in given else {}
        if not isinstance(metadata, dict):
            raise UnsupportedError(f"the metadata is {metadata!r}", "write a dict")
        found = type_of_hint(hint, self._shared.get)
        default = self._default(given)
        return Field(
            name,
            found,
            default is _MISSING,
            None if default is _MISSING else default,
            renamed_from(metadata.get("renamed_from", ())),
            bool(value(given["kw_only"])) if "kw_only" in given else kw_only,
            line=node.lineno,
        )

    def _given(self, node: ast.expr | None) -> dict[str, ast.expr]:
        """The arguments of ``field(...)``, which a bare default is short for."""
        if node is None:
            return {}
        if isinstance(node, ast.Call) and self._names.value(node.func) is dataclasses.field:
            return {k.arg: k.value for k in node.keywords if k.arg is not None}
        return {"default": node}

    def _default(self, given: dict[str, ast.expr]) -> Any:
        if "default_factory" in given:
            node = given["default_factory"]
            factory = None if isinstance(node, ast.Lambda) else self._names.value(node)
            name = next((name for known, name in _FACTORIES if known is factory), None)
            if name is None:
                raise UnsupportedError(
                    f"the default is made by {ast.unparse(node)}",
                    "write list, dict or tuple, or a plain default",
                )
            return Factory(name)
        if "default" not in given:
            return _MISSING
        default = self._names.value(given["default"])
        items = default if isinstance(default, tuple) else (default,)
        if not all(isinstance(item, _LITERALS) for item in items):
            raise UnsupportedError(
                f"the default is {ast.unparse(given['default'])}", "write a plain value"
            )
        return default
