"""What is masked in offers' text, and what is not, though it is full of digits."""

import random
import re
import time

import pytest
from conftest import HOSTILE

from extractor import Failure, LabelledOffer, ProductOffer
from extractor.extract import OwnOffer
from extractor.pii import ASKED, LOOKED_AT, MASK, mask, masked
from extractor.records import FailureDetail

# What stands between « and » is masked, all else stays.
MASKED = [
    "Velmora boots EU 42, mail «ann@velmora.example» today",
    "«ann.o'neil+shoes@mail.velmora.co.uk».",
    "(«ann_1@velmora-shop.de»)",
    "«ANN@VELMORA.COM»/«bob@velmora.com»",
    "write to «ann (at) velmora.com» or «bob[at]velmora[dot]com»",
    "邮箱：«ann@velmora.cn»，红色",
    "«jörg@müller.example» Größe 42",
    "«ann＠velmora．com»",
    "mailto:«ann@velmora.com»?subject=42",
    "«ann@velmora.com»\n42",
    "call «+49 30 23125 123»",
    "«+493023125123» EU 42",
    "«+49 (0)30 23125-123», 10 x 20 x 30",
    "Loafer «+1 (212) 555-0123» tan",
    "«+1-212-555-0123»",
    "«+44 20 7946 0018»",
    "WhatsApp: «+86 138 0013 8000»",
    "«+91 98765 43210» 5 pcs",
    "«＋４９ ３０ ２３１２５ １２３» Leder",
    "«0049 30 23125 123»",
    "«00 44 20 7946 0018»",
    "Tel. «030 23125 123»",
    "Tel.:«030/23125-123» 2 Stk",
    "tel «5550123456»",
    "Telefon Nr. «0171 3920012»",
    "Call «555 012 3456» now",
    "call us: «(555) 012-3456»",
    "call me at the shop, WhatsApp «98765 43210»",
    "whats app no. «9876543210»",
    "hotline «0800 1234567»",
    "SMS «07700900123»",
    "Mobile: «9876543210»",
    "mobile no: «98765-43210»",
    "Fax: «030 23125 124»",
    "phone «0301234567» black",
    "contact «09876543210»",
    "电话«021-55501234»",
    "手机«13800138000»，红色",
    "微信：«13800138000»",
    "致电 «400 820 8820»",
    "«(212) 555-0123»",
    "«212-555-0123»",
    "«212.555.0123».Letter size",
    "Tan «1-212-555-0123» EU 42",
    "Leder «(030) 23125 123»",
    "«0171/3920012»",
    "«07400 123456» wool",
    "«020 7946 0018»",
    "«06 82 34 56 12» cuir",
    "«06.82.34.56.12»",
    "card «4111 1111 1111 1111»",
    "«4111111111111111»",
    "«4111-1111-1111-1111» exp 12/27",
    "«5555 5555 5555 4444», «2223 0031 2200 3222»",
    "«3782 822463 10005»",
    "«378282246310005»",
    "«6011 1111 1111 1117»",
    "«3530 1113 3330 0000»",
    "«3056 930902 5904»",
    "«6200 0000 0000 0005» UnionPay «6205500000000000004»",
    "Visa:«４１１１ １１１１ １１１１ １１１１»",
    "卡号«4111111111111111»元",
    "Call «+49 30 1234567» in Berlin",
    "Tel. «030 1234567» in Berlin",
    "call «+1 212 555 0123» in NYC",
    "Phone: «212 555 0123» in NYC",
    "WhatsApp «+8613812345678» in stock",
    "Call «0301234567»\nIn stock",
    "Mob «0171 1234567» W. Mueller",
    "Tel «030 1234567» x 12, «+44 7911 123456» x12",
    "Tel: «0301234567»,«0307654321», «0171 3920012»; 4006381333931",
    "电话：«13812345678»，«13912345678»",
    "電話 «0912345678»",
    "mail «john@example.com»_now, «john@example.com»2",
    "«john@example.com»联系我们获取更多产品信息以及批发价格优惠请尽快下单谢谢惠顾",
    "«ann@müller.köln»",
    "Pan, call «030 23125 123» 12 in x 10 in",
    "Tel «030 23125 123» 12 x 20, 100 g, 20000 mAh",
    "Lamp «+49 30 23125 123» 60 W",
]
KEPT = [
    *["GTIN 4006381333931", "EAN: 4006381333931", "4006381333931", "UPC: 885170049741", "885170049741"],
    *["ISBN 978-3-16-148410-0", "ISBN 9787511877949", "GTIN-14 14006381333938", "40063813", "ASIN B003ZW9SFS"],
    *["SSCC 340123450000000018", "IMEI 356938035643809", "10 x 20 x 30", "10x20x30 cm", "60 x 13 1/4 46 1/4"],
    *['27" 2560x1440 144 Hz', "1000 x 2000 x 3000 mm", "195/65 R15 91H", "M8 x 100", "EU 36 37 38 39 40 41 42"],
    *["02 04 06 08 10", "02 04 06 08 10 12 14", "04.06.08.10.12", "XS-4XL 34-52", "110 116 122 128 134 140"],
    *["2004 2005 2006 2007 2008", "2001-2004 2005-2008", "1993-1998 1994 1995 1996", "26.11.2026", "2026-11-26"],
    *["26/11/2026 12:30:00", "$1,299.00", "1.299,00 €", "1 299 000 руб", "12 345 678.90", "-20%", "+1000 bonus"],
    *["3+1 free", "2+1+1000000", "274402-001 + 260741-001", "418399-001-2Pack", "512245-010-112"],
    *["36531-PLR-003 234-9017", "90980-11858", "653657-378 (10.5)", "0 986 424 797", "0445 110 376", "0445110376"],
    *["002.638.50", "LCH101 67003526", "11157646086 11157646087", "1005003123456789", "01.02.03.04.05"],
    *["0123456789", "9876543210", "13800138000", "part 212-055-0123", "192.168.100.100", "v1.2.3.4567.8901"],
    *["iPhone 15 128 256 512", "Phone 6 7 8 128 256", "mobile phone 2018 2019 2020", "cell 18650 3000mAh"],
    *["Battery cell: 18650 3000 mAh", "Fax 2820 2920 toner", "Call of Duty 2003 2007 2019", "Telephone 1930 style"],
    *["tel 42", "Handy 10 20 30", "contact lens 1234567", "Guitar @2", "f@1.8 50mm", "12V@2.5A", "1080p@60fps 4K"],
    *["@velmora", "red @ home", "look at 5.5 cm", "ann@velmora", "a@b.1", "4111 1111 1111 1112"],
    *["4111111111111112", "1234 5678 9012 3452", "8888888888888888", "3056930902590", "4111 1111 11111111"],
    *["USB 3.0 +5000 10000 20000 mAh", "0.000.000.000.000", "00000000000000", "100/200/500/1000/2000"],
    *["SN 0049301234567", "• 5 • 6", "12 in x 10 in x 8 in", "12 in skillet", "27 in 2560x1440", "1000 2000 3000 m"],
    *["call 1 299 000,50", "+1 000 000,50", "SN 0301234567,0307654321", "Tel 42, 0301234567", "logo@2x", "5V@1.2A_x"],
    *["sms 1000x2000x3000", "call 100 200 300 cm", "+5000 10000 60 W"],
]  # fmt: skip


