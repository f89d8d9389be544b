"""Masking personal data with typed placeholders.

Found by form: resident registration numbers, telephone numbers, e-mail addresses, payment cards, bank accounts, street
addresses. Not found: names, and anything written in an unusual way; a corpus that may hold them needs a person's eye.
Public numbers (109, 1577-0199, 1588-…, 080-…, and a landline named as that of a centre or the police) stay. What is masked
changes training text, so a form that ordinary Korean shares needs a word beside it: a bank for an account, a district for a
street. Every repetition below is bounded, which keeps each pattern linear in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_WIDE = str.maketrans("０１２３４５６７８９＠．（）／：", "0123456789@.()/:")
"""Full-width signs; one for one, so that places in the text stay the same."""
_BEFORE, _AFTER = r"(?<![\d-])(?<!\d\.)", r"(?!-?\d)"  # not inside a longer number, not behind a decimal point
_DASH = r"[-‐‑–—−－ㅡ]"
_SEPARATOR = rf"(?:\s?(?:{_DASH}|[.·)])\s?|\s)"

EMAIL = re.compile(
    r"(?:(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}|(?<![가-힣])[가-힣]{2,10}(?=@))"
    r"(?:\s?@\s?|\s?[(\[]at[)\]]\s?)(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}"
)
RESIDENT = re.compile(
    rf"{_BEFORE}\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
    rf"(?:(?:\s?(?:{_DASH}|[/.~])\s?|\s)[1-8][\d*xX●○•■□#]{{6}}|[1-8]\d{{6}}){_AFTER}"
)
CARD = re.compile(
    rf"{_BEFORE}(?:\d{{4}}(?P<gap>\s?(?:{_DASH}|[._/·])\s?|\s)\d{{4}}(?P=gap)\d{{4}}(?P=gap)\d{{4}}"
    rf"|3[47]\d\d(?P<amex>\s?(?:{_DASH}|[._/·])\s?|\s)\d{{6}}(?P=amex)\d{{5}}|[3-69]\d{{15}}|3[47]\d{{13}}){_AFTER}"
)
_MOBILE_GAP = rf"(?:\s?(?:{_DASH}|[~_./*:,·)])\s?|\s)"  # 01x makes a number plain enough for any separator
MOBILE = re.compile(
    rf"{_BEFORE}(?:(?:(?:\+|00)82{_MOBILE_GAP}?|82{_MOBILE_GAP}|82(?=10\d{{8}}))\(?[0Oo]?\)?|\(?(?:0|(?<![A-Za-z])[Oo]))"
    rf"1[0Oo16789]{_MOBILE_GAP}?\d{{3,4}}{_MOBILE_GAP}?\d{{4}}{_AFTER}"
)
_AREA = r"0(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4])"
LANDLINE = re.compile(rf"{_BEFORE}\(?(?:{_AREA}|0(?:70|80|50\d?)){_SEPARATOR}\d{{3,4}}{_SEPARATOR}\d{{4}}{_AFTER}")
BARE_LANDLINE = re.compile(rf"{_BEFORE}\(?{_AREA}{_SEPARATOR}?\d{{7,8}}{_AFTER}")
_DIGIT = "[공영일이삼사오육칠팔구]"
SPOKEN = re.compile(
    rf"[공영]일[공영일육칠팔구]에?[\s-]?(?:{_DIGIT}{{3,4}}에?[\s-]?{_DIGIT}{{4}}(?!{_DIGIT}{{2}})|\d{{3,4}}에?[\s-]?\d{{4}}{_AFTER})"
)
_CALL = re.compile(r"전화|연락|(?<![가-힣])번호")
_PUBLIC = re.compile(r"상담|센터|대표|고객|보건|생명의\s?전화|경찰|문의")

ACCOUNT = re.compile(
    rf"{_BEFORE}(?:(?:\d{{2,6}}(?P<gap>\s?{_DASH}\s?|\s))(?:\d{{2,6}}(?P=gap)){{1,2}}\d{{1,8}}|\d{{11,14}}){_AFTER}"
    r"(?!\s?(?:원|만|천|억|달러|명|개|건))"
)
_BANK = re.compile(r"계좌|입금|송금|이체|예금|은행|뱅크|농협|신협|수협|새마을금고|통장|카뱅|토뱅|케뱅")
# these are words of their own too, so they count only right beside the number
_NAMES = r"국민|우리|하나|기업|카카오|토스|케이|산업|씨티|제일|새마을|우체국|대구|부산|광주"
_LETTERS = r"(?:KB|NH|IBK|SC)(?:국민|기업|제일)?"
_BANK_BEFORE = re.compile(rf"(?:(?<![가-힣])(?:{_NAMES}|신한)|(?<![A-Za-z0-9]){_LETTERS})[\s:(]{{0,2}}$")
_BANK_AFTER = re.compile(rf"\s?\(?(?:신한|{_LETTERS})|\s?\((?:{_NAMES})")
_OTHER_NUMBER = re.compile(
    r"(?:등기|송장|사업자|바코드|(?:대기|주문|접수|예약|승인|거래|일련|조회|인증|상품|등록|회원|학생|고객)\s?번호)(?!.*(?:계좌|통장|은행))"
)

_PROVINCE = (
    "서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|충청북도|충청남도|전북|전남|전라북도|전라남도|경북|경남|"
    "경상북도|경상남도|제주"
)
# every city, county and district by name: "친구", "다시", "장군" end like one
_CITIES = (
    "수원|성남|의정부|안양|부천|광명|평택|동두천|안산|고양|과천|구리|남양주|오산|시흥|군포|의왕|하남|용인|파주|이천|안성|김포|화성|"
    "광주|양주|포천|여주|춘천|원주|강릉|동해|태백|속초|삼척|청주|충주|제천|천안|공주|보령|아산|서산|논산|계룡|당진|전주|군산|익산|"
    "정읍|남원|김제|목포|여수|순천|나주|광양|포항|경주|김천|안동|구미|영주|영천|상주|문경|경산|창원|진주|통영|사천|김해|밀양|거제|"
    "양산|제주|서귀포|세종"
)
_COUNTIES = (
    "가평|양평|연천|홍천|횡성|영월|평창|정선|철원|화천|양구|인제|고성|양양|보은|옥천|영동|증평|진천|괴산|음성|단양|금산|부여|서천|"
    "청양|홍성|예산|태안|완주|진안|무주|장수|임실|순창|고창|부안|담양|곡성|구례|고흥|보성|화순|장흥|강진|해남|영암|무안|함평|영광|"
    "장성|완도|진도|신안|군위|의성|청송|영양|영덕|청도|고령|성주|칠곡|예천|봉화|울진|울릉|의령|함안|창녕|남해|하동|산청|함양|거창|"
    "합천|강화|옹진|달성|기장|울주"
)
_DISTRICTS = (
    "종로|중|용산|성동|광진|동대문|중랑|성북|강북|도봉|노원|은평|서대문|마포|양천|강서|구로|금천|영등포|동작|관악|서초|강남|송파|강동|"
    "서|동|남|북|영도|부산진|동래|해운대|사하|금정|연제|수영|사상|수성|달서|미추홀|연수|남동|부평|계양|제물포|영종|검단|광산|유성|"
    "대덕|장안|권선|팔달|영통|수정|중원|분당|만안|동안|원미|소사|오정|상록|단원|덕양|일산동|일산서|처인|기흥|수지|만세|효행|병점|"
    "동탄|상당|서원|흥덕|청원|동남|서북|완산|덕진|의창|성산|마산합포|마산회원|진해"
)
# the look ahead at the ending spares most of the names
_DISTRICT = (
    rf"(?:(?:(?=[가-힣]{{2,3}}시\s)(?:{_CITIES})시|(?=[가-힣]{{2}}군\s)(?:{_COUNTIES})군|"
    rf"(?=[가-힣]{{1,4}}구\s)(?:{_DISTRICTS})구)\s)"
)
# ordinary words that end like a road or a village, whole ("서울숲길", "청운동", "석정리" are places) or at the end of longer ones
_ORDINARY = re.compile(
    "(?:앞|뒤|위|아래|옆|서|바|따|새|별|홀|실제|도|경|진|피|하루|혼자|대체|주|거|때|차|세|결과|이유|무료|최대|최소|최초)로|"
    "(?:그|제|이|저|법|멋|맘|뜻|말)대로|(?:밤|꽃|숲|눈|빗|뱃|산|하늘|인생|골목)길|"
    "(?:운|활|행|이|노|감|자|수|진|작|출|변|아|충|선|소|협|공|파|격|반|난|부)동|"
    "(?:정|처|관|소|다|머|수|유|우|심|논|저|빨|멀|승|마|무|도|의|비|분|권|금|원|물|대|조|총|꼬|허|항아|동아|목소)리|"
    "[가-힣]{0,6}(?:(?:으|전세|월세|사글세|알바|과외|버스|기차|택시|열차|지하철|전철|비행기|자전거|고속도|유료|시급제|월급제)로|"
    "(?:마음|예정|계획|약속|순서|차례|원래|생각|평소|소원|기대|예상|있는|하는|되는)대로|"
    "(?:올레|둘레|출장|여행|출근|퇴근|귀가|귀갓|귀성|산책|등굣|하굣|가는|오는|지름|갈림)길|(?:활|행|노)동|(?:거|요|자)리)"
)
_ROAD = r"(?P<road>[가-힣]{1,8}\d{0,3}(?:대로|로|길))(?:\s?\d가)?(?:\s?\d{1,4}번?길)?"
_VILLAGE = r"(?P<village>[가-힣]{1,5}\d?(?:동|리))(?:\d가)?(?:\s?산)?"
# what may follow the number of a house, which keeps "7코스", "2그릇", "3가지" out; a counter behind a space ends as a word
_FOLLOW = (
    r"(?![,.:]\d)(?=$|[\s,.!?~…)\]'\"”’(<]|에|으로|로|이[야에라고요\s]|야|요|가\s|은|는|을|를|의|와|과(?!목)|입니다|예요|인데|라고|라는|까지|"
    r"부터|쪽|앞|\0)(?!\s(?:년|개?월|주|일|시간?|분|초|개|명|번|원|살|층|칸|박|코스|호선|회|권|도|등|위|학년|반|인분|그릇|가지|배|대|차|"
    r"만|천|백|억|킬로|키로|미터|km|m|kg|정거장|%|급|등급|점|퍼|프로|퍼센트|잔|병|판|곡|편|마리|출구)"
    r"(?:이나?|은|는|을|를|에|의|도|만|째|쯤|정도|동안|씩|간|원|이?랑|짜리|전|후|출구)?(?![가-힣A-Za-z]))"
)
_NUMBER = rf"(?P<number>\s?\d{{1,4}}(?:-\d{{1,4}})?(?:번지)?(?!\d)){_FOLLOW}"
_ROOM = r"(?P<room>(?:,?\s?[가-힣A-Za-z0-9]{0,12}\s?\d{1,4}동)?(?:\s?\d{1,5}호)?)"
ADDRESS = re.compile(
    rf"(?<![가-힣])(?=[가-힣]{{2}}[가-힣\s]{{1,40}}\d)"
    rf"(?P<province>(?!(?:광주|세종|제주)시\s)(?:{_PROVINCE})(?:특별자치시|특별자치도|특별시|광역시|시|도)?\s)?"
    rf"(?P<district>{_DISTRICT}{{1,2}}(?:(?<=[시군]\s)[가-힣]{{1,5}}[읍면]\s)?)?(?(province)|(?(district)|(?!)))"
    rf"(?=[가-힣]{{2,9}}(?:\s산)?\s?\d)(?:{_ROAD}|{_VILLAGE}){_NUMBER}{_ROOM}"
)
BLOCK = re.compile(rf"(?<![가-힣])[가-힣]{{1,5}}[로동]\s?[1-9]가{_NUMBER}{_ROOM}")
UNIT = re.compile(r"(?<!\d)\d{1,4}동\s?\d{3,5}호")


def _luhn(digits: str) -> bool:
    """Check digit of ISO/IEC 7812-1."""
    doubled = [int(d) if i % 2 else sum(divmod(int(d) * 2, 10)) for i, d in enumerate(digits[::-1], start=1)]
    return sum(doubled) % 10 == 0


def _barcode(digits: str) -> bool:
    """A Korean article number or an ISBN with its check digit (EAN-13)."""
    return digits[:3] in ("880", "978", "979") and sum(int(d) * (3 if i % 2 else 1) for i, d in enumerate(digits)) % 10 == 0


def _beside(match: re.Match[str], width: int) -> tuple[str, str]:
    """The `width` characters before and after what was found."""
    return match.string[max(0, match.start() - width) : match.start()], match.string[match.end() : match.end() + width]


def _is_public(match: re.Match[str]) -> bool:
    return any(_PUBLIC.search(part) for part in _beside(match, 20))


# Each check answers with the placeholder, with None (this is something else; later patterns may look at it), or with ""
# (known, but public: it stays, and no later pattern may take it).


def _email(match: re.Match[str]) -> str | None:
    return "" if match.group().endswith((".go.kr", ".or.kr")) and _is_public(match) else "<이메일>"


def _resident(match: re.Match[str]) -> str | None:
    return "" if match.group().isdigit() and _barcode(match.group()) else "<주민등록번호>"


def _card(match: re.Match[str]) -> str | None:
    groups = re.findall(r"\d+", match.group())
    digits = "".join(groups)
    if len(groups) == 4:
        if all(re.match(r"1\d|20", group) or int(group) % 50 == 0 for group in groups):
            return None  # years or round sums in a row
        if match["gap"].strip() or digits[0] in "34569" or 2221 <= int(groups[0]) <= 2720:
            return "<카드번호>"
    return "<카드번호>" if _luhn(digits) or len(groups) == 3 else None


def _landline(match: re.Match[str]) -> str | None:
    return "" if match.group().lstrip("(").startswith("080") or _is_public(match) else "<전화번호>"


def _bare_landline(match: re.Match[str]) -> str | None:
    before, _ = _beside(match, 12)
    return _landline(match) if _CALL.search(before) and not _OTHER_NUMBER.search(before) else None


def _lot(match: re.Match[str]) -> str | None:
    """Behind a village, one or two digits and a word may be a count ("신림동 10 평", "종로3가 7, 8번 출구")."""
    small = re.fullmatch(r"\s?\d{1,2}", match["number"]) and not match["room"]
    return None if small and re.match(r"\s(?!에|으로|로)[가-힣]|,\s?\d", _beside(match, 3)[1]) else "<주소>"


def _address(match: re.Match[str]) -> str | None:
    """Behind a province alone, "…로 50" may be the particle and "…동 3" any noun, so more has to be there."""
    road = match["road"] or ""
    if _ORDINARY.fullmatch(road or match["village"]):
        return None
    if "-" in match["number"] or "번지" in match["number"] or match["room"]:
        return "<주소>"
    if match["district"]:
        return "<주소>" if road else _lot(match)
    if not road.endswith("로") or road.endswith("대로"):
        return "<주소>" if road else None
    # behind a final consonant other than ㄹ the particle is 으로: "테헤란로" can only be a name
    return None if not road[-2].isdigit() and (ord(road[-2]) - 0xAC00) % 28 in (0, 8) else "<주소>"


def _account(match: re.Match[str]) -> str | None:
    groups = re.findall(r"\d+", match.group())
    if not 10 <= sum(map(len, groups)) <= 14:
        return None
    if re.match(r"(?:19|20)\d\d(?:$|(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))", groups[0]):
        return None  # a year or a date
    before, after = _beside(match, 15)
    beside = bool(_BANK_BEFORE.search(before) or _BANK_AFTER.match(after))
    near = beside or _BANK.search(before) or _BANK.search(after)
    if match["gap"] and not match["gap"].strip() and max(map(len, groups)) < 5 and len(groups[-1]) > 2:
        return None  # small numbers with spaces between them
    return "<계좌번호>" if near and not _OTHER_NUMBER.search(before) else None


_WORTH_A_LOOK = re.compile(r"\d{3}|\d-|[@＠]|[(\[（]at|[공영]일[공영일육칠팔구]|\d동|[로길동리가]\s?\d")
_STEPS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str | None]], ...] = (
    (EMAIL, _email),
    (RESIDENT, _resident),
    (CARD, _card),
    (MOBILE, "<전화번호>"),
    (LANDLINE, _landline),
    (BARE_LANDLINE, _bare_landline),
    (SPOKEN, "<전화번호>"),
    (ADDRESS, _address),
    (BLOCK, _lot),
    (UNIT, "<주소>"),
    (ACCOUNT, _account),
)


def spans(text: str) -> list[tuple[int, int, str]]:
    """Where personal data stands in `text`, in order: start, end and placeholder."""
    if not _WORTH_A_LOOK.search(text):
        return []
    found: list[tuple[int, int, str]] = []
    text = text.translate(_WIDE)
    for pattern, decide in _STEPS:
        pieces, done = [], 0
        for match in pattern.finditer(text):
            placeholder = decide if isinstance(decide, str) else decide(match)
            if placeholder is not None:
                found.append((*match.span(), placeholder))
                pieces += [text[done : match.start()], "\0" * len(match.group())]
                done = match.end()
        if pieces:
            text = "".join((*pieces, text[done:]))
    return sorted(span for span in found if span[2])


def mask_personal(text: str) -> str:
    """`text` with personal data replaced by <주민등록번호>, <전화번호>, <이메일>, <카드번호>, <계좌번호> and <주소>."""
    pieces, done = [], 0
    for start, end, placeholder in spans(text):
        pieces += [text[done:start], placeholder]
        done = end
    return "".join((*pieces, text[done:]))
