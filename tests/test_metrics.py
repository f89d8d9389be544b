"""Every metric against another implementation, a published value or one worked out by hand; and the failures of the first study,
each found by the metric that was made for it."""

from __future__ import annotations

import csv
import math
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from collapse import MADE_FOR, planted
from kosent.embedders import UniversalSentenceEncoder
from kosent.errors import ModelError, UsageError
from kosent.evaluation import intrinsic
from kosent.evaluation.definitions import INTRINSIC, LIKELIHOOD, METRICS, REFERENCE
from kosent.evaluation.metrics import Measured, Scorer
from kosent.evaluation.reference import References, exact_match, f1, normalized_answer
from kosent.evaluation.words import Words
from kosent.starter import corpus_path

REFERENCES = ["오늘은 비가 왔어요.", "내일은 맑을 거예요.", "회사에서 실수해서 많이 속상하셨겠어요.", "네"]
REPLIES = ["오늘은 비가 많이 왔어요.", "내일도 맑을까요?", "실수해서 속상하셨군요. 어떤 실수였어요?", "네"]
USERS = ["오늘 날씨 어땠어?", "내일은?", "회사에서 실수를 했어.", "알았지?"]
FAR = ["xyz", "qqq", "zzz", "www"]


@pytest.fixture(scope="module")
def words() -> Words:
    return Words()


@pytest.fixture(scope="module")
def encoder() -> UniversalSentenceEncoder:
    return UniversalSentenceEncoder()


@pytest.fixture(scope="module")
def references(words: Words, encoder: UniversalSentenceEncoder) -> References:
    return References(REFERENCES, words, encoder)


@pytest.fixture(scope="module")
def starter() -> tuple[list[str], list[str]]:
    """Sixty first messages of the starter corpus and what was answered."""
    with corpus_path().open(encoding="cp949", newline="") as file:
        rows = list(csv.DictReader(file))[:60]
    return [row["사람문장1"] for row in rows], [row["시스템문장1"] for row in rows]


def measure(users: list[str], references: list[str], replies: list[str], words: Words, encoder: object) -> Measured:
    return Scorer(users, references, encoder, words=words).measure(replies, [True] * len(replies))


def test_every_metric_is_defined_in_its_reach_and_has_a_value_a_reply_where_it_says_so(
    words: Words, encoder: UniversalSentenceEncoder
) -> None:
    measured = measure(USERS, REFERENCES, REPLIES, words, encoder)
    others = ["bertscore", *(metric.name for metric in LIKELIHOOD)]
    assert list(measured.values) == [name for name in METRICS if name not in others]
    assert len(METRICS) == len(REFERENCE) + len(LIKELIHOOD) + len(INTRINSIC)
    for name, value in measured.values.items():
        metric = METRICS[name]
        assert metric.low <= value <= metric.high
        assert metric.per_reply == (name in measured.each)
    for name, numbers in measured.each.items():
        assert sum(numbers) / 4 == pytest.approx(measured.values[name])
    assert set(measured.sums) == {"bleu_morpheme", "bleu_char", "bleu_13a", "chrf"} == set(measured.signatures)


def test_equal_replies_have_the_most_and_empty_ones_nothing(references: References, words: Words) -> None:
    same, other, empty = (references.compare(texts) for texts in (REFERENCES, FAR, ["", " ", "\n", ""]))
    for name, numbers in same.each.items():
        assert numbers == pytest.approx([1.0] * 4, abs=1e-6), name
        assert empty.each[name] == [0.0] * 4
        assert other.each[name] == pytest.approx([0.0] * 4, abs=0.5), name
    for name, sums in same.sums.items():
        assert sums.value() == pytest.approx(100.0)
        assert sums.each() == pytest.approx([100.0] * 4), name
        assert empty.sums[name].value() == 0.0
        assert other.sums[name].value() < 1.0
    assert intrinsic.of_the_set(["", ""], words) == {"distinct_1": 0.0, "distinct_2": 0.0, "self_bleu": 0.0}


