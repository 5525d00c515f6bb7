"""Code generation: files read without being run, problems with their lines, Python written."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import shared_classes as examples
from types_harness import run_other_process

from vineyard_arrow.cli import main
from vineyard_arrow.cli.parser import build_parser
from vineyard_arrow.client import Client
from vineyard_arrow.codegen.expressions import _TYPES
from vineyard_arrow.codegen.languages import LANGUAGES, backend_of
from vineyard_arrow.codegen.model import (
    AnnotationError,
    Class,
    Factory,
    Field,
    File,
    NdArray,
    struct_of,
    text_of,
)
from vineyard_arrow.codegen.python import generate
from vineyard_arrow.codegen.source import module_of, read_file
from vineyard_arrow.errors import ConfigError
from vineyard_arrow.types.shared import shared_class

EXAMPLES = examples.__file__

HEAD = """\
from dataclasses import dataclass, field
from typing import Annotated
import numpy as np, pyarrow as pa
from vineyard_arrow import shared
"""


@pytest.fixture
def source(tmp_path: Path) -> Callable[[str], str]:
    """Write a file of shared classes; its path. The first line of ``text`` is line 5."""

    def write(text: str) -> str:
        path = tmp_path / "shop.py"
        path.write_text(HEAD + text)
        return str(path)

    return write


def declare(*lines: str, decorator: str = "@shared", name: str = "Thing") -> str:
    """Source of a class with a field a line, from line 8 on."""
    body = "\n".join(f"    {line}" for line in lines) or "    pass"
    return f"{decorator}\n@dataclass\nclass {name}:\n{body}\n"


def described(made: Class) -> Any:
    return (
        made.typename,
        made.version,
        struct_of(made.fields),
        [(f.name, text_of(f.type), f.required, f.renamed_from, f.kw_only) for f in made.fields],
    )


# ---- files


def test_a_file_says_what_its_classes_do() -> None:
    file = read_file(EXAMPLES)
    assert [made.name for made in file.classes] == (
        ["Plain", "Arrays", "Base", "Derived", "Nest", "Leaf", "Empty"]
    )
    for made in file.classes:
        live = shared_class(getattr(examples, made.name)).model
        assert described(made) == described(live)
    plain, arrays, base, derived, nest, *_ = file.classes
    assert plain.doc.startswith("Values of one cell.")
    assert plain.options == {"frozen": True}
    assert arrays.options == {"frozen": True, "slots": True, "kw_only": True}
    assert (base.base, derived.base) == (None, "Base")
    assert [f.name for f in derived.fields if f.own] == ["note", "length"]
    assert {f.name: f.default for f in nest.fields}["leaves"] == Factory("list")
    assert [c.name for c in file.choices()] == ["Color", "Mood"]
    lines = Path(EXAMPLES).read_text().splitlines()
    for made in file.classes:
        assert f"class {made.name}" in lines[made.line - 1]
        assert all(f"{f.name}: " in lines[f.line - 1] for f in made.fields)


def test_a_file_is_not_run(source: Callable[[str], str]) -> None:
    path = source(
        "import nowhere, os\nfrom .beside import helper\nos._exit(3)\n"
        + declare("x: int", "y: 'list[Thing]' = field(default_factory=list)")
        + "    def method(self): return helper(nowhere)\n"
    )
    [made] = read_file(path).classes
    assert [text_of(f.type) for f in made.fields] == ["int", "list[shop.Thing]"]


def test_names_are_followed(source: Callable[[str], str]) -> None:
    path = source(
        """
from typing import TYPE_CHECKING, Optional, Union, List, Dict
import typing as t
import numpy.typing as npt
import vineyard_arrow as va
if TYPE_CHECKING:
    from datetime import datetime as Moment
try:
    import pandas as pd
except ImportError:
    pd = None
NAME: str = "shop.thing"
N = -1
Field = pa.field("a", pa.int8(), nullable=False)
SCHEMA = pa.schema([Field, ("b", pa.list_(pa.string()))])
Table = Annotated[pa.Table, SCHEMA]

@va.shared(typename=NAME, version=2)
@dataclass
class Thing:
    a: Optional[List[int]]
    b: Union[Dict[str, Table], None]
    c: Moment
    d: npt.NDArray[np.float32]
    e: Annotated["np.ndarray", "f8", (None, 2)]
    f: "pd.DataFrame"
    g: t.Annotated[int, pa.int16(), "seconds"]
    h: np.ndarray[tuple[int, int], np.dtype[np.int8]]
    i: int = N
