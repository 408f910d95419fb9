"""A list or mapping of texts is taken as typed; only commas divide it."""

from collections.abc import Sequence

import pytest
from omegaconf import OmegaConf

from qwen3emb_train.cli.programs import PROGRAMS
from qwen3emb_train.configuration.arguments import ConfigError, Request
from qwen3emb_train.configuration.compose import compose


def composed(name: str, *overrides: str) -> dict[str, object]:
    config, _ = compose(PROGRAMS[name], Request([*overrides, "output_dir=o"]))
    return OmegaConf.to_container(OmegaConf.structured(config))  # type: ignore[return-value]


def models(raw: str) -> Sequence[str]:
    found = composed("merge", f"models={raw}")["models"]
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(
    "path",
    ["模型/a", "run(best)/a", "a=b", "it's/a", "a#b", "a&b", "a b", "a;b", "a:b", "/x/{seed}", "a[1]", "ü/ñ", "a|b",
     "50%", "a\\b", "true", "null", "1", "1e3", "a(1", "@x", "a?b*", "a!b", '5"', "$x", "a[1,2]", "f(x, y)"],
)  # fmt: skip
def test_a_path_in_a_list_is_taken_as_typed(path: str) -> None:
    assert models(f"[{path}/a,{path}/b]") == [f"{path}/a", f"{path}/b"]
    assert models(f"[ {path} , {path}/b ]") == [path, f"{path}/b"]
    assert models(f"['{path},x', \"{path}\"]") == [f"{path},x", path]


def test_an_empty_list_and_a_last_comma() -> None:
    assert models("[a,b,]") == ["a", "b"]
    assert composed("mine_negatives", "model=m", "examples=e", "tasks=[]")["tasks"] == []


@pytest.mark.parametrize("raw", ["a,b", "[a,,b]", "[a", "a]"])
def test_what_is_no_list_is_refused_with_the_key(raw: str) -> None:
    with pytest.raises(ConfigError, match="models"):
        models(raw)


def test_a_mapping_of_paths_is_taken_as_typed() -> None:
    given = "models={base:模型/a, 'b c': run(best)/a=b, c: it's, d:'x,y'}"
    expected = {"base": "模型/a", "b c": "run(best)/a=b", "c": "it's", "d": "x,y"}
    assert composed("evaluate", given, "sets.t.path=x")["models"] == expected
    with pytest.raises(ConfigError, match="has no name"):
        composed("evaluate", "models={a}", "sets.t.path=x")
