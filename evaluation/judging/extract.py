"""Code out of the answers of chat models: without the prose and the Markdown around it.

By patterns alone: what a model wrote is never parsed by this process.
"""

import re

_FENCE = re.compile(r"^[ \t]*(?:```|~~~).*$", re.MULTILINE)
# A line that begins code at the left margin, or goes on with it.
_BEGINS = re.compile(
    r"(?:async def|def|class|import|from|if|for|while|try|with)\b|@\w|#|\"\"\"|'''"
)
_GOES_ON = re.compile(
    r"\s|$|[)\]}]|(?:else|elif|except|finally|return|pass|raise|assert|print|del|global)\b"
    r"|[A-Za-z_][\w.]*(?:\s*,\s*[\w.]+)*(?:\[.*\])?(?:\s*:.*)?\s*(?:[-+*/%&|^@]|//|\*\*|<<|>>)?=[^=]"
    r"|[A-Za-z_][\w.]*[(\[]"
)


def extract_code(text: str, entry_point: str, preamble: str) -> tuple[str, bool]:
    """The code in an answer, and whether it stands alone as a whole function.

    Of fenced blocks the first that defines the function, else the first; without any, the text
    from its first line of code to the first line of prose after it; all of it where no line looks
    like code.

    Args:
        preamble: what a completion continues; empty where answers are whole functions anyway.
    """
    defines = re.compile(rf"^(?:(?:async )?def|class)\s+{entry_point}\b|^{entry_point}\s*=", re.M)
    blocks = _fenced(text)
    code = next((block for block in blocks if defines.search(block)), (*blocks, "")[0])
    if not blocks:
        code = _without_prose(text)
    return code, bool(preamble) and defines.search(code) is not None


def _fenced(text: str) -> list[str]:
    """What stands between fences; a last one that is not closed reaches to the end."""
    fences = list(_FENCE.finditer(text))
    if len(fences) == 1 and not text[fences[0].end() :].strip():
        return [text[: fences[0].start()]]  # an answer that continues the prompt's own block
    return [
        text[opening.end() + 1 : closing.start() if closing is not None else len(text)]
        for opening, closing in zip(fences[::2], [*fences[1::2], None], strict=False)
    ]


def _without_prose(text: str) -> str:
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if _is_code(line)), None)
    if first is None:
        return text
    last = next((i for i in range(first, len(lines)) if not _is_code(lines[i], True)), len(lines))
    return "\n".join(lines[first:last])


def _is_code(line: str, inside: bool = False) -> bool:
    if _BEGINS.match(line):
        return not re.match(r"(?:if|for|while|try|with|from|class)\b", line) or _is_statement(line)
    return bool(_GOES_ON.match(line)) if inside else line[:1].isspace() and bool(line.strip())


def _is_statement(line: str) -> bool:
    """Told from a sentence that begins with the same word."""
    return bool(re.match(r"from\s+[\w.]+\s+import\b|.*(?::|\\|[(\[{,])\s*(?:#.*)?$", line))
