"""Masking personal data: what is found, and what ordinary Korean must keep."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from helpers import ROOT
from kosent.files import read_jsonl
from kosent.personal import mask_personal, spans

PHONE, RESIDENT, EMAIL, CARD, ACCOUNT, ADDRESS = (
    f"<{kind}>" for kind in ("전화번호", "주민등록번호", "이메일", "카드번호", "계좌번호", "주소")
)
WHOLE = {
    PHONE: [
        "010.1234.5678", "+82 10-1234-5678", "010ㅡ1234ㅡ5678", "010−1234−5678", "010_1234_5678", "010/1234/5678",
        "010~1234~5678", "０１０－１２３４－５６７８", "01O-1234-5678", "영일영 일이삼사 오육칠팔", "공일공 1234 5678",
        "공일공일이삼사오육칠팔",
        "0082-10-1234-5678", "+82(0)10-1234-5678", "82-10-1234-5678", "(010)1234-5678", "010 1234 5678", "016-123-4567",
        "031-123-4567", "(02) 123-4567", "070-1234-5678", "0505-123-4567",
    ],
    RESIDENT: [
        "900101-1234567", "9001011234567", "900101 1234567", "900101-1xxxxxx", "900101-1●●●●●●", "900101-1******",
        "900101 / 1234567", "９００１０１－１２３４５６７",
    ],
    EMAIL: [
        "hong＠naver.com", "hong@ naver.com", "hong (at) naver.com", "홍길동@naver.com", "a.b-c+d@mail.co.kr",
        "hong@seoul.go.kr",
    ],
    CARD: [
        "1234-5678-9012-3456", "4111111111111111", "4111.1111.1111.1111", "4111–1111–1111–1111", "4111 1111 1111 1111",
        "9410 1234 5678 9012", "3782-822463-10005", "378282246310005",
    ],
    ADDRESS: [
        "수원시 팔달구 인계동 1123-4번지", "해운대구 우동 1408번지", "부산 해운대구 우동 1408번지", "강남구 역삼동 123-45",
        "서울 역삼동 123-45", "서울 중구 을지로3가 123", "성수동2가 300-1", "종로1가 24", "수원시 영통구 광교중앙로 140",
        "평창군 대관령면 횡계리 123", "강원도 평창군 대관령면 횡계리 산 12-3", "서울 강남구 테헤란로 123, 101동 1203호",
        "서울시 강남구 테헤란로4길 12", "서울 강남대로 396", "제주시 첨단로 242", "세종시 한누리대로 2130", "종로구 청운동 12",
        "제주시 연동 271", "서울 성동구 서울숲길 12", "서울 노원구 동일로 1405",
    ],
}  # fmt: skip
MASKED = [
    *((text, placeholder) for placeholder, texts in WHOLE.items() for text in texts),
    ("번호는 010-1234-5678이야", "번호는 <전화번호>이야"),
    ("01012345678로 문자해", "<전화번호>로 문자해"),
    ("010-1234-5678,010-8765-4321", "<전화번호>,<전화번호>"),
    ("02-123-4567로 걸어", "<전화번호>로 걸어"),
    ("공일공에 일이삼사에 오육칠팔이야", "<전화번호>이야"),
    ("전화 0212345678", "전화 <전화번호>"),
    ("전화번호는 064 7101234야", "전화번호는 <전화번호>야"),
    ("상담사가 010-1234-5678을 줬어", "상담사가 <전화번호>을 줬어"),
    ("메일은 a.b@c.co.kr이야", "메일은 <이메일>이야"),
    ("신한은행 110-123-456789로", "신한은행 <계좌번호>로"),
    ("신한 110 123 456789", "신한 <계좌번호>"),
    ("카뱅 3333-01-1234567", "카뱅 <계좌번호>"),
    ("3333012345678 카뱅", "<계좌번호> 카뱅"),
    ("KB 123456-04-123456", "KB <계좌번호>"),
    ("국민 123456-04-123456으로", "국민 <계좌번호>으로"),
    ("SC제일 123-20-456789", "SC제일 <계좌번호>"),
    ("농협 302 1234 5678 91", "농협 <계좌번호>"),
    ("통장 110-123-456789", "통장 <계좌번호>"),
    ("새마을 9002-1234-5678-9", "새마을 <계좌번호>"),
    ("110-123-456789 (신한)", "<계좌번호> (신한)"),
    ("서울시 강남구 테헤란로 123에 살아", "<주소>에 살아"),
    ("수원 영통구 광교로 1이야", "수원 <주소>이야"),
    ("우리 집은 101동 1203호야", "우리 집은 <주소>야"),
]
ORDINARY = {
    "places": [
        "종로 3가에서", "여자친구 앞으로 5년", "서울 집으로 3시간 걸려", "부산 해운대구 우동 3년 살았어", "101동",
        "제주 올레길 7코스", "제주 올레길 7, 8코스", "부산 출장길 2박 3일", "서울 지하철로 2호선", "강원 산불로 3천 명",
        "서울 월세로 50만 원",
        "서울 월세로 50 내고 살아", "마포구 월세로 60 내고 있어", "서울 알바로 100 벌었어", "서울 전세로 2억",
        "대구 운동 3회차",
        "서울 거리 100m", "대전 요리 3가지", "서울 기준으로 1등급", "경기 결과로 3대 2", "경기 결과로 3 대 2",
        "서울 우동 2그릇",
        "서울 이름으로 3행시", "친구 이동 2", "서울 친구 이동 2", "다시 우동 2 먹자", "종로3가 5번 출구", "종로3가 7, 8번 출구",
        "종로3가 24시간 카페", "강남구 신사동 3, 4번", "서울 서초구 반포동 10 평", "서울 관악구 신림동 3 년 살았어",
    ],
    "numbers": [
        "2024-03-15", "1,200,000원", "12-25", "4111111111111112", "주문번호 20240315", "1/60은 0.0166666667입니다",
        "1592 1597 1636 1637", "2020 2021 2022 2023", "3000 3500 4000 4500", "바코드 8801117534806", "주문번호 0212345678",
        "은행 ATM에 20240520153000", "국민 10명 중 3명 2019-2020-2021", "송금했어 2024-05-20-1234",
        "우체국 등기번호 1234567890123", "계좌에 12345678901원", "사업자등록번호 123-45-67890 으로 송금",
        "계좌에 1000 2000 3000", "원주율 3.141592653589793238",
        "@친구 봐", "점심 @ 12시", "010세대",
    ],
    "public": [
        "109", "1577-0199", "1588-0000에 전화", "서울생명의전화 02-2204-8000", "국립정신건강센터 02-2204-0114", "080-123-4567",
        "043-719-7979로 문의", "국민은행 고객센터 02-2204-8000", "국민은행 080-123-4567", "문의는 help@mohw.go.kr",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MASKED)
def test_personal_data_is_masked_by_its_kind(text: str, expected: str) -> None:
    assert mask_personal(text) == expected


@pytest.mark.parametrize("text", [text for texts in ORDINARY.values() for text in texts])
def test_what_is_no_personal_data_stays(text: str) -> None:
    assert mask_personal(text) == text


def test_spans_are_places_in_the_text_as_it_is_written() -> None:
    text = "메일 hong@naver.com, 폰 ０１０－１２３４－５６７８!"
    assert [(text[start:end], kind) for start, end, kind in spans(text)] == [
        ("hong@naver.com", "<이메일>"),
        ("０１０－１２３４－５６７８", "<전화번호>"),
    ]
    assert spans("센터 02-2204-0114") == spans("안녕") == []
    assert mask_personal("Ａ９, 그대로") == "Ａ９, 그대로"


def test_corpora_without_personal_data_are_untouched() -> None:
    texts = [row[role] for row in read_jsonl(ROOT / "tests" / "corpora" / "difficult.jsonl") for role in ("user", "assistant")]
    with (ROOT / "kosent" / "data" / "starter_corpus.csv").open(encoding="cp949", newline="") as file:
        texts += [cell for row in csv.reader(file) for cell in row]
    assert len(texts) > 2000
    assert [text for text in texts if mask_personal(text) != text] == []


def test_planted_personal_data_is_masked() -> None:
    faults = [row for row in read_jsonl(ROOT / "tests" / "corpora" / "faults.jsonl") if row["rule"] == "personal"]
    kinds = {kind for fault in faults for message in fault["messages"] for _, _, kind in spans(message["content"])}
    assert kinds == {PHONE, RESIDENT, EMAIL, CARD, ACCOUNT, ADDRESS}


def test_long_text_takes_time_in_proportion_to_its_length() -> None:
    """A quadratic pattern would need most of the time allowed for any one of these; all together take about two seconds."""
    units = ["1", "a.", "a@", "a@a.", "123-", "1a", "010 ", "1234 ", "은행 12345678901 ", "가 ", "서울 ", "가구 가구 ", "강남구 ",
             "서울 가로1", "서울 강남구 가길 1,", "종로1가1 ", "공일", "900101-1", "가", " "]  # fmt: skip
    code = (
        "from kosent.personal import mask_personal\n"
        f"for unit in {units!r}: mask_personal((unit * 100_000)[:100_000] + ' 010-1234-567')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)
