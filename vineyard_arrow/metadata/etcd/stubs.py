"""Messages and stubs of etcd's interface, in the place of those that the etcd3 package ships.

Its own were generated for a protobuf of years ago, and do not import under today's. These are
made at import from a descriptor set (`describe` makes it), in a descriptor pool of their own, so
that they never meet those of other packages. Knows nothing of calls.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib import resources
from types import ModuleType
from typing import Any

_MODULE = "etcd3.etcdrpc"


def load_etcd3() -> tuple[Any, Any]:
    """Import etcd3 over stubs that work; return its client module and the stubs.

    If the process has imported etcd3 by itself already, its stubs work and are used.
    """
    if _MODULE not in sys.modules:
        sys.modules[_MODULE] = _make_module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package is of 2020
        # By its name: the package has a function of the same name as this module of its.
        client = importlib.import_module("etcd3.client")
    return client, sys.modules[_MODULE]


def _make_module() -> ModuleType:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    data = resources.files(__package__).joinpath("rpc.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    module = ModuleType(_MODULE, "Stubs of etcd, made by vineyard_arrow.")
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
        described = pool.FindFileByName(file.name)
        for name, message in described.message_types_by_name.items():
            setattr(module, name, message_factory.GetMessageClass(message))
        for enum in described.enum_types_by_name.values():
            for value in enum.values:
                setattr(module, value.name, value.number)
        for name, service in described.services_by_name.items():
            setattr(module, f"{name}Stub", _make_stub(service, message_factory.GetMessageClass))
    return module


def _make_stub(service: Any, class_of: Any) -> type:
    """A class like those that grpcio-tools generates: an attribute for each method."""

    def init(self: Any, channel: Any) -> None:
        for method in service.methods:
            kind = "_".join(
                "stream" if streams else "unary"
                for streams in (method.client_streaming, method.server_streaming)
            )
            call = getattr(channel, kind)(
                f"/{service.full_name}/{method.name}",
                request_serializer=class_of(method.input_type).SerializeToString,
                response_deserializer=class_of(method.output_type).FromString,
            )
            setattr(self, method.name, call)

    return type(f"{service.name}Stub", (), {"__init__": init})
