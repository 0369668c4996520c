"""A fixture for the tests that compare with scikit-learn."""

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="module")
def blas_by_one_thread() -> Iterator[None]:
    """One thread for scikit-learn's BLAS, as more would only wait on short vectors."""
    with threadpool_limits(1, user_api="blas"):
        yield
