"""Texts that begin and end in the ways that merge with a prompt's quotes, spaces and newlines, to prove boundaries with."""

AWKWARD_TEXTS = (
    # Plain, quoted, bracketed, and closed in every way.
    *("x", "A plain sentence.", "Ends with a question?", '"Quoted" twice "', "'single'", "...", "?!", "(brackets)", "[x]"),
    *("don't", "'s", "it's'", ': "', '"""', "`code`", "a", "I", "7", "3.14", "1,000,000", "-5", "--", "—dash—", "…"),
    *("“curly”", "‘x’", "«g»", 'http://a.b/c?d=e&f="g"', "<br />x<br />", "a_b", "CamelCase", "ALLCAPS", "x=y;", "#tag @name"),
    *("C:\\path\\", "\\", "/", "*", "**bold**", "~", "$5", "5%", "&amp;"),
    # Snapshot-alikes of slots, formats and special tokens.
    *("{text}", "{}", "%s", "<s>", "</s>", "<|endoftext|>", "<|im_start|>user", "<|im_end|>", "<unk>", "[INST]", "<bos>", "<pad>"),
    # White space, control and format characters.
    *(
        " x",
        "x ",
        "\tx\t",
        "x\n",
        "\n\nx\n\n",
        "x  y   z",
        "\u00a0x\u00a0",
        "\u200bx\u200b",
        "\ufeffx",
        "\x00",
        "a\x01b",
        "\x7f",
        "a\u2028b",
    ),
    # Scripts, combining marks, emoji, the edges of Unicode.
    *("é", "e\u0301", "\u0301", "日本語", "日本語。", '中文"引号"', "العربية", "עברית", "русский", "ไทย", "हिन्दी", "한국어"),
    *("😀", "👩\u200d👩\u200d👧", "x😀", '😀"', "🇩🇪", "\ud7ff", "\U0010ffff"),
)
