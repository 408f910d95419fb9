"""What is given to programs in place of what they want."""

TEXTS = [
    "", " ", "null", "~", ".", "..", "/", "a,b", "[]", "{}", "[a]", "{a: b}", "a=b", "é北", "\x1b[2J", "'", '"', "${",
    "${oc.env:HOME}", "${output_dir}", "${${a}:b}", "???", "*", "!!python/object:os.system", "&a [*a]", "x" * 5000,
    "[" * 400, "../../x", "/nonexistent/x", "-", "--help", "\udcff", "true", "no\nsuch", "C:\\x", "%s%n", "{0}",
]  # fmt: skip
NUMBERS = [
    "-1", "0", "1", "2", "3", "7", "0.5", "-0.5", "1e-12", "1e12", "1e400", "nan", "-inf", "9" * 400, "1_000", "0x10",
]  # fmt: skip
PATHS = [
    "in", "in/none", "in/model", "in/lm", "in/run", "in/run/model", "in/run/checkpoints", "in/set", "in/rows.jsonl",
    "in/set/corpus.jsonl", "in/set/qrels/test.tsv", "in/docs", "in/model.gguf", "in/model/config.json", "mine",
    "mine/thesis.txt", "/dev/null", "loop", "in/model/model.safetensors", "a/b/c", "org/name",
]  # fmt: skip
OUTPUTS = [
    "mine", "in", "in/model", "in/run", "mine/data", "link", "loop", "in/rows.jsonl", "out/a/b", ".", "out/../out", "",
]  # fmt: skip
ARGUMENTS = [
    "--what", "x", "=", "a=", "=b", "+a=1", "++a.b=1", "~model", "model@x=y", "--cfg", "--config-dir", "output_dir",
    "hydra.run.dir=x", "loss=none", "schedule=../../x", "model={path: in/model}", "--config-name=x", "a..b=1", ".=1",
    "data={x/../../../LEAKED: {path: in/rows.jsonl}}", "data.=1", "data..path=x",
]  # fmt: skip
JSON_VALUES = ["null", "-1", '"x"', "[]", "{}", "1e999", "true", str(2**70)]
CONTENTS: list[bytes] = [
    b"", b"\n", b"{", b"[]", b"{}", b"null", b'"x"', b"7", b"\x00" * 64, b"\xff\xfe\xff", b"[" * 100_000,
    b"\x1b[2J\x07",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", b'{"query": "a"}\n', b"{}\n{}\n", b"a\tb\n",
    b'{"query": "a", "positive": "b"}\n', b'{"_id": "1", "text": "a"}\n', b'{"a": NaN}\n', b'{"query": 1e400}\n',
    b'{"query": "\\ud800", "positive": "\x1b[31m"}\n', b"\xef\xbb\xbf{}", b'{"model_type": "qwen3"}',
    b'{"weight_map": {"a": "../../mine/thesis.txt"}}', b'{"model_type": "t5"}', b"\xff" * 8 + b"{}",
    b'{"auto_map": {"AutoConfig": "a.B"}, "model_type": "own"}', b"\x10\x00\x00\x00\x00\x00\x00\x00{}",
    b"\x1f\x8b\x08\x00garbage", b"PAR1garbagePAR1",
]  # fmt: skip
