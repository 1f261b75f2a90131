"""Devices that the engine's tests run on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pretended import DEVICE, pretending

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(params=["cpu", DEVICE, CUDA])
def device(request) -> Iterator[str]:
    """The CPU, a pretended GPU, and with ``-m gpu`` a real one."""
    if request.param == DEVICE:
        with pretending():
            yield request.param
    else:
        yield request.param
