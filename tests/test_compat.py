"""A build against another pyarrow is refused by name, before the extension is loaded."""

import sys
import types

import pyarrow as pa
import pytest

from vineyard_arrow._compat import check_pyarrow
from vineyard_arrow.errors import BuildMismatchError


@pytest.fixture
def built_against(monkeypatch):
    def record(version):
        module = types.ModuleType("vineyard_arrow._build_info")
        module.PYARROW_VERSION = version
        monkeypatch.setitem(sys.modules, "vineyard_arrow._build_info", module)

    return record


@pytest.mark.parametrize("installed", ["26.0.1", "26.1.0", "26.0.0.dev3"])
def test_the_same_major_is_fine(built_against, monkeypatch, installed):
    built_against("26.0.1")
    monkeypatch.setattr(pa, "__version__", installed)
    check_pyarrow()


@pytest.mark.parametrize("installed", ["25.0.0", "27.0.1", "2.6"])
def test_another_major_is_named_with_the_way_out(built_against, monkeypatch, installed):
    built_against("26.0.1")
    monkeypatch.setattr(pa, "__version__", installed)
    with pytest.raises(BuildMismatchError) as caught:
        check_pyarrow()
    for part in ("26.0.1", installed, "python -m pip install", "pyarrow==26.*"):
        assert part in str(caught.value)
    assert isinstance(caught.value, ImportError)


def test_a_checkout_that_was_never_built_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "vineyard_arrow._build_info", None)
    with pytest.raises(BuildMismatchError, match=r"not built.*pip install -e \."):
        check_pyarrow()
