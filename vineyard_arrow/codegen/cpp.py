"""C++: a header with a struct for each class, read by ``vineyard_arrow/shared.h``.

A struct has the class's fields, those of its bases included, and reads objects by the rule
that Python has. Writing objects stays with Python.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from typing import Any

from .cpp_arrow import quoted
from .cpp_types import (
    NUMBERS,
    Code,
    NoCodeError,
    array_code,
    arrow_code,
    frame_code,
    identifier,
    integer,
    literal,
    plain_code,
)
from .model import (
    Choice,
    Class,
    Factory,
    Field,
    File,
    Frame,
    Mapping,
    Maybe,
    NdArray,
    Plain,
    Problem,
    Ref,
    Sequence,
    Tuple,
    Type,
    refusal,
    text_of,
    walk,
)

__all__ = ["generate"]

_HEAD = """\
// Shared classes of {name}, to be read from C++. Written by vineyard-arrow codegen: change that
// file, not this one. Build it as docs/cpp.md says.
#pragma once

#include <vineyard_arrow/shared.h>

namespace {namespace} {{
"""


def generate(file: File) -> str:
    """The text of the header; see `languages.Backend`."""
    writer = _Writer(file)
    body = list(writer.body())
    if writer.problems:
        raise refusal(writer.problems)
    name = file.path.replace("\\", "/").rpartition("/")[2]
    stem = re.sub(r"\W", "_", name.removesuffix(".py")).lstrip("_0123456789")
    namespace = identifier(stem or "shared")
    head = _HEAD.format(name=name, namespace=namespace)
    return "\n".join([head, *body, f"}}  // namespace {namespace}", ""])


class _Writer:
    def __init__(self, file: File) -> None:
        self.problems: list[Problem] = []
        self._file = file
        self._classes = {made.name: made for made in file.classes}
        self._types = {*self._classes, *(choice.name for choice in file.choices())}
        self._refers = {made.name: _refers(made, self._classes) for made in file.classes}

    def body(self) -> Iterator[str]:
        """The lines between the braces of the namespace."""
        names = [name for name in self._classes if self._is_circular(name)]
        yield from (f"struct {identifier(name)};" for name in names)
        if names:
            yield ""
        for choice in self._file.choices():
            yield from self._choice(choice)
        for made in self._ordered():
            yield from self._struct(made)
        for made in self._file.classes:
            yield from self._reader(made)

    # ---- order

    def _reaches(self, name: str, wanted: str) -> bool:
        seen: set[str] = set()
        pending = [*self._refers[name]]
        while pending:
            found = pending.pop()
            if found == wanted:
                return True
            if found not in seen:
                seen.add(found)
                pending += self._refers[found]
        return False

    def _is_circular(self, name: str) -> bool:
        return self._reaches(name, name)

    def _ordered(self) -> list[Class]:
        """The classes, each after those that it has objects of (but for circles)."""
        done: dict[str, Class] = {}

        def add(name: str, above: tuple[str, ...]) -> None:
            if name in done or name in above:
                return
            for other in sorted(self._refers[name], key=list(self._classes).index):
                add(other, (*above, name))
            done[name] = self._classes[name]

        for name in self._classes:
            add(name, ())
        return list(done.values())

    # ---- declarations

    def _choice(self, choice: Choice) -> Iterator[str]:
        name = identifier(choice.name)
        numbers = [value for _, value in choice.members if isinstance(value, int)]
        numbered = bool(numbers) and all(-(1 << 63) <= n < 1 << 63 for n in numbers)
        yield f"enum class {name}{' : int64_t' if numbered else ''} {{"
        for member, value in choice.members:
            given = f" = {integer(value)}" if numbered and isinstance(value, int) else ""
            comment = "" if given else f"  // {value!r}"
            yield f"  {identifier(member)}{given},{comment}"
        yield "};"
        yield f"constexpr std::pair<std::string_view, {name}> {_names_of(choice)}[] = {{"
        for member, _ in choice.members:
            yield f"    {{{quoted(member)}, {name}::{identifier(member)}}},"
        yield from ("};", "")

    def _struct(self, made: Class) -> Iterator[str]:
        name = identifier(made.name)
        yield from map(_comment, made.doc.splitlines())
        yield f"struct {name} {{"
        names: dict[str, str] = {}
        for field in made.fields:
            own = self._field_name(field)
            if own in names:
                self._problem(
                    field,
                    f"{made.name}.{field.name} and {names[own]} are one name in C++",
                    "call one otherwise",
                )
            names[own] = field.name
            try:
                code = self._code(field.type)
                default = "" if field.required else f" = {self._default(field.type, field.default)}"
            except NoCodeError as error:
                self._problem(field, f"{made.name}.{field.name}: {error.message}", error.instead)
                continue
            simple = code.type in NUMBERS or isinstance(field.type, (Plain, Choice))
            initial = default or ("{}" if simple and code.type != "std::string" else "")
            line, comment = f"  {code.type} {own}{initial};", _comment(text_of(field.type))
            yield from (
                [f"{line}  {comment}"] if len(line) + len(comment) < 99 else [f"  {comment}", line]
            )
        yield from (
            "",
            "  // By an id, a printed id, or a name.",
            "  template <typename Key>",
            f"  static arrow::Result<{name}> Get(const vineyard_arrow::Client& client, "
            "const Key& key) {",
            f"    return vineyard_arrow::get_shared<{name}>(client, key);",
            "  }",
            "",
            f"  static constexpr const char* kName = {quoted(made.name)};",
            "  static constexpr vineyard_arrow::read::Known kKnown[] = {",
        )
        for each in self._file.classes:
            if self._is_derived(each, made.name):
                yield f"      {{{quoted(each.typename)}, {each.version}}},"
        yield from (
            "  };",
            f"  static {name} Read(const vineyard_arrow::read::Row& row);",
            "};",
            "",
        )

    def _is_derived(self, made: Class, base: str) -> bool:
        name: str | None = made.name
        while name is not None:
            if name == base:
                return True
            name = self._classes[name].base if name in self._classes else None
        return False

    def _reader(self, made: Class) -> Iterator[str]:
        name = identifier(made.name)
        yield f"inline {name} {name}::Read(const vineyard_arrow::read::Row& row) {{"
        yield "  namespace read = vineyard_arrow::read;"
        yield f"  {name} out;"
        for field in made.fields:
            try:
                code = self._code(field.type)
            except NoCodeError:
                continue
            names = ", ".join(map(quoted, (field.name, *field.renamed_from)))
            kind = "required" if field.required else "optional"
            start = f"  row.{kind}({{{names}}}, {quoted(text_of(field.type))}, "
            end = f"{code.reader}, &out.{self._field_name(field)});"
            yield from (
                [start + end]
                if len(start + end) <= 100
                else [start.rstrip(), f"               {end}"]
            )
        yield from ("  return out;", "}", "")

    def _field_name(self, field: Field) -> str:
        # A member that is called like a type would change what the type's name means.
        return f"{field.name}_" if field.name in self._types else identifier(field.name)

    def _problem(self, field: Field, message: str, instead: str) -> None:
        self.problems.append(Problem(self._file.path, field.line or 1, message, instead))

    # ---- types

    def _code(self, type_: Type) -> Code:
        match type_:
            case Plain():
                return plain_code(type_)
            case Choice():
                if not type_.members:
                    raise NoCodeError(f"{type_.name} has no members", "give it some")
                return Code(identifier(type_.name), f"read::choice({_names_of(type_)})")
            case Maybe():
                item = self._code(type_.item)
                pointer = item.type.startswith("std::shared_ptr<")
                cpp = item.type if pointer else f"std::optional<{item.type}>"
                return Code(cpp, f"read::maybe({item.reader})")
            case Sequence():
                item = self._code(type_.item)
                return Code(f"std::vector<{item.type}>", f"read::list({item.reader})")
            case Mapping():
                item = self._code(type_.value)
                return Code(f"std::map<std::string, {item.type}>", f"read::map({item.reader})")
            case Tuple():
                items = [self._code(item) for item in type_.items]
                types = ", ".join(item.type for item in items)
                readers = ", ".join(item.reader for item in items)
                return Code(f"std::tuple<{types}>", f"read::tuple({readers})")
            case NdArray():
                return array_code(type_)
            case Ref():
                return self._ref_code(type_)
            case Frame():
                return frame_code(type_)
        return arrow_code(type_)

    def _ref_code(self, type_: Ref) -> Code:
        name = identifier(type_.name)
        if self._is_circular(type_.name):
            return Code(f"std::shared_ptr<const {name}>", f"read::pointer<{name}>()")
        return Code(name, f"read::ref<{name}>()")

    def _default(self, type_: Type, value: Any) -> str:
        """The initialiser that is a field's default."""
        match type_:
            case Maybe():
                if value is None:
                    return "{}"
                default = self._default(type_.item, value)
                return f"{self._code(type_.item).type}{{}}" if default == "{}" else default
            case Sequence() | Mapping() if isinstance(value, Factory):
                return "{}"
            case Choice() if isinstance(value, enum.Enum):
                return f"{identifier(type_.name)}::{identifier(value.name)}"
            case Plain():
                return literal(type_, value)
            case Sequence() if isinstance(value, tuple):
                items = [self._default(type_.item, item) for item in value]
                return f"{self._code(type_).type}{{{', '.join(items)}}}"
            case Tuple() if isinstance(value, tuple) and len(value) == len(type_.items):
                pairs = zip(type_.items, value, strict=True)
                items = [self._default(item, each) for item, each in pairs]
                return f"{self._code(type_).type}{{{', '.join(items)}}}"
        shown = f"{value.name}()" if isinstance(value, Factory) else repr(value)
        raise NoCodeError(f"the default {shown} is no {text_of(type_)}", "give it one that is")


def _refers(made: Class, classes: dict[str, Class]) -> set[str]:
    types = (t for field in made.fields for t in walk(field.type))
    return {t.name for t in types if isinstance(t, Ref) and t.name in classes}


def _comment(text: str) -> str:
    line = " ".join(f"// {text}".split("\n")).rstrip()
    return f"{line}." if line.endswith("\\") else line  # else the next line were one too


def _names_of(choice: Choice) -> str:
    return f"k{choice.name}Names"