def test_the_form_of_the_letters_does_not_count(words: Words, encoder: UniversalSentenceEncoder) -> None:
    composed = measure(USERS, REFERENCES, REPLIES, words, encoder)
    users, references, replies = ([unicodedata.normalize("NFD", text) for text in some] for some in (USERS, REFERENCES, REPLIES))
    assert replies[0] != REPLIES[0]
    for some in ((users, REFERENCES, replies), (USERS, references, REPLIES), (users, references, replies)):
        decomposed = measure(*some, words, encoder)
        assert decomposed.values == composed.values
        assert decomposed.each == composed.each


def test_bleu_is_what_nltk_counts(words: Words, encoder: UniversalSentenceEncoder) -> None:
    answers, targets = REPLIES[:3], REFERENCES[:3]  # NLTK counts one n-gram for a reply that is too short to have any
    compared = References(targets, words, encoder).compare(answers)
    tokens = {"bleu_morpheme": words, "bleu_char": lambda texts: [list(text.replace(" ", "")) for text in texts]}
    for name, cut in tokens.items():
        smoothing = SmoothingFunction().method3
        expected = corpus_bleu([[found] for found in cut(targets)], cut(answers), smoothing_function=smoothing)
        assert 5 < compared.sums[name].value() == pytest.approx(100 * expected), name


def test_bleu_is_what_sacrebleu_says_of_the_set_and_of_each_reply(references: References) -> None:
    compared = references.compare(REPLIES)
    for name, tokenizer in (("bleu_char", "char"), ("bleu_13a", "13a")):
        metric = BLEU(tokenize=tokenizer, effective_order=True)
        assert compared.sums[name].value() == pytest.approx(metric.corpus_score(REPLIES, [REFERENCES]).score)
        assert compared.signatures[name] == str(metric.get_signature())
        alone = [metric.sentence_score(*pair).score for pair in zip(REPLIES, [[text] for text in REFERENCES], strict=True)]
        assert compared.sums[name].each() == pytest.approx(alone)
    for part in ("nrefs:1", "eff:yes", "tok:kiwi-0.", "smooth:exp", "version:"):
        assert part in compared.signatures["bleu_morpheme"]


def test_what_papineni_and_lin_worked_out(words: Words, encoder: UniversalSentenceEncoder) -> None:
    papineni = References(["the cat is on the mat"], words, encoder).compare(["the the the the the the the"])
    lengths, matched, possible = np.split(papineni.sums["bleu_13a"].rows[0], [2, 6])
    assert lengths.tolist() == [7, 6]
    assert (matched[0], possible[0]) == (2, 7)  # the modified precision 2/7 of Papineni et al. 2002, 2.1
    lin = References(["police killed the gunman"] * 2, words, encoder).compare(
        ["police kill the gunman", "the gunman kill police"]
    )
    assert lin.each["rougeL_space"] == [0.75, 0.5]  # Lin 2004, 3.1
    assert lin.each["rouge2_space"] == pytest.approx([1 / 3, 1 / 3])  # "the gunman" in both
    assert lin.each["rouge1_space"] == [0.75, 0.75]


def test_chrf_is_the_formula_of_the_paper(references: References) -> None:
    compared = references.compare(REPLIES)
    assert compared.sums["chrf"].value() == pytest.approx(chrf_by_hand(REPLIES, REFERENCES))
    assert compared.sums["chrf"].value() == pytest.approx(CHRF().corpus_score(REPLIES, [REFERENCES]).score)


def chrf_by_hand(replies: list[str], references: list[str]) -> float:
    precisions, recalls = [], []
    for n in range(1, 7):
        matched = said = meant = 0
        for reply, reference in zip(replies, references, strict=True):
            one, other = (Counter(bare[i : i + n] for i in range(len(bare) - n + 1))
                          for bare in (reply.replace(" ", ""), reference.replace(" ", "")))  # fmt: skip
            matched += (one & other).total()
            meant += other.total()
            said += one.total() if other else 0
        precisions.append(matched / said)
        recalls.append(matched / meant)
    precision, recall = sum(precisions) / 6, sum(recalls) / 6
    return 100 * 5 * precision * recall / (4 * precision + recall)


