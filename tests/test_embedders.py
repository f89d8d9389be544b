"""Embedders behind one name, the analysis of Korean, and how documents are cut."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from kosent.embedders import Embedder, embedder, prefixes_of
from kosent.errors import KosentError, ModelError, ServerDownError, UsageError
from kosent.morphemes import MorphemeProcess, shared
from kosent.rag.document import Section
from kosent.rag.splitting import split

SENTENCES = ("오늘 회사에서 혼이 나서 속상했어요.", "직장에서 꾸중을 들어 마음이 상했다.", "김치찌개에는 돼지고기를 넣는다.")


@pytest.fixture(scope="module")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: a BERT of one layer, random, over the characters of three sentences."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    letters = sorted({letter for text in SENTENCES for letter in text if not letter.isspace()})
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), strip_accents=False).save_pretrained(folder)
    config = BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(folder)
    transformer = Transformer(str(folder))
    SentenceTransformer(modules=[transformer, Pooling(32)]).save(str(folder / "sentences"))
    return folder / "sentences"


@pytest.mark.parametrize(("name", "dimension"), [("use", 512), ("e5", 384)])
def test_those_with_weights_of_their_own_put_a_paraphrase_nearer(name: str, dimension: int) -> None:
    one = embedder(name)
    assert one.name == name and one.dimension == dimension
    assert nearer_to_its_paraphrase(one)


def nearer_to_its_paraphrase(one: Embedder) -> bool:
    vectors, question = one.passages([*SENTENCES, " "]), one.questions(SENTENCES[:1])
    assert vectors.shape == (4, one.dimension) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-3)
    _, paraphrase, other, _ = (vectors @ question[0]).tolist()
    return bool(paraphrase > other)


def test_a_sentence_transformers_folder_is_taken(sentence_model: Path) -> None:
    one = embedder(f"hf:{sentence_model}")
    assert one.dimension == 32 and one.prefixes == ("", "")
    vectors = one.passages(SENTENCES)
    np.testing.assert_allclose(vectors, one.questions(SENTENCES), atol=1e-5)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_ollama_embeds(ollama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", ollama)
    one = embedder("ollama:smol")
    assert one.dimension == 576 and one.passages(SENTENCES).shape == (3, 576)
    with pytest.raises(ModelError) as caught:
        embedder("ollama:bge-m3")
    assert caught.value.hint == "ollama pull bge-m3"


def test_what_is_not_to_be_had_says_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(ServerDownError) as down:
        embedder("ollama:bge-m3")
    assert down.value.hint == "ollama serve"
    with pytest.raises(ModelError) as missing:
        embedder(f"hf:{tmp_path / 'nothing'}")
    assert missing.value.hint and "download" in missing.value.hint
    for name in ("", "word2vec", "hf:", "ollama:"):
        with pytest.raises(UsageError):
            embedder(name)


def test_models_that_want_prefixes_get_them() -> None:
    assert prefixes_of("intfloat/multilingual-e5-large") == ("query: ", "passage: ")
    assert prefixes_of("nomic-embed-text:v1.5")[1] == "search_document: "
    assert prefixes_of("BAAI/bge-m3") == ("", "")


def test_morphemes_that_carry_meaning_are_the_same_in_every_form() -> None:
    found = shared().content(
        ["어젯밤에 심장이 빨리 뛰어서 응급실에 갔어요.", "응급실에 가면 심장을 본다. GPU 3개", "", "그것은 누구에게 있나요?"]
    )
    assert {"심장", "응급실", "가/V"} <= set(found[0]) & set(found[1])
    assert {"gpu", "3"} <= set(found[1]) and found[2:] == [[], []]
    assert shared().words(["밥을 먹었다"]) == [["밥", "을", "먹", "었", "다"]]


def test_a_process_of_its_own_says_the_same_and_its_end_is_told() -> None:
    process = MorphemeProcess()
    texts = ["새벽 두 시에 깼다\n그리고 다시 잤다", "ㅋㅋ 🙂 \u2028", ""]
    assert process.content(texts) == shared().content(texts)
    process.close()
    with pytest.raises(KosentError, match="ended"):
        process.content(texts)


def test_chunks_are_spans_of_their_section() -> None:
    paragraph = "비가 왔다. 우산을 챙겼다! 정말 챙겼을까? " * 12
    sections = [
        Section(f"{paragraph}\n\n{paragraph}\n짧은 줄", page=3, heading="가을 > 11월"),
        Section("—\n\n…"),
        Section("가" * 1000),
    ]
    chunks = list(split(sections, characters=200, overlap=40))
    assert {chunk.section for chunk in chunks} == {0, 2}
    for chunk in chunks:
        assert chunk.text == sections[chunk.section].text[chunk.start : chunk.end] and len(chunk.text) <= 200
        assert (chunk.page, chunk.heading) == ((3, "가을 > 11월") if chunk.section == 0 else (None, ""))
    for section in (0, 2):
        spans = [(chunk.start, chunk.end) for chunk in chunks if chunk.section == section]
        assert all(start < after <= end + 3 for (start, end), (after, _) in itertools.pairwise(spans)), "nothing is left out"
    assert all(chunk.text[-1] in ".!?줄" for chunk in chunks if chunk.section == 0), "cut at sentences"
