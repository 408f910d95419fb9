"""A model that several tests plan is traced once: a trace takes seconds, under the tests' type checks more."""

from collections.abc import Iterator
from typing import Any

import pytest

from qwen3emb_train.planning import load


@pytest.fixture(scope="package", autouse=True)
def _traced_once() -> Iterator[None]:
    made: dict[tuple[str, load.How], load.TracedModel] = {}
    plain = load.TracedModel

    def traced(config: load.ModelConfig, how: load.How) -> Any:
        key = repr(config), how
        if key not in made:
            made[key] = plain(config, how)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "TracedModel", traced)
        yield