"""
    )
    [made] = read_file(path).classes
    assert (made.typename, made.version) == ("shop.thing", 2)
    assert [text_of(f.type) for f in made.fields] == [
        "list[int] | None",
        "dict[str, pyarrow.Table[a: int8, b: list<item: string>]] | None",
        "datetime",
        "ndarray[float32]",
        "ndarray[float64, (None, 2)]",
        "pandas.DataFrame",
        "int[int16]",
        "ndarray[int8, (None, None)]",
        "int",
    ]
    assert made.fields[-1].default == -1


def test_modules_are_known_by_their_packages(tmp_path: Path) -> None:
    package = tmp_path / "shop" / "models"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    assert module_of(str(package / "orders.py")) == "shop.models.orders"
    assert module_of(str(package / "__init__.py")) == "shop.models"
    assert module_of(str(tmp_path / "alone.py")) == "alone"
    (package / "orders.py").write_text(HEAD + declare("x: int"))
    [made] = read_file(str(package / "orders.py")).classes
    assert made.typename == "shop.models.orders.Thing"
    [made] = read_file(str(package / "orders.py"), "other").classes
    assert made.typename == "other.Thing"


# ---- problems


@pytest.mark.parametrize(
    ("line", "message", "instead"),
    [
        ("x: set[int]", "Thing.x: set[int] cannot be a field", "write list[T]"),
        ("x: dict[int, str]", "keys are str", "write dict[str, T]"),
        ("x: Annotated[np.ndarray, object]", "arrays of object", "numbers"),
        ("x: Unknown", "Unknown is not defined in this file", "define or import it"),
        ("x: Far", "Far comes from elsewhere, which is not read", "declare the rest in this file"),
        ("x: Near", "Near comes from .near, which is not read", "declare the rest"),
        ("x: Other", "Other cannot be a field", "decorate Other with @vineyard_arrow.shared"),
        ("x: pa.NoSuchType", "there is no pa.NoSuchType", "write one there is"),
        ("x: np.random.default_rng()", "np.random.default_rng is not called", "write it out"),
        ("x: open('/etc/passwd')", "open is not defined in this file", "define or import"),
        ("x: pa.OSFile('x', 'w')", "pa.OSFile is not called", "write it out"),
        ("x: int.__base__", "int.__base__ is not evaluated", "write it out"),
        ("x: (lambda: int)()", "is not evaluated", "write it out"),
        ("x: Annotated[pa.Table, pa.schema(3)]", "pa.schema(3): ", "mend it first"),
        ("x: pa.Table[int]", "pa.Table[int]: ", "mend it first"),
        ("x: 'int['", "'int[' is no type", "write one"),
        ("x: Loop", "Loop is defined by itself", "otherwise"),
        ("x: 3", "3 is no type that a field can have", "docs/codegen.md"),
        ("x: list[int] = field(default_factory=lambda: [1])", "made by lambda: [1]", "plain"),
        ("x: int = compute()", "compute is not defined", "define or import it"),
        ("x: object = pa.int8()", "Thing.x: object cannot be", "write the type itself"),
        ("x: np.ndarray = np.dtype('i4')", "the default is np.dtype('i4')", "plain value"),
        ("x: int = field(metadata={'renamed_from': 3})", "renamed_from is 3", "write a name"),
    ],
)
def test_problems_have_lines(
    source: Callable[[str], str], line: str, message: str, instead: str
) -> None:
    path = source(
        declare("ok: int", line)
        + "from elsewhere import Far\nfrom .near import Near\nLoop = list[Loop]\n"
        + declare("y: int", decorator="@dataclass", name="Other")
    )
    with pytest.raises(AnnotationError) as raised:
        read_file(path)
    head, problem = raised.value.message.split("\n", 1)
    assert head == "no code can be generated:"
    assert problem.startswith(f"{path}:9: Thing.x: ")
    assert message in problem
    assert instead in problem


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\n", 1, "it has no shared class"),
        ("@shared\nclass Thing:\n    x: int\n", 6, "Thing is not a dataclass"),
        ("class Thing(:\n", 5, "no Python: "),
        (declare(decorator="@shared(version=0)"), 7, "Thing: version 0 is none"),
        (declare(decorator="@shared(typename='vineyard.x')"), 7, "'vineyard.x' is no typename"),
        (declare(decorator="@shared(version=compute())"), 7, "compute is not defined"),
        (
            declare(decorator="@shared(typename='a.b')")
            + declare(decorator="@shared(typename='a.b')", name="Other"),
            11,
            "'a.b' is another class too",
        ),
        (
            "def f():\n    @shared\n    class Inner: pass\n",
            7,
            "Inner is shared, but not a class of",
        ),
        ("from far import Far\n@shared\n@dataclass\nclass X(Far): pass\n", 8, "comes from far"),
        (
            declare(decorator="", name="A")
            + declare(decorator="", name="B")
            + "@shared\n@dataclass\nclass C(A, B): pass\n",
            15,
            "several bases",
        ),
        (
            declare("a: int", "b: int = field(metadata={'renamed_from': 'a'})"),
            7,
            "b was renamed from 'a'",
        ),
    ],
)
def test_problems_of_classes(
    source: Callable[[str], str], text: str, line: int, message: str
) -> None:
    path = source(text)
    with pytest.raises(AnnotationError) as raised:
        read_file(path)
    assert f"{path}:{line}: " in raised.value.message
    assert message in raised.value.message


def test_all_problems_are_told_at_once(
    source: Callable[[str], str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = source(declare("x: set[int]", "ok: int", "y: complex") + declare("z: bad", name="Next"))
    output = tmp_path / "out.py"
    assert main(["codegen", path, "-o", str(output)]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert not output.exists()
    first, *problems = err.splitlines()
    assert first == "vineyard-arrow: no code can be generated:"
    assert [problem.split(":")[1] for problem in problems] == ["8", "10", "14"]
    assert problems[1] == (
        f"{path}:10: Thing.y: complex cannot be a field; write tuple[float, float], or an array "
        "of complex128"
    )


# ---- Python


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated twin of the examples, in a folder of its own."""
    path = tmp_path_factory.mktemp("generated") / "twin.py"
    assert main(["codegen", EXAMPLES, "-o", str(path)]) == 0
    return path


