"""A base's tokenizer as GGUF metadata.

A base that KoSent made from a GGUF carries that file's own metadata, which is copied. Otherwise it is read from `tokenizer.model`
(SentencePiece: Llama 2, Gemma) or from `tokenizer.json` (byte-level BPE: Llama 3, Qwen, SmolLM2). llama.cpp splits text into
words before BPE by a rule that it knows by a name; the name is found by the rule that `tokenizer.json` states, and `kosent
verify` compares the tokens of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

from kosent import extras
from kosent.errors import ModelError
from kosent.files import read_json
from kosent.starter import GGUF_TOKENIZER

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {
    (("Split", WORDS % r"\p{N}{1,3}"), ("ByteLevel", "")): "llama-bpe",
    (("Split", WORDS % r"\p{N}"), ("ByteLevel", "")): "qwen2",
    (("Digits", ""), ("ByteLevel", "words")): "smollm",
    (("ByteLevel", "words"),): "gpt-2",
}
"""How `tokenizer.json` splits text into words -> llama.cpp's name of it (`llama_vocab::impl::load` in llama-vocab.cpp)."""
SPACE = "▁"


def add_tokenizer(writer: GGUFWriter, base: Path, vocabulary: int) -> list[str]:
    """Adds the tokenizer of `base`, whose embedding has `vocabulary` rows, without a chat template, and returns its tokens.

    Raises `ModelError` when the base carries none that llama.cpp knows.
    """
    if (base / GGUF_TOKENIZER).is_file():
        return _copied(writer, read_json(base / GGUF_TOKENIZER))
    if (base / "tokenizer.model").is_file():
        return _sentencepiece(writer, base, vocabulary)
    if (base / "tokenizer.json").is_file():
        return _byte_level(writer, base, vocabulary)
    raise ModelError(f"{base} holds neither tokenizer.json nor tokenizer.model.", hint="fetch the base again, with its tokenizer")


def _copied(writer: GGUFWriter, metadata: dict[str, Any]) -> list[str]:
    prefix = "tokenizer.ggml."
    found = {key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)}
    writer.add_tokenizer_model(found.pop("model"))
    writer.add_tokenizer_pre(found.pop("pre"))
    tokens: list[str] = found.pop("tokens")
    writer.add_token_list(tokens)
    writer.add_token_types(found.pop("token_type"))
    if "scores" in found:
        writer.add_token_scores(found.pop("scores"))
    if "merges" in found:
        writer.add_token_merges(found.pop("merges"))
    for key, value in found.items():
        if isinstance(value, bool):
            writer.add_bool(prefix + key, value)
        elif isinstance(value, int):
            writer.add_uint32(prefix + key, value)
    return tokens


def _byte_level(writer: GGUFWriter, base: Path, vocabulary: int) -> list[str]:
    tokenizer = read_json(base / "tokenizer.json")
    tokens = [f"[PAD{number}]" for number in range(vocabulary)]
    types = [TokenType.UNUSED] * vocabulary
    words = pre_tokenizer(tokenizer, base)
    for token, number in tokenizer["model"]["vocab"].items():
        if number < vocabulary:
            tokens[number], types[number] = token, TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        if added["id"] < vocabulary:
            tokens[added["id"]], types[added["id"]] = _added(added["content"], added["special"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special(writer, base, SpecialVocab(base, load_merges=True))
    return tokens


def _added(token: str, special: bool) -> tuple[str, TokenType]:
    # some models mark tokens that mean structure as ordinary ones; llama.cpp's converter goes by their look as well
    if special or token in ("<pad>", "<mask>") or (token[:2] == "<|" and token[-2:] == "|>") or token.startswith("<unused"):
        return token, TokenType.CONTROL
    return token.replace(SPACE, " "), TokenType.USER_DEFINED


def _add_special(writer: GGUFWriter, base: Path, special: SpecialVocab) -> None:
    special.chat_template = None
    special.add_to_gguf(writer, quiet=True)


def pre_tokenizer(tokenizer: dict[str, Any], base: Path) -> str:
    """llama.cpp's name for how a `tokenizer.json` splits text into words. Raises `ModelError` for one without a name here."""
    stated = tokenizer.get("pre_tokenizer") or {}
    steps = tuple(_step(step) for step in stated.get("pretokenizers", [stated]))
    name = PRE_TOKENIZERS.get(steps)
    if tokenizer["model"]["type"] != "BPE" or name is None:
        raise ModelError(
            f"The tokenizer of {base} splits text in a way that has no known name in llama.cpp: {stated or 'not at all'}.",
            hint="train on a Llama 3, Qwen 2 or 3, or SmolLM2 base",
        )
    return name


def _step(step: dict[str, Any]) -> tuple[str, str]:
    kind = str(step.get("type"))
    if kind == "Split":
        pattern = str(step["pattern"].get("Regex", step["pattern"]))
        return kind, pattern if step["behavior"] == "Isolated" and not step.get("invert") else f"{pattern} {step['behavior']}"
    if kind == "ByteLevel":
        return kind, ("words" if step.get("use_regex", True) else "") + (" prefixed" if step.get("add_prefix_space") else "")
    return kind, "" if step.get("individual_digits", True) else "together"


def _sentencepiece(writer: GGUFWriter, base: Path, vocabulary: int) -> list[str]:
    extras.require("export", what="A base with a SentencePiece tokenizer")
    from sentencepiece import SentencePieceProcessor

    model = SentencePieceProcessor(model_file=str(base / "tokenizer.model"))
    tokens = [f"[PAD{number}]" for number in range(vocabulary)]
    scores, types = [-10000.0] * vocabulary, [TokenType.UNUSED] * vocabulary
    for number in range(min(model.vocab_size(), vocabulary)):
        tokens[number], scores[number] = model.id_to_piece(number), model.get_score(number)
        types[number] = _piece_type(model, number)
    if (base / "tokenizer.json").is_file():
        for added in read_json(base / "tokenizer.json")["added_tokens"]:
            number = added["id"]
            # Gemma 3's tokenizer has a token for pictures, after the last row of a text model's embedding
            if number >= vocabulary or types[number] in (TokenType.UNKNOWN, TokenType.CONTROL):
                continue
            scores[number] = -1000.0
            tokens[number], types[number] = _added(added["content"], added["special"])
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    if not model.encode("a", out_type=str)[0].startswith(SPACE):  # Gemma's; llama.cpp puts a space before a text otherwise
        writer.add_add_space_prefix(False)
    _add_special(writer, base, SpecialVocab(base, n_vocab=vocabulary))
    return tokens


def _piece_type(model: Any, number: int) -> TokenType:
    for found, kind in (
        (model.is_unknown, TokenType.UNKNOWN),
        (model.is_control, TokenType.CONTROL),
        (model.is_unused, TokenType.UNUSED),
        (model.is_byte, TokenType.BYTE),
    ):
        if found(number):
            return kind
    return TokenType.NORMAL
