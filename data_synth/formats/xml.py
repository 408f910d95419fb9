"""XML without a known vocabulary: the text of its elements, a line for each that holds text of its own."""

from xml.etree import ElementTree

from data_synth.formats.extract import Extract, UnreadableError, clean_text


def read_xml(raw: bytes) -> Extract:
    """The text of a file, in the encoding that it declares; the title is that of its first element ``title``.

    Raises:
        UnreadableError: it is damaged, or declares entities, which can grow without bound.
    """
    if b"<!ENTITY" in raw:
        raise UnreadableError("damaged", "it declares entities. Write the texts themselves.")
    try:
        root = ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UnreadableError("damaged", f"no XML: {error}"[:300]) from None
    title, lines = "", list[str]()
    taken: set[ElementTree.Element] = set()
    for element in root.iter():
        if element in taken:
            continue
        has_words = bool((element.text or "").strip()) or any((child.tail or "").strip() for child in element)
        if not has_words:
            continue
        taken.update(element.iter())
        line = " ".join("".join(element.itertext()).split())
        if not title and str(element.tag).rpartition("}")[2] == "title":
            title = line
        lines.append(line)
    return Extract(clean_text(title), clean_text("\n\n".join(lines)))
