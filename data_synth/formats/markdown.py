"""Markdown: its title, its front matter, and MDX's components. Blocks are found in ``data_synth.blocks``."""

import re
import tomllib
from collections.abc import Mapping

from data_synth.blocks import inline_text, markdown_blocks
from data_synth.formats.extract import Extract, decode_utf8, title_in

_FRONT_MATTER = (
    (re.compile(r"\A---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE), "yaml"),
    (re.compile(r"\A\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE), "toml"),
)
_MODULE_LINES = re.compile(r"\A[ \t]*(?:import\s.*?(?:from\s*)?[\"'][^\"'\n]+[\"'];?|export\s)", re.DOTALL)
_COMPONENT = re.compile(r"^[ \t]*</?(?:[A-Z][\w.]*\b[^<>]*|>)/?>[ \t]*$|^[ \t]*</?>[ \t]*$", re.MULTILINE)
_JSX_COMMENT = re.compile(r"\{/\*.*?\*/\}", re.DOTALL)


def read_markdown(raw: bytes) -> Extract:
    """Markdown with YAML or TOML front matter; the title is the front matter's, or the first heading."""
    return markdown_extract(decode_utf8(raw))


def read_mdx(raw: bytes) -> Extract:
    """MDX: as Markdown, without imports, exports, comments and the tags of components."""
    title, text, _ = markdown_extract(decode_utf8(raw))
    kept = []
    for block in markdown_blocks(text):
        if block.kind == "prose":
            paragraphs = re.split(r"(?<=\n)(?=[ \t]*\n)", _JSX_COMMENT.sub("", block.text))
            shown = "".join(part for part in paragraphs if not _MODULE_LINES.match(part.lstrip("\n")))
            kept.append(_COMPONENT.sub("", shown))
        else:
            kept.append(block.text)
    return Extract(title, re.sub(r"\n{3,}", "\n\n", "".join(kept)).strip("\n"), True)


def markdown_extract(text: str) -> Extract:
    """Title and text of Markdown without its front matter."""
    front, text = _front_matter(text)
    return Extract(title_in(front, "title", "Title") or _first_heading(text), text, True)


def _front_matter(text: str) -> tuple[Mapping[str, object], str]:
    for pattern, syntax in _FRONT_MATTER:
        if found := pattern.match(text):
            values = _parsed(found[1], syntax)
            if values is not None:
                return values, text[found.end() :]
    return {}, text


def _parsed(written: str, syntax: str) -> Mapping[str, object] | None:
    """The values; None where it is no mapping: then a rule or a heading stands there, which belongs to the text."""
    import yaml  # type: ignore[import-untyped]

    try:
        values = tomllib.loads(written) if syntax == "toml" else yaml.safe_load(written)
    except (tomllib.TOMLDecodeError, yaml.YAMLError):
        # Templates ({{ ... }}) and unquoted colons are common in front matter: its lines still say what it is.
        lines = [line.partition("=" if syntax == "toml" else ":") for line in written.splitlines() if line.strip()]
        if not lines or not re.fullmatch(r"[\w-]+\s*", lines[0][0]) or not lines[0][1]:
            return None
        return {key.strip(): value.strip().strip("\"'") for key, separator, value in lines if separator}
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else None


def _first_heading(text: str) -> str:
    headings = [block for block in markdown_blocks(text) if block.kind == "heading"]
    first = next((block for block in headings if block.level == 1), None)
    if first is None and headings and text.lstrip().startswith(headings[0].text.strip()):
        first = headings[0]
    return "" if first is None else inline_text(first.text)
