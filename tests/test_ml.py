"""Learning on arrays got from the store: no code of ours, but read-only memory must do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from types_harness import encode, part_addresses, place_of

from vineyard_arrow.client import Client

N = 4000
X = np.random.default_rng(0).normal(size=(N, 8))
Y = (X[:, 0] + X[:, 1] > 0).astype("i8")


def test_estimators_fit_on_read_only_arrays(client: Client) -> None:
    pytest.importorskip("sklearn")
    from sklearn.cluster import KMeans
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = client.get(client.put((X, Y)))
    assert place_of(client, x.ctypes.data) == "store"
    assert not x.flags.writeable
    for estimator in (
        make_pipeline(StandardScaler(), LogisticRegression()),
        RandomForestClassifier(5, random_state=0),
    ):
        assert estimator.fit(x, y).score(x, y) > 0.9
    assert KMeans(2, n_init=1, random_state=0).fit(x).labels_.shape == (N,)
    np.testing.assert_array_equal(x, X)


def test_estimators_fit_on_handles(client: Client) -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression

    x, y = (client.get_object(key) for key in client.put_many([X, Y]))
    assert LogisticRegression().fit(x, y).score(x, y) > 0.9


def test_estimators_fit_on_sparse_matrices(client: Client) -> None:
    pytest.importorskip("sklearn")
    sp = pytest.importorskip("scipy.sparse")
    from sklearn.linear_model import SGDClassifier

    x = client.get(client.put(sp.csr_array(np.where(np.abs(X) > 0.5, X, 0))))
    assert SGDClassifier(random_state=0).fit(x, Y).score(x, Y) > 0.8


def test_fitted_estimators_are_shared(client: Client) -> None:
    pytest.importorskip("sklearn")
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neighbors import KNeighborsClassifier

    nearest = KNeighborsClassifier(algorithm="brute").fit(X, Y)
    assert nearest._fit_X.ctypes.data in part_addresses(encode(nearest))
    back = client.get(client.put(nearest))
    assert place_of(client, back._fit_X.ctypes.data) == "store"
    np.testing.assert_array_equal(back.predict(X[:50]), nearest.predict(X[:50]))
    forest = RandomForestClassifier(5, random_state=0).fit(X, Y)
    back = client.get(client.put(forest))
    np.testing.assert_array_equal(back.predict(X), forest.predict(X))


def tables(client: Client) -> list[Any]:
    """The data in the forms a booster takes, all got from the store."""
    names = [f"c{i}" for i in range(8)]
    frame = pd.DataFrame(X, columns=names)
    return client.get_many(client.put_many([X, frame, pa.Table.from_pandas(frame)]))


def test_xgboost_takes_what_a_get_gives(client: Client) -> None:
    xgboost = pytest.importorskip("xgboost")
    predictions = []
    for value in tables(client):
        matrix = xgboost.DMatrix(value, label=Y)
        booster = xgboost.train({"max_depth": 2, "nthread": 1}, matrix, 3)
        predictions.append(booster.predict(matrix))
        again = client.get(client.put(booster))
        np.testing.assert_array_equal(again.predict(matrix), predictions[-1])
    for prediction in predictions:
        np.testing.assert_array_equal(prediction, predictions[0])


def test_lightgbm_takes_what_a_get_gives(client: Client) -> None:
    lightgbm = pytest.importorskip("lightgbm")
    predictions = []
    for value in tables(client):
        dataset = lightgbm.Dataset(value, label=Y, free_raw_data=False)
        options = {"num_leaves": 4, "num_threads": 1, "verbosity": -1}
        booster = lightgbm.train(options, dataset, 3)
        predictions.append(booster.predict(X))
        again = client.get(client.put(booster))
        np.testing.assert_array_equal(again.predict(X), predictions[-1])
    for prediction in predictions:
        np.testing.assert_allclose(prediction, predictions[0])
