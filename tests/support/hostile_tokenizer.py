"""A tokenizer whose every token would do harm as HTML, as a script or by its direction."""

from types import SimpleNamespace

HOSTILE_TOKENS = (
    "</script>",
    "<img src=x onerror=\"document.documentElement.dataset.hacked='yes'\">",
    "\u2028",
    "\x00",
    "\ud800",
    "\u202e",
    "<!--",
    "<script>document.documentElement.dataset.hacked = 'yes'</script>",
    " class='now' ",
    "&lt;",
    "\n",
    " ",
)


class HostileTokenizer:
    """Every id is a text that would do harm as HTML, as a script or by its direction."""

    eos_token_id = 0
    all_special_ids = (0,)
    added_tokens_decoder = {0: SimpleNamespace(special=True)}

    def convert_ids_to_tokens(self, token_id):
        """A hostile name."""
        return HOSTILE_TOKENS[token_id % len(HOSTILE_TOKENS)]

    def decode(self, token_ids, **_):
        """A hostile text."""
        return self.convert_ids_to_tokens(token_ids[0])

    def __call__(self, text, **_):
        return {"input_ids": [1, 2]}