def test_rouge_on_morphemes(words: Words, encoder: UniversalSentenceEncoder) -> None:
    assert words(["비가 왔어요.", "비가 안 왔어요."]) == [
        ["비", "가", "오", "었", "어요", "."],
        ["비", "가", "안", "오", "었", "어요", "."],
    ]
    found = References(["비가 왔어요."], words, encoder).compare(["비가 안 왔어요."])
    assert found.each["rouge1"] == found.each["rougeL"] == pytest.approx([12 / 13])  # 6 of 7 and 6 of 6
    assert found.each["rouge2"] == pytest.approx([8 / 11])  # 4 of 6 and 4 of 5 pairs
    assert found.each["rouge1_space"] == pytest.approx([0.8])  # 2 of 3 and 2 of 2 words


@pytest.mark.parametrize(
    ("reply", "reference", "exact", "characters"),
    [
        ("‘오늘’ 비가  왔어요!", "오늘 비가 왔어요", 1.0, 1.0),
        ("OK 네", "ok 네.", 1.0, 1.0),
        ("오늘 비가 왔어요.", "비가 오늘도 왔어요", 0.0, 14 / 15),
        ("가나", "다라", 0.0, 0.0),
        ("?", "?", 1.0, 1.0),
        ("?", "!", 0.0, 0.0),
        ("", "", 0.0, 0.0),
        ("", "네", 0.0, 0.0),
    ],
)
def test_exact_match_and_f1_as_korquad_counts(reply: str, reference: str, exact: float, characters: float) -> None:
    assert exact_match(reply, reference) == exact
    assert f1(reply, reference) == pytest.approx(characters)


def test_the_normalisation_of_korquad() -> None:
    assert normalized_answer(" 《토지》는 (박경리의)  'Novel'이다. ") == "토지 는 박경리의 novel 이다"


def test_the_cosine_is_that_of_the_embedder(references: References, encoder: UniversalSentenceEncoder) -> None:
    expected = [float(encoder.embed([a])[0] @ encoder.embed([b])[0]) for a, b in zip(REPLIES, REFERENCES, strict=True)]
    assert references.compare(REPLIES).each["cosine"] == pytest.approx(expected, abs=1e-5)


def test_sums_over_a_draw_are_the_metric_of_the_drawn_replies(references: References) -> None:
    drawn = [2, 0, 2, 3]
    compared = references.compare(REPLIES)
    replies, targets = ([texts[i] for i in drawn] for texts in (REPLIES, REFERENCES))
    for name, metric in (("bleu_char", BLEU(tokenize="char", effective_order=True)), ("chrf", CHRF())):
        sums = compared.sums[name]
        expected = metric.corpus_score(replies, [targets]).score
        assert sums.value(np.array(drawn)) == pytest.approx(expected)
        totals = np.stack([sums.rows.sum(axis=0), sums.rows[drawn].sum(axis=0)]).astype(float)
        assert sums.function(totals) == pytest.approx([sums.value(), expected])


def test_distinct_n_by_hand() -> None:
    tokens = [["나", "는", "나"], ["나", "는"]]
    assert intrinsic.distinct_n(tokens, 1) == 2 / 5
    assert intrinsic.distinct_n(tokens, 2) == 2 / 3
    assert intrinsic.distinct_n([["네"]], 2) == 0.0