def test_there_are_enough_cases_of_both_kinds():
    assert len(MASKED) >= 40 and len(set(KEPT)) == len(KEPT) >= 60


@pytest.mark.parametrize("marked", MASKED)
def test_personal_data_is_masked_and_its_neighbours_stay(marked):
    text = re.sub("[«»]", "", marked)
    wanted = re.sub("«(.*?)»", lambda found: re.sub(r"\S", MASK, found[1]), marked)
    assert mask(text) == wanted
    assert mask(wanted) == wanted and len(wanted) == len(text)


@pytest.mark.parametrize("text", KEPT)
def test_what_offers_say_in_digits_survives(text):
    assert mask(text) == text
    assert mask(f"Velmora {text} Red") == f"Velmora {text} Red"


def test_offsets_hold_in_whatever_sellers_write():
    rng = random.Random(3)
    for offer in HOSTILE:
        at = rng.randrange(len(offer.title) + 1)
        text = f"{offer.title[:at]} ann@velmora.com {offer.title[at:]}"
        shown = mask(text)
        assert len(shown) == len(text) and "ann@velmora" not in shown and mask(shown) == shown
        assert all(b == MASK or a == b for a, b in zip(text, shown, strict=True))


def test_masking_takes_time_by_length_alone():
    for run in (
        "1",
        "1 ",
        "+1",
        "+49 ",
        "a@",
        "a.",
        "a@a.",
        "(at)",
        "tel ",
        "tel 1",
        "4111 ",
        "0",
        "00 ",
        "(0",
        "a (",
        "01 ",
        "电话",
        "x@x (dot) ",
    ):
        started = time.perf_counter()
        mask(run * (40_000 // len(run)))
        assert time.perf_counter() - started < 3, run


def test_a_request_full_of_numbers_takes_seconds():
    runs = (
        "+49301234567 ",
        "+49 (0)30 23125-123, ",
        "(212) 555-0123 ",
        "06 82 34 56 12 ",
        "4111 1111 1111 1111 ",
        "a@b.co ",
    )
    mask(runs[0])  # libphonenumber has its tables now
    for run in (*runs, "tel 5550123456 ", "1", "a" * 99 + "@"):
        started = time.perf_counter()
        assert not re.search(r"[\da-z]", mask(run * ((8 << 20) // len(run)))[-999:])
        assert time.perf_counter() - started < 5, run
    started = time.perf_counter()
    for n in range(100):  # a tenth of a request
        mask(f"+49 30 231{n:04} " * 512)
    assert time.perf_counter() - started < 2


def test_beyond_the_numbers_that_are_asked_about_all_are_masked():
    real, none = "+49 30 23125 123", "0123/45678901, +999 1234567"
    assert mask(none) == none
    assert mask("SN 0049301234567, " * 99) == "SN 0049301234567, " * 99
    text = f"{real}, " * ASKED + f"{none}, 02 04 06 08 10, EU 42"
    assert re.findall(r"[^•,\s]+", mask(text)) == ["02", "04", "06", "08", "10", "EU", "42"]


@pytest.mark.parametrize("secret", ["+49 30 23125 123", "ann@velmora.com", "4111 1111 1111 1111"])
def test_what_is_beyond_all_offers_is_masked_altogether(secret):
    for before in range(LOOKED_AT - 20, LOOKED_AT + 1, 5):
        shown = mask(f"{'red ' * LOOKED_AT}"[:before] + f" {secret} tan")
        assert shown[:before] == f"{'red ' * LOOKED_AT}"[:before] and not re.search(r"[^•\s]", shown[LOOKED_AT:])
        assert set(shown[before : before + len(secret) + 1]) <= set("• ")


def test_an_offer_is_masked_whatever_it_is():
    text, shown = "Boot ann@velmora.com", "Boot " + MASK * 15
    plain = ProductOffer(id="ann@velmora.com", title="Boot", category="Shoes")
    assert masked(plain) is plain
    assert masked(ProductOffer(id="ann@velmora.com", title=text, description=text, category=text)) == ProductOffer(
        id="ann@velmora.com", title=shown, description=shown, category=shown
    )
    for kind, more in ((OwnOffer, {"asked_by": None}), (LabelledOffer, {"attributes": {}})):
        offer = kind.model_construct(id="1", title=text, description=None, category=None, **more)
        assert type(masked(offer)) is kind and masked(offer).title == shown
    failure = Failure(offer_id="1", title=text, failure=FailureDetail(reason="duplicate_id", message="line 2"))
    assert masked(failure).title == shown
