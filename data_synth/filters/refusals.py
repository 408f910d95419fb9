"""Rejects texts in which the teacher declines or writes about itself."""

import re

from data_synth.filters.candidates import Candidate, Reason, Verdict, shorten

# At the beginning of a text only: a query about apologies or inability is a good query.
_OPENINGS = (
    r"i(?:['’]m| am) (?:very |really |so )?(?:sorry|afraid),? (?:but )?(?:i |as an? )",
    r"(?:sorry|apologies),? (?:but )?i (?:can(?:no|['’])t|am (?:not|un)able|won['’]t)",
    r"i apologi[sz]e,? but",
    r"i (?:can(?:no|['’])t|am (?:not able|unable) to|won['’]t|will not) "
    r"(?:assist|help|comply|fulfil?l|generate|write|create|provide|translate)\b",
    r"i (?:do not|don['’]t) have (?:access|enough (?:context|information))",
    r"unfortunately,? i (?:can|am|do)",
    r"es tut mir leid,? (?:aber )?(?:ich|als)", r"(?:leider )?kann ich (?:ihnen |dir )?(?:dabei|damit|das) nicht",
    r"(?:je suis |)d[ée]sol[ée]e?,? (?:mais )?je ne", r"je ne peux pas (?:vous |t['’])?(?:aider|r[ée]pondre|fournir)",
    r"lo siento,? (?:pero )?(?:no puedo|como)", r"no puedo (?:ayudar|cumplir|proporcionar|generar)",
    r"(?:me )?desculpe,? (?:mas )?(?:n[ãa]o posso|como)", r"n[ãa]o posso (?:ajudar|fornecer|cumprir)",
    r"mi dispiace,? (?:ma )?(?:non posso|come)", r"het spijt me,? (?:maar )?ik kan",
    r"(?:извините|простите|к сожалению),? (?:но )?я не могу", r"как (?:языковая модель|ии)",
    r"przepraszam,? (?:ale )?nie mog", r"üzgünüm,? (?:ama )?", r"maaf,? (?:tetapi |tapi )?saya tidak",
    r"(?:xin lỗi|rất tiếc),? (?:nhưng )?tôi không thể", r"(?:很)?抱歉[,，]?(?:但)?(?:我|作为)",
    r"对不起[,，]?我(?:不能|无法)",
    r"我(?:无法|不能)(?:提供|协助|帮助|满足|完成)", r"作为(?:一个|一名)?(?:人工智能|ai|语言模型)",
    r"申し訳(?:ありません|ございません)", r"(?:죄송합니다|죄송하지만)", r"(?:عذر[اً]+|آسف|أعتذر)[،,]? (?:ولكن|لكن|لا)",
    r"(?:क्षमा करें|माफ़ कीजिए|मुझे खेद है)", r"ขออภัย",
)  # fmt: skip
# Anywhere: only a model writes this about itself.
_ANYWHERE = (
    r"\bas an? (?:ai|artificial intelligence|large language|language model|ai language)\b",
    r"\bi am (?:just )?an? (?:ai|language model)\b", r"\bals (?:ki|ai|ein)[- ](?:sprach)?modell\b",
    r"\ben tant qu['’](?:ia|intelligence artificielle|modèle de langage)",
    r"\bcomo (?:un |uma? )?modelo de (?:lenguaje|linguagem)\b",
    r"\bmy (?:training data|knowledge cutoff)\b",
)  # fmt: skip
_REFUSAL = re.compile(rf"^[\s\"'«“]*(?:{'|'.join(_OPENINGS)})|{'|'.join(_ANYWHERE)}", flags=re.IGNORECASE)


class RefusalFilter:
    """Looks for phrases of refusal in about twenty languages."""

    def __call__(self, candidate: Candidate) -> Verdict:
        for text in candidate.written:
            if _REFUSAL.search(text):
                return Reason("refusal", shorten(text))
        return True