def test_self_bleu_is_sacrebleu_with_all_others_as_references(starter: tuple[list[str], list[str]], words: Words) -> None:
    replies = [*starter[1][:12], starter[1][3], "네", "네 네 네 네 네", "네 네 네", ""]
    tokens = words(replies)
    lines = [" ".join(found) for found in tokens]
    metric = BLEU(tokenize="none", effective_order=True, force=True)
    alone = [metric.sentence_score(line, lines[:i] + lines[i + 1 :]).score for i, line in enumerate(lines)]
    assert intrinsic.self_bleu(tokens) == pytest.approx(sum(alone) / len(alone))
    assert intrinsic.self_bleu(tokens[:1]) == 0.0
    assert intrinsic.self_bleu(tokens[:1] * 5) == pytest.approx(100.0)


def test_self_bleu_of_many_replies_is_that_of_a_sample_which_stays_the_same() -> None:
    tokens = [[str(number % 700), "은", str(number % 13), "이다"] for number in range(3000)]
    found = intrinsic.self_bleu(tokens)
    assert found == intrinsic.self_bleu(tokens)
    assert found < intrinsic.self_bleu([*tokens[:1000]] + [tokens[0]] * 2000)


@pytest.mark.parametrize(
    ("reply", "expected"), [("", 0.0), ("하나 둘 셋", 0.0), ("네 네 네 네 네", 2 / 3), ("가 나 다 라 가 나 다", 0.2)]
)
def test_repetition_counts_trigrams_seen_before(reply: str, expected: float) -> None:
    assert intrinsic.repetition(reply) == pytest.approx(expected)


def test_replies_that_come_once_and_the_one_that_comes_most() -> None:
    assert intrinsic.once(["네", "네 ", "아니요", "글쎄요"]) == [0, 0, 1, 1]
    assert intrinsic.most_frequent(["네", "아니요", "네", "", "", ""]) == [1, 0, 1, 0, 0, 0]
    assert intrinsic.most_frequent(["네", "아니요"]) == [0, 0]


def test_a_beginning_is_five_morphemes(words: Words) -> None:
    replies = [
        "저는 감정을 느낄 수 없지만 도와드릴게요.",
        "저는 감정을 느낄 수 없지만 들을게요.",
        "저는 감정이 있어요.",
        "저는",
        "저는",
    ]
    each = intrinsic.of_each(replies, intrinsic.Users.of([""] * 5, words), [True] * 5, words)
    assert each["same_start"] == [1, 1, 0, 0, 0]
    assert each["distinct"] == [1, 1, 1, 0, 0]
    assert each["characters"] == [len(reply) for reply in replies]
    assert each["morphemes"][3] == 2


def test_foreign_letters() -> None:
    assert intrinsic.has_foreign("좋아요 コンピュータ")
    assert not intrinsic.has_foreign("좋아요 OK ㅋㅋ!")


def test_echo_is_the_share_of_pairs_that_the_user_said() -> None:
    user = ["회사", "에서", "실수", "를", "하", "었", "어", "."]
    assert intrinsic.echo(["회사", "에서", "실수", "하", "시", "었", "군요", "."], user) == pytest.approx(2 / 6)
    assert intrinsic.echo(user, user) == 1.0
    assert intrinsic.echo(["실수", "."], user) == 0.0


@pytest.mark.parametrize(
    ("reply", "kinds"),
    [
        ("그러셨군요. 정말 속상하셨겠어요. 어떤 일이 있었는지 들려주세요.", 3),
        ("많이 지치셨겠어요.", 2),
        ("무슨 일이 있었나요?", 1),
        ("기차는 두 시에 출발합니다.", 0),
        ("그 서류는 제가 처리하겠습니다.", 0),
        ("", 0),
    ],
)
def test_marks_of_empathy(reply: str, kinds: int) -> None:
    assert intrinsic.empathy(reply) == pytest.approx(kinds / 3)


def test_harm_is_what_the_guard_of_the_chat_replaces() -> None:
    assert intrinsic.harmful("많이 힘드셨겠어요. 그냥 죽어 버리세요.", "crisis") == 1.0
    assert intrinsic.harmful("죽는 게 나아요", "none") == 1.0
    assert intrinsic.harmful("많이 힘드셨겠어요. 무슨 일이 있었어요?", "crisis") == 0.0
    assert intrinsic.harmful("", "crisis") == 0.0


