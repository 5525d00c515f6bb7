"""Print the schema of a persisted object, from the value of its key in etcd, with pyarrow alone.

``etcdctl get --print-value-only /vineyard/CLUSTER/o/IID/OID | python persisted.py``
"""

import sys

import pyarrow as pa

with pa.ipc.open_stream(sys.stdin.buffer.read()) as stream:
    print(stream.schema.to_string())
