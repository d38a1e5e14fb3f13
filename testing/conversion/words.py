"""A vocabulary of a few words, and what a conversion prints."""

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", *map(str, range(42))]


def printed(capsys):
    return " ".join(capsys.readouterr().out.split())