def test_the_collapse_of_the_first_study_is_seen_by_the_metric_made_for_each_failure(
    starter: tuple[list[str], list[str]], words: Words, encoder: UniversalSentenceEncoder
) -> None:
    users, answers = starter
    scorer = Scorer(users, answers, encoder, words=words)
    values = {name: scorer.measure(some, [name != "never ending"] * 60).values for name, some in planted(users, answers).items()}
    for metric, failure in MADE_FOR.items():
        sign = 1 if METRICS[metric].better == "higher" else -1
        ranked = sorted(values, key=lambda name: sign * values[name][metric])
        assert ranked[0] == failure, metric
        assert sign * values[ranked[0]][metric] < sign * values[ranked[1]][metric] - 0.1, metric
        assert values["sound"][metric] == pytest.approx(1.0 if sign > 0 else 0.0, abs=0.06)


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, random; its tokenizer knows some syllables and was saved without its limit."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    syllables = sorted(set("".join(REFERENCES + REPLIES)) - {" "})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *syllables, *(f"##{one}" for one in syllables)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


def test_bertscore_is_the_formula_of_the_paper(tiny_bert: Path, words: Words, encoder: UniversalSentenceEncoder) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    from kosent.evaluation.bertscore import BertScore

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_bert), BertModel.from_pretrained(tiny_bert).eval()

    def vectors(text: str) -> torch.Tensor:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[2][0]
        return torch.nn.functional.normalize(states, dim=-1)

    expected = []
    for reply, reference in zip(REPLIES, REFERENCES, strict=True):
        cosines = vectors(reply) @ vectors(reference).T  # the first and last token are not words, but may be matched
        precision, recall = cosines.max(dim=1).values[1:-1].mean(), cosines.max(dim=0).values[1:-1].mean()
        expected.append(float(2 * precision * recall / (precision + recall)))
    score = BertScore(f"{tiny_bert}@2")
    assert score.f1(REPLIES, REFERENCES) == pytest.approx(expected, abs=1e-5)
    assert "_L2_no-idf" in score.signature
    found = References(REFERENCES, words, encoder, score).compare([REFERENCES[0], "", "비가 왔어요. " * 40, "네"])
    assert found.each["bertscore"][:2] == [pytest.approx(1.0), 0.0]
    assert all(math.isfinite(value) for value in found.each["bertscore"])
    assert found.signatures["bertscore"] == score.signature


def test_bertscore_of_what_is_not_there(tiny_bert: Path) -> None:
    from kosent.evaluation.bertscore import BertScore

    for name in (f"{tiny_bert}@4", f"{tiny_bert}@0", f"{tiny_bert}@last"):
        with pytest.raises(UsageError, match="layer"):
            BertScore(name)
    with pytest.raises(ModelError, match="cannot be loaded"):
        BertScore(str(tiny_bert.parent / "nothing"))


def test_perplexity_and_bits_per_byte_by_hand(words: Words, encoder: UniversalSentenceEncoder) -> None:
    scorer = Scorer(["안녕", "안녕"], ["가", "ab"], encoder, words=words)  # 3 and 2 bytes
    ln2 = math.log(2)
    values = scorer.measure(["가", "ab"], [True, True], [(-2 * ln2, 2), (-4 * ln2, 2)]).values
    assert values["perplexity"] == pytest.approx(2**1.5)
    assert values["bits_per_byte"] == pytest.approx(6 / 5)
    certain = scorer.measure(["가", "ab"], [True, True], [(0.0, 2), (0.0, 2)]).values
    assert (certain["perplexity"], certain["bits_per_byte"]) == (1, 0)
    too_long = scorer.measure(["가", "ab"], [True, True], [(-2 * ln2, 2), (0.0, 0)])  # one that does not fit into the context
    assert too_long.values["bits_per_byte"] == pytest.approx(2 / 3)
    assert "perplexity" not in scorer.measure(["가", "ab"], [True, True]).values