def ruff(path: Path, *arguments: str) -> str:
    """What ruff has to say of a file that is another project's."""
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "--isolated", path.name],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=150,
    )
    return done.stdout + done.stderr if done.returncode else ""


def lint(path: Path) -> str:
    rules = "E4,E7,E9,F,W,I,UP,B,SIM,C4,RUF,D100"
    found = ruff(path, "check", "--select", rules)
    for width in ("88", "100", "120"):
        found += ruff(path, "format", "--line-length", width, "--diff")
    return found


def test_python_is_formatted_and_the_same_every_time(generated: Path) -> None:
    assert not lint(generated)
    assert generated.read_text() == generate(read_file(EXAMPLES))
    again = generate(read_file(str(generated), "shared_classes"))
    assert again == generated.read_text().replace("shared_classes.py", "twin.py")


def test_python_declares_the_same(generated: Path) -> None:
    for old, new in zip(
        read_file(EXAMPLES).classes, read_file(str(generated)).classes, strict=True
    ):
        assert described(old) == described(new)
        assert (old.options, old.base, old.doc) == (new.options, new.base, new.doc)
        assert [f.default for f in old.fields if f.own and not _is_member(f)] == [
            f.default for f in new.fields if f.own and not _is_member(f)
        ]


def _is_member(field: Field) -> bool:
    return hasattr(type(field.default), "__members__")  # of enumerations that are not the same


TO_THE_TWIN = """
import sys
sys.path.insert(0, sys.argv[2])
from vineyard_arrow.client import connect
import twin
client = connect(sys.argv[1], autostart=False)
nest = client.get("nest")
assert type(nest) is twin.Nest and type(nest.below[0]) is twin.Nest, nest
assert type(nest.base) is twin.Derived and nest.base.note == "as it is", nest.base
assert nest.leaves[2].values.tolist() == [0, 1] and not nest.leaves[2].values.flags.writeable
arrays = client.get("arrays")
assert arrays.points.shape == (10_000, 3) and arrays.waybill.num_rows == 3
plain = client.get("plain")
assert plain.color is twin.Color.GREEN and plain.mood is twin.Mood.BAD
assert "shared_classes" not in sys.modules
plain = twin.Plain(**{f: getattr(plain, f) for f in plain.__dataclass_fields__} | {"count": 5})
client.put([nest, arrays, plain], name="back")
print(arrays.points.__array_interface__["data"][0] % 64, nest.deep)
"""


def test_objects_go_to_the_generated_classes_and_back(client: Client, generated: Path) -> None:
    nest, arrays, plain = examples.nest(), examples.arrays(), examples.plain()
    client.put_many([nest, arrays, plain], names=["nest", "arrays", "plain"])
    said = run_other_process(client, TO_THE_TWIN, str(generated.parent))
    assert said == f"0 {nest.deep}\n"
    back = client.get("back")
    examples.assert_same(nest, back[0])
    examples.assert_same(arrays, back[1])
    assert (back[2].count, back[2].instant) == (5, plain.instant)
    assert client.get_meta("back").copied == 0


