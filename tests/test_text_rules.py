"""The rules encoding, script and repetition: what each finds in one utterance, and what ordinary Korean they leave alone."""

from __future__ import annotations

import time
from urllib.parse import quote

import pytest

from helpers import ROOT
from kosent.files import read_jsonl
from kosent.finetune.encoding_rule import fix_encoding
from kosent.finetune.repetition_rule import limit_repetition
from kosent.finetune.rules import CleaningSettings, resolve_settings
from kosent.finetune.script_rule import check_script
from kosent.finetune.text_rules import Reject

SETTINGS = CleaningSettings()
HELLO = "안녕하세요 반가워요"


def judged(text: str) -> list[str | Reject]:
    return [fix_encoding(text), check_script(text, SETTINGS), limit_repetition(text, SETTINGS)]


ORDINARY = [
    "짜장면", "Café 가자", "Beyoncé", "뭐??", "R&B 좋아해", "???", "뭐?? 진짜?? 정말??", "OK", "36.5℃", "1000000000000원",
    # English names, lists, titles, exclamations and code
    "BTS의 Dynamite, Butter, Permission to Dance 다 좋아해요.",
    "진단명은 Major Depressive Disorder였어요",
    "PTSD는 Post-Traumatic Stress Disorder의 약자로 큰 사건 뒤에 와요",
    "SQL은 Structured Query Language의 약자입니다",
    "ISTJ, ISFJ, INFJ, INTJ, ISTP, ISFP, INFP, INTP 중에 뭐예요?",
    "Fluoxetine, Sertraline, Paroxetine, Citalopram, Escitalopram 같은 약이 있어요",
    "Nike, Adidas, New Balance, Converse, Puma 좋아해",
    "Python, Java, JavaScript, TypeScript, Go, Rust, Kotlin",
    "Taylor Swift의 Blank Space 들어 봐",
    "나 요즘 Stray Kids랑 TXT랑 NewJeans 들어",
    "I Will Always Love You, My Heart Will Go On, Can You Feel the Love Tonight 좋아해",
    "The Lord of the Rings The Return of the King 봤어?",
    "Permission to Dance", "The Beatles", "the end",
    "npm install react react-dom vite 하고 npm run dev 치세요",
    "`for i in range(10): print(i)` 이렇게 써요", "for (let i = 0; i < you; i++) { console.log(i) }",
    "Thank you so much for listening ㅠㅠ", "OMG", "good night", "thank you", "I love you", "Hello, how are you?",
    'he said "I am so tired of all this"래', "딸이 I love you mommy 하는데 피로가 싹 가셨어",
    # signs, units and faces
    "물 2ℓ 마시기", "비타민 D 25µg", "기온이 30ºC", "1º 2ª", "ℹ️ 참고로", "α세대라며", "(¬_¬)",
    "(ノ°Д°)ノ︵┻━┻", "(づ｡◕‿‿◕｡)づ 안아줄게요", "ಠ_ಠ", "ヽ(´▽`)/ 신난다", "신난다ヽ(´▽`)/", "٩(ˊᗜˋ*)و 화이팅!", "٩( ᐛ )و", "ツ",
    # Han and other scripts where Korean writes them
    "故 김 선생님 생각이 났어요", "前 남친이 자꾸 연락해", "辛라면 먹었어", "美 대통령이 中 주석을",
    "韓·美·日 정상회담", "韓美 정상회담",
    "사과(謝過)를 못 했어", "塞翁之馬(새옹지마)라는 말도", "한자로 孝道라고 써요", "일본어로 고마워는 ありがとう예요",
    "'ありがとうございます'라고 해요", "도스토옙스키(Достоевский)의 죄와 벌",
    # slang and slips of the Shift key outside KS X 1001
    "핳핳핳 엌ㅋㅋ", "왤케 됬어 떄문에 어떄", "똠양꿍 뷁 뭥미", "점수가 ····", "50% 할인 100%",
    "https://ko.wikipedia.org/wiki/%EC%95%88%EB%85%95", r"[\uac00-\ud7a3]", "R&D; AT&T &foo;", "?? ??? ?? 뭐라고?",
    # said again on purpose
    "하나둘" * 6, "보고 싶어 보고 싶어 보고 싶어", "제발 도와주세요 제발 도와주세요 제발 도와주세요", "힘내요! 힘내요! 힘내요!",
    "ㅠㅠ" * 6, "ㅎㅎ " * 8, "우와와와와와와와와 대박", "화이팅 화이팅 화이팅 화이팅", "♥♥♥♥♥♥", "❤️" * 8, "11111111111111111111",
    "칙칙폭폭 칙칙폭폭 칙칙폭폭 기차가 떠나요",
    "1반 30명 2반 31명 3반 29명 4반 30명 5반 28명 6반 30명 7반 31명 8반 30명 9반 29명",
    "https://www.youtube.com/a 이 영상이랑 https://www.youtube.com/b 이거랑 https://www.youtube.com/c 이거 보세요",
    "1. 이모네 식당 - 마포구\n매주 월요일 휴무\n2. 할매 국밥 - 종로구\n매주 월요일 휴무\n3. 진주 분식 - 중구\n매주 월요일 휴무",
    "=-" * 20 + "\n제목입니다 여러분 안녕하세요 오늘은 날씨가 참 좋네요",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays(text: str) -> None:
    assert judged(text) == [text] * 3


def test_difficult_clean_dialogues_stay() -> None:
    texts = [row[role] for row in read_jsonl(ROOT / "tests" / "corpora" / "difficult.jsonl") for role in ("user", "assistant")]
    assert [text for text in texts if judged(text) != [text] * 3] == []


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("written", ["cp949", "utf-8"])
@pytest.mark.parametrize("text", [HELLO, "멋진 분이군요.", "그래요"])
def test_text_read_in_the_wrong_encoding_is_put_right(text: str, written: str, times: int) -> None:
    misread = text.encode(written).decode("latin-1")
    if times == 2:
        misread = misread.encode("utf-8").decode("latin-1")
    assert fix_encoding(misread) == text


@pytest.mark.parametrize("written", ["cp949", "utf-8"])
def test_text_read_as_windows_1252_is_put_right(written: str) -> None:
    assert fix_encoding("힘내".encode(written).decode("cp1252")) == "힘내"


@pytest.mark.parametrize(
    ("text", "fixed"),
    [
        ("&amp;quot;안녕&amp;quot;", '"안녕"'),
        ("안녕&nbsp하세요&nbsp;네", "안녕 하세요 네"),
        ("사랑해&hearts; &#44032;", "사랑해♥ 가"),
        (r"\uc548\ub155 \ud558\uc138\uc694", "안녕 하세요"),
        (r"\ud558\uc774\ud558\uc774\ud83d\ude00", "하이하이😀"),
        (f"그래서 {quote('안녕')} 했어", "그래서 안녕 했어"),
    ],
)
def test_escaped_text_is_put_right(text: str, fixed: str) -> None:
    assert fix_encoding(text) == fixed


@pytest.mark.parametrize(
    "text",
    [
        "안\ufffd 녕",
        "占쏙옙",
        "?? ??? ???? ??",
        "????? ????",
        HELLO.encode("utf-8").decode("cp949", "replace"),
        "?덈뀞?섏꽭??",
        "?ㅻ뒛???섎뱾?덇쿋?댁슂",
        "오늘 ÀÌ·±°Ô 됐어요",
    ],
)
def test_lost_letters_are_rejected(text: str) -> None:
    assert isinstance(fix_encoding(text), Reject)


@pytest.mark.parametrize(
    "text",
    [
        "오늘は 힘들어",
        "기분이 好해요",
        "привет 안녕",
        "나는 감정을 理解 합니다 정말로요",
        "ขอบคุณ 고마워요 정말 고마워요 너무너무",
        "그 感정을 이해해요",
        "오늘은 좀 休식을 취해 보시는 게 어떨까요? 많이 힘드셨을 것 같아요.",
        "당신의 女자 친구는 정말 좋은 사람이라고 생각해요",
        "(非常に残念です)",
        "정말 안타깝네요 (非常に残念です)",
        "당신의 cảm xúc를 저는 충분히 이해하고 있으니까 걱정하지 마세요",
    ],
)
def test_foreign_script_is_rejected(text: str) -> None:
    assert isinstance(check_script(text, SETTINGS), Reject)


@pytest.mark.parametrize(
    "text",
    [
        "I understand.",
        "Sure, I can help you.",
        "\"I'm sorry to hear that. I'm here for you.\"",
        "(That sounds really tough.)",
        "As an AI language model, 저는 감정이 없어요",
        "안녕hello하세요how그래are요you",
        "I'm so sorry to hear that you feel this way. 괜찮아요",
        "정말 아쉽겠어요 please take good care of yourself and get well soon 푹 쉬어요.",
        "이건 abcdefghijklmnopqrstuvwxyzabcdefghijk 예요",
    ],
)
def test_english_in_place_of_korean_is_rejected(text: str) -> None:
    assert isinstance(check_script(text, SETTINGS), Reject)


def test_laughter_is_kept_to_taste() -> None:
    assert limit_repetition("ㅋㅋㅋㅋㅋㅋ", SETTINGS) == "ㅋㅋㅋㅋㅋㅋ"
    assert limit_repetition("ㅋㅋㅋㅋㅋㅋ", resolve_settings(["repetition.laughter=3"])) == "ㅋㅋㅋ"
    assert limit_repetition("진짜아아아아 와와와와와와와와와와", SETTINGS) == "진짜아아아아 와와와"


GOOD = (
    "오늘 하루도 정말 고생 많으셨어요 힘든 일이 있어도 내일은 더 나은 날이 될 거라고 저는 믿고 있어요 따뜻한 물 한 잔 마시고 "
    "푹 쉬면서 좋아하는 음악을 들어 보는 건 어떨까요 그래도 마음이 무거우면 언제든 말해 주세요 "
)


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "괜찮아요 " * 7,
        "저는 당신을 이해합니다 " * 3,
        " ".join(f"{number}. 운동하기" for number in range(1, 7)),
        "네 네 네 네 네 네 네 네",
        "네 " * 31,
        "괜찮아요 " * 6,
        "1" * 300,
        "12" * 150,
        "0." + "3" * 60,
        "😭😂" * 100,
        "힘내세요.\n" * 5,
        "그리우시겠어요. 어떤 음식이었어요? 그리우시겠어요. 무슨 맛이었어요? 그리우시겠어요.",
    ],
)
def test_going_round_in_circles_is_rejected(text: str) -> None:
    assert isinstance(limit_repetition(text, SETTINGS), Reject)


HARD = [
    "1", "A(", "a.", '"a', "가a", "?? ", "“a", "`a", "```a", "'a ", "<a", "(가", "가(", "漢", "漢(", "漢(가", "美", "가漢", "a@",
    "www.", "I can ", "as an a", "가abc", "love ", "😭😂", "12", "1. ", "요. ", "?\n", "ノ(", "&",
    "&amp;", "&#1", r"\u", r"\uac00 ", "%EC", "é", "가é", "뀞", "a'", "「", " ", "\n",
    "가나다가나다가나다가나다가나다가나다가나다x", "가나다라마바사아자차카타파하거너더러머버" * 2 + "x",
]  # fmt: skip


@pytest.mark.parametrize("piece", HARD)
def test_long_hostile_text_takes_linear_time(piece: str) -> None:
    """Each takes 0.01 to 0.3 s; a quadratic pattern would take minutes."""
    text = (piece * 200_000)[:200_000]
    start = time.process_time()
    judged(text)
    assert time.process_time() - start < 2
