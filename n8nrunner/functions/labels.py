"""Names and docstrings of Python code become labels and descriptions in n8n's style."""

from __future__ import annotations

import re

#: Words in capital letters.
_INITIALISMS = {
    "ai", "api", "aws", "bcc", "bic", "cc", "cpu", "crm", "css", "csv", "cv", "db", "dns", "eu", "eur",
    "faq", "ftp", "gbp", "gdpr", "gmt", "gpu", "gps", "hr", "html", "http", "https", "iban", "id", "imap",
    "ip", "isbn", "iso", "jpg", "json", "jwt", "kpi", "llm", "mime", "ml", "nlp", "ocr", "pdf", "php",
    "pin", "png", "qr", "ram", "rss", "sdk", "seo", "sftp", "sku", "sla", "smtp", "sms", "sql", "ssh",
    "ssl", "sso", "svg", "tls", "tsv", "ttl", "ui", "uk", "uri", "url", "us", "usa", "usd", "utc", "uuid",
    "vat", "vpn", "xls", "xlsx", "xml", "yaml",
}  # fmt: skip
#: Words in lower case unless they are the first or the last.
_SMALL = {
    "a", "an", "and", "as", "at", "but", "by", "for", "from", "in", "nor", "of", "on", "or", "per", "the",
    "to", "via", "vs", "with",
}  # fmt: skip


def title_of(name: str) -> str:
    """Return the title of a Python name: "API URL" for ``api_url``."""
    words = [word for word in re.split(r"[_\s-]+", name) if word]
    last = len(words) - 1
    return " ".join(_word(word, 0 < index < last) for index, word in enumerate(words)) or name


def title_of_constant(name: str) -> str:
    """Return the title of a constant: "Very High" for ``VERY_HIGH``, but "EU" for ``EU``."""
    return title_of(name.lower() if name.isupper() else name)


def _word(word: str, is_inner: bool) -> str:
    lower = word.lower()
    if lower in _INITIALISMS:
        return word.upper()
    if lower[:-1] in _INITIALISMS and lower.endswith("s"):
        return f"{word[:-1].upper()}s"
    if is_inner and word in _SMALL:
        return word
    return word[:1].upper() + word[1:]


def sentence_of(title: str) -> str:
    """Return a title in sentence case, with its initialisms: "Get API URL of lead"."""
    words = title.split(" ")
    lower = [word if len(word) > 1 and word.isupper() else word.lower() for word in words]
    for index, word in enumerate(lower):
        if not word.isupper():  # n8n's linter wants the capital after initialisms
            lower[index] = word[:1].upper() + word[1:]
            break
    return " ".join(lower)


#: Beginnings before a condition ("true if ..."), and before its effect ("if true, ...").
_IF = re.compile(
    r"(?:(?:set )?(?:to )?true (?:if|when)|if|when) (?!true|set|on|enabled|checked)", re.IGNORECASE
)
_THEN = re.compile(
    r"(?:(?:if|when) (?:true|set|on|enabled|checked),? (?:then )?|(?:set )?(?:to )?true to )", re.IGNORECASE
)
#: First words of a sentence with a subject, and the verbs that confirm it.
_SUBJECTS = {
    "a", "all", "an", "any", "each", "every", "he", "it", "its", "no", "she", "some", "that", "the",
    "there", "these", "they", "this", "those", "you",
}  # fmt: skip
_IS = re.compile(
    r"\b(?:is|are|was|were|has|have|had|must|may|can|should|will|does|do|needs?)\b", re.IGNORECASE
)


def whether(text: str) -> str:
    """Return the description of a switch: in n8n it begins with "Whether"."""
    if re.match(r"whether\b", text, re.IGNORECASE):
        return f"W{text[1:]}"
    condition = _IF.match(text)
    if condition is not None:
        return f"Whether {_uncapitalized(text[condition.end() :])}"
    then = _THEN.match(text)
    rest = text if then is None else text[then.end() :]
    if rest.split(" ")[0].lower() in _SUBJECTS and _IS.search(rest):
        return f"Whether {_uncapitalized(rest)}"
    if then is not None:
        return f"Whether to {_uncapitalized(rest)}"
    ending = "" if text.endswith((".", "!", "?")) else "."
    return f"Whether this is on. {text[:1].upper()}{text[1:]}{ending}"


def _uncapitalized(text: str) -> str:
    """Return the text with its first letter in lower case, unless its first word is in capitals."""
    first = text.split(" ")[0]
    return text if first != first.capitalize() and first != first.lower() else text[:1].lower() + text[1:]