def test_every_type_can_be_written(source: Callable[[str], str], tmp_path: Path) -> None:
    arguments = {
        "time32": '"s"',
        "time64": '"ns"',
        "timestamp": '"ms", "Asia/Kolkata"',
        "duration": '"s"',
        "decimal128": "7, 2",
        "decimal256": "50, 3",
        "list_": "pa.int8(), 3",
        "large_list": 'pa.field("x", pa.int8())',
        "list_view": "pa.int8()",
        "large_list_view": "pa.int8()",
        "map_": "pa.int8(), pa.field('value', pa.string(), nullable=False)",
        "struct": "[pa.field('it\\'s', pa.int8())]",
        "dictionary": "pa.int8(), pa.string(), ordered=True",
    }
    names = [name for name in _TYPES if name not in ("field", "schema")]
    lines = [
        f"x{i}: Annotated[pa.Array, pa.{name}({arguments.get(name, '')})]"
        for i, name in enumerate(names)
    ]
    file = read_file(source(declare(*lines)))
    path = tmp_path / "out.py"
    path.write_text(generate(file))
    assert not lint(path)
    [old], [new] = file.classes, read_file(str(path)).classes
    assert [f.type for f in new.fields] == [f.type for f in old.fields]


def test_awkward_texts(source: Callable[[str], str], tmp_path: Path) -> None:
    lines = [
        '"""np.float64 and datetime. \\"\\"\\" end with a quote\\""""',
        'a: str = "pd.DataFrame(\\\\"',
        f'long: str = "{"x" * 200}"',
        f"a_very_{'long_' * 12}name: dict[str, list[Annotated[np.ndarray, 'i4', (1,)]]]"
        " = field(default_factory=dict)",
        "t: tuple[" + ", ".join(["Annotated[np.ndarray, 'f8']"] * 9) + "] | None = None",
        "u: tuple[()] = ()",
    ]
    path = tmp_path / "out.py"
    path.write_text(generate(read_file(source(declare(*lines)))))
    assert not ruff(path, "check")
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module("out")
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["out"]
    assert module.Thing.__doc__ == 'np.float64 and datetime. """ end with a quote"'
    assert module.Thing.__dataclass_fields__["a"].default == "pd.DataFrame(\\"
    assert "import pandas" not in path.read_text()


# ---- the command


def test_command(
    source: Callable[[str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = source(declare("x: int"))
    assert main(["codegen", path]) == 0
    code = capsys.readouterr().out
    assert code == generate(read_file(path))
    assert main(["codegen", path, "--lang", "python", "--module", "a.b", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["classes"] == ["a.b.Thing"]
    assert data["code"] == code.replace("shop.Thing", "a.b.Thing")
    output = tmp_path / "out.py"
    assert main(["codegen", path, "-o", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: shop.Thing\n"
    assert output.read_text() == code


def test_files_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codegen", str(tmp_path / "none.py")]) == 1
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "zeros.py").write_bytes(b"\0" * 10)
    assert main(["codegen", str(tmp_path / "zeros.py")]) == 1
    assert "zeros.py" in capsys.readouterr().err
    (tmp_path / "deep.py").write_text(HEAD + declare(f"x: {' | '.join(['int'] * 900)}"))
    assert main(["codegen", str(tmp_path / "deep.py")]) == 1
    assert "nests too deeply" in capsys.readouterr().err


def test_the_file_itself_is_not_overwritten(
    source: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = source(declare("x: int"))
    before = Path(path).read_text()
    assert main(["codegen", path, "-o", path]) == 2
    assert "is the file that is read" in capsys.readouterr().err
    assert Path(path).read_text() == before


def test_languages(capsys: pytest.CaptureFixture[str]) -> None:
    assert backend_of("python").generate(File("x.py", ())) == generate(File("x.py", ()))
    with pytest.raises(ConfigError, match=r"no code is generated in 'cobol'.*python"):
        backend_of("cobol")
    with pytest.raises(SystemExit) as raised:
        build_parser().parse_args(["codegen", "x.py", "--lang", "cobol"])
    assert raised.value.code == 2
    assert all(f"'{language}'" in capsys.readouterr().err for language in LANGUAGES[:1])


def test_words() -> None:
    assert text_of(NdArray(None, ())) == "ndarray[()]"
    assert text_of(NdArray("<M8[ns]")) == "ndarray[datetime64[ns]]"
    wide = pa.schema([(f"c{i}", pa.int8()) for i in range(9)])
    assert text_of(read_rows(wide)) == "pyarrow.Table[9 columns]"


def read_rows(schema: pa.Schema) -> Any:
    from vineyard_arrow.codegen.model import Rows

    return Rows("Table", schema)
