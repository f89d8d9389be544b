"""Masking personal data with typed placeholders.

Found by form: resident registration numbers, telephone numbers, e-mail addresses, payment cards, bank accounts, street
addresses. Not found: names, and anything written in an unusual way; a corpus that may hold them needs a person's eye.
Public short and representative numbers (109, 1577-0199, 1588-…) stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_BEFORE, _AFTER = r"(?<![\d-])", r"(?![\d-])"
_DASH = r"[-‐–—]"
RESIDENT = re.compile(
    rf"{_BEFORE}\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:\s?{_DASH}\s?[1-8][\d*]{{6}}|[1-8]\d{{6}}){_AFTER}"
)
EMAIL = re.compile(r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")
_SEPARATOR = r"(?:\s?[-.‐–—·)]\s?|\s)"
MOBILE = re.compile(rf"(?<![\d-])(?:\+?82{_SEPARATOR}?\(?0?\)?|\(?0)1[016789]{_SEPARATOR}?\d{{3,4}}{_SEPARATOR}?\d{{4}}{_AFTER}")
LANDLINE = re.compile(rf"{_BEFORE}\(?0(?:2|[3-6][1-5]|70|50\d?){_SEPARATOR}\d{{3,4}}{_SEPARATOR}\d{{4}}{_AFTER}")
_DIGIT = "[공영일이삼사오육칠팔구]"
SPOKEN = re.compile(rf"공일[공일육칠팔구]에?[\s-]?{_DIGIT}{{3,4}}에?[\s-]?{_DIGIT}{{4}}(?!{_DIGIT}{{2}})")
CARD = re.compile(rf"{_BEFORE}(?:\d{{4}}[- ]){{3}}\d{{4}}{_AFTER}|{_BEFORE}[3-69]\d{{15}}{_AFTER}")
ACCOUNT = re.compile(rf"{_BEFORE}(?:\d{{2,6}}-){{2,3}}\d{{1,8}}{_AFTER}|{_BEFORE}\d{{11,14}}{_AFTER}")
BANK = re.compile(
    r"계좌|입금|송금|예금주|은행|뱅크|농협|신협|수협|새마을금고|우체국|(?:국민|신한|우리|하나|기업|카카오|토스|케이|산업|씨티)\s?\d"
)
_PROVINCE = (
    "서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|충청북도|충청남도|전북|전남|전라북도|전라남도|경북|경남|"
    "경상북도|경상남도|제주"
)
_CITY = rf"(?:(?:{_PROVINCE})(?:특별자치시|특별자치도|특별시|광역시|시|도)?\s)"
_DISTRICT = r"(?:[가-힣]{1,4}(?:시|군|구)\s)"
_NO_ROAD = "앞으로|뒤로|위로|아래로|옆으로|서로|바로|따로|새로|별로|홀로|스스로|실제로|그대로|제대로|멋대로"
_ROAD = rf"(?!{_NO_ROAD})[가-힣]{{1,8}}\d{{0,3}}(?:대로|로|길)"
_NO_NUMBER = r"[\d,.:]|\s?(?:년|월|일|시|분|초|개|명|번(?!지|길)|원|살|층|칸|주|킬로|km|정거장|%|가\b)"
_NUMBER = rf"\s?\d{{1,4}}(?:-\d{{1,4}})?(?:번지)?(?!{_NO_NUMBER})"
_ROOM = r"(?:,?\s?[가-힣A-Za-z0-9]*\s?\d{1,4}동)?(?:\s?\d{1,5}호)?"
_STREET = rf"(?:{_ROAD}(?:\s?\d+번?길)?|[가-힣]{{1,5}}\d?(?:동|리)(?:\s?산)?){_NUMBER}{_ROOM}"
# a province with a district, or two districts in a row; a lone "…구 …로 3" is too often ordinary speech
ADDRESS = re.compile(
    rf"(?:{_CITY}{_DISTRICT}{{0,2}}|{_DISTRICT}{{2}}|[가-힣]{{2,3}}구\s(?=[가-힣]{{2,6}}(?:대로|로)\s\d))(?:[가-힣]{{1,5}}(?:읍|면)\s)?{_STREET}"
)
_KIN = re.compile(
    r"친구|누구|식구|입구|출구|도구|가구|연구|야구|축구|농구|배구|당구|지구|인구|요구|욕구|동시|다시|혹시|역시|잠시|몇시"
)
UNIT = re.compile(r"(?<!\d)\d{1,4}동\s?\d{3,5}호")


def _luhn(digits: str) -> bool:
    """Check digit of ISO/IEC 7812-1."""
    doubled = [int(d) if i % 2 else sum(divmod(int(d) * 2, 10)) for i, d in enumerate(digits[::-1], start=1)]
    return sum(doubled) % 10 == 0


def _card(match: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", match.group())
    return "<카드번호>" if len(match.group()) > 16 or _luhn(digits) else match.group()


def _address(match: re.Match[str]) -> str:
    return match.group() if _KIN.search(match.group()) and not re.match(_PROVINCE, match.group()) else "<주소>"


def _account(match: re.Match[str]) -> str:
    return "<계좌번호>" if 10 <= sum(c.isdigit() for c in match.group()) <= 14 else match.group()


_WORTH_A_LOOK = re.compile(r"\d{3}|\d-|@|공일|\d동|[로길동리]\s?\d")
_STEPS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (EMAIL, "<이메일>"),
    (RESIDENT, "<주민등록번호>"),
    (CARD, _card),
    (MOBILE, "<전화번호>"),
    (LANDLINE, "<전화번호>"),
    (SPOKEN, "<전화번호>"),
    (ADDRESS, _address),
    (UNIT, "<주소>"),
)


def mask_personal(text: str) -> str:
    """`text` with personal data replaced by <주민등록번호>, <전화번호>, <이메일>, <카드번호>, <계좌번호> and <주소>."""
    if not _WORTH_A_LOOK.search(text):
        return text
    for pattern, placeholder in _STEPS:
        text = pattern.sub(placeholder, text)
    return ACCOUNT.sub(_account, text) if BANK.search(text) else text
