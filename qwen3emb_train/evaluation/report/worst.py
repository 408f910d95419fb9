"""Where it fails: the queries with the lowest scores, what was relevant and what was found instead."""

from qwen3emb_train.evaluation.report.fields import Entry
from qwen3emb_train.evaluation.report.html import Html, element, joined, shortened
from qwen3emb_train.evaluation.report.page import Section
from qwen3emb_train.evaluation.report.similarities import ModelDiagnostics


def worst_section(looked: ModelDiagnostics, num_worst: int, max_characters: int) -> Section | None:
    """A card for each query, below a fold for each model and set; None where no entry has any."""
    chosen = [(model, entry, entry.entries("worst")[:num_worst]) for model, entry in looked if entry.has("worst")]
    if not num_worst or not any(worst for _, _, worst in chosen):
        return None
    folds = []
    for number, (model, entry, worst) in enumerate(chosen):
        title = element("summary", f"{model} on {entry.text('set')}: {len(worst)} queries")
        cards = [_card(query, max_characters) for query in worst]
        opened = {"open": "open"} if number == 0 else {}
        folds.append(element("details", title, *cards, **opened))
    lead = (
        "The lowest scores. On the left what should have been found, on the right what was; relevant documents green."
    )
    return Section("worst", "Worst queries", joined([element("p", lead, class_="lead"), *folds]))


def _card(query: Entry, max_characters: int) -> Html:
    found = [_found(place, one, max_characters) for place, one in enumerate(query.entries("found"), 1)]
    relevant = [
        element("li", _mark(one.text("id")), shortened(one.text("text"), max_characters), class_="relevant")
        for one in query.entries("relevant")
    ]
    head = element(
        "header",
        element("b", shortened(query.text("query"), max_characters)),
        element("span", f"{shortened(query.text('query_id'), 60)} · score {query.number('score'):.4f}", class_="score"),
    )
    left = element("div", element("h4", "Relevant"), element("ul", *relevant))
    right = element("div", element("h4", "Found"), element("ol", *found))
    return element("article", head, element("div", left, right, class_="sides"), class_="query")


def _found(place: int, one: Entry, max_characters: int) -> Html:
    is_relevant = one.has("relevance") and one.number("relevance") > 0
    cosine = f" · cosine {one.number('cosine'):.3f}" if one.has("cosine") else ""
    verdict = " · relevant" if is_relevant else ""
    mark = _mark(f"{'✓' if is_relevant else '○'} {place} · {shortened(one.text('id'), 60)}{cosine}{verdict}")
    return element(
        "li", mark, shortened(one.text("text"), max_characters), **({"class_": "relevant"} if is_relevant else {})
    )


def _mark(text: str) -> Html:
    return element("span", shortened(text, 140), class_="mark")
