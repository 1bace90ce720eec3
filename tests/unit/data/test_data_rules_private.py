"""Addresses, numbers and secrets are found where they are real, and never printed in full."""

from __future__ import annotations

import pytest
from rule_examples import found

from ytrainer_core.data.rules.identity import luhn_fits, resident_check_fits
from ytrainer_core.data.rules.secret import entropy

# The keys below open nothing; they stand in two pieces so that no scanner takes them for real.
RANDOM = "q7Zt2LmX9vBn4KsWd8RfHy3PcJ6GuTa5Ee1N"  # 36 different characters

URLS = {
    "https://shop.de/a?b=1": "shop.de",
    "see http://www.shop.co.uk.": "www.shop.co.uk",
    "at www.shop.de, or": "www.shop.de",
    "见https://shop.cn/路径。": "shop.cn",
    "[a](https://docs.python.org/3/)": "docs.python.org",
}
NO_URLS = [
    "https://example.com/a",
    "http://www.example.org",
    "https://api.example/v1",
    "http://localhost:8000 and http://127.0.0.1/x",
    "http://service.test",
    '<svg xmlns="http://www.w3.org/2000/svg">',
    "http://schemas.android.com/apk/res",
    "a protocol :// and www. alone; https://",
    "version 3.11, e.g. this, or node.js",
]
EMAILS = {
    "jo@shop.de": "'jo@s…'",
    "(John.Doe+x@mail.shop.co.uk)": "'John…'",
    "邮箱：lihua@shop.cn。": "'lihu…'",
}
NO_EMAILS = [
    "john@example.com, a@mail.example.org, b@service.test, c@localhost",
    "git@github.com:user/repo.git",
    "npm install left-pad@1.2.3",
    "@app.route('/') and a @ b, x@y",
    "icon@2x",
    "user@host",
]
PHONES = [
    "+49 30 901820",
    "+4930901820123",
    "+86 138 1234 5678",
    "+1 (780) 800-7092",
    "+44 20 7946 0958",
    "call 780-800-7092 now",
    "(780) 800-7092",
    "1-780-800-7092",
    "780.800.7092",
    "手机13812345678。",
    "138-1234-5678",
    "010-62345678",
    "0755-8234567",
    "Tel.: 030 / 12345678",
    "电话：6234 5678",
    "手机号码 6234 5678",
    "phone number: 5512345",
]
NO_PHONES = [
    "80,000+50,000=130,000 and 12+1234567890",
    "2019-2020 and 2020-01-31 12:30:45",
    "1,234,567,890 and 13800000000 people",
    "13812345678.5 and $13812345678",
    "900-200-5000 = -4300",
    "ISBN 978-3-16-148410-0",
    "192.168.100.1000",
    "550e8400-e29b-41d4-a716-446655440000",
    "555-555-0123 and (212) 555-1234",
    "1700000000000 ms",
    "the phone cost 1000 dollars in 2019",
    "3.141592653589793",
    "x = +12345678",
    "手机价格2000 3000 4000",
    "phones: 1000 2000 3000",
    "order 20230115123456",
    "1 2 3 4 5 6 7 8 9 10 11 12",
    "a1381234567890b",
]
# 11010519491231002X is the example of GB 11643-1999. The second: digits times weights are
# 21 + 9 + 0 + 5 + 0 + 12 + 2 + 9 + 54 + 0 + 0 + 9 + 0 + 5 + 0 + 0 + 2 = 128, 128 mod 11 = 7 -> '5'.
RESIDENTS = ["11010519491231002X", "11010519491231002x", "310103199001010015"]
CARDS = ["378282246310005", "4539 1488 0343 6467", "6011-1111-1111-1117"[:4] + "-0009-9013-9424"]
NO_NUMBERS = [
    "110105194912310021",  # the check character is X
    "990105194912310021",
    "4539 1488 0343 6468",
    "4111 1111 1111 1111",  # to try things out with
    "0.4539148803436467",
    "1234567890123456",
    "a378282246310005",
    "378,282,246,310,005",
    "20240131123045000",
]
SECRETS = {
    "AKIA" + "Q3EGRIHNC7BPLZTW": "AWS access key",
    "-----BEGIN RSA PRIVATE" + " KEY-----\n" + RANDOM + RANDOM: "private key",
    "-----BEGIN OPENSSH PRIVATE" + " KEY-----\\n" + RANDOM + RANDOM: "private key",
    "gh" + "p_" + RANDOM: "GitHub token",
    "github_" + "pat_" + RANDOM + RANDOM: "GitHub token",
    "glp" + "at-" + RANDOM[:20]: "GitLab token",
    "xo" + "xb-123456789012-" + RANDOM: "Slack token",
    "AI" + "za" + RANDOM[:35]: "Google API key",
    "sk" + "-proj-" + RANDOM: "API key",
    "sk" + "-" + RANDOM + RANDOM[:12]: "API key",
    "hf" + "_" + "QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi": "Hugging Face token",
    "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiI5OTcifQ.c2lnbmF0dXJlMQ": "JSON Web Token",
    "password = 'u8#Kq2!vLp'": "password or key",
    'DB_PASSWORD: "tR7$mmQ2xZ"': "password or key",
    "api_key=" + RANDOM: "password or key",
    "密码：u8#Kq2!vLp": "password or key",
}
NO_SECRETS = [
    "AKIAIOSFODNN7EXAMPLE",
    "A key begins with -----BEGIN RSA PRIVATE" + " KEY----- and ends with a line of its own.",
    "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    "sk-your-api-key-goes-here-please",
    "task-oriented, risk-sensitive-decision-making-process-1",
    "password = 'password123'",
    "password = 'your_password'",
    "password = getpass.getpass()",
    "password = os.environ['DB_PASSWORD']",
    "password: at least 8 characters, with 1 digit",
    "password=********",
    "API_KEY=${API_KEY}",
    "token = tokenizer.next_token(i1)",
    "the token: <|endoftext|>",
    "secret = 'the quick brown fox'",
    "Password: Summer vacation",
]


@pytest.mark.parametrize(("text", "host"), URLS.items())
def test_a_web_address_is_found(text: str, host: str) -> None:
    assert f"the web address of '{host}'" in (found("url", text) or "")


@pytest.mark.parametrize("text", NO_URLS)
def test_a_reserved_or_own_address_is_no_web_address(text: str) -> None:
    assert found("url", text) is None


@pytest.mark.parametrize(("text", "shown"), EMAILS.items())
def test_an_email_address_is_found(text: str, shown: str) -> None:
    assert f"the e-mail address {shown}" in (found("email", text) or "")


@pytest.mark.parametrize("text", NO_EMAILS)
def test_what_only_has_an_at_sign_is_no_email_address(text: str) -> None:
    assert found("email", text) is None


@pytest.mark.parametrize("text", PHONES)
def test_a_phone_number_is_found(text: str) -> None:
    assert "the phone number '" in (found("phone", text) or "")


@pytest.mark.parametrize("text", NO_PHONES)
def test_another_number_is_no_phone_number(text: str) -> None:
    assert found("phone", text) is None


@pytest.mark.parametrize("text", RESIDENTS)
def test_a_resident_number_with_its_check_character_is_found(text: str) -> None:
    assert "the resident identity number" in (found("id_number", f"身份证号{text}。") or "")


@pytest.mark.parametrize("text", CARDS)
def test_a_payment_card_with_its_check_digit_is_found(text: str) -> None:
    assert "the payment card number" in (found("id_number", f"Card {text}, please") or "")


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_a_number_without_its_check_digit_is_nobodys(text: str) -> None:
    assert found("id_number", text) is None


def test_check_digits_are_those_of_their_standards() -> None:
    # 7+9+0+5+0+20+2+9+24+27+7+18+30+5+0+0+4 = 167, 167 mod 11 = 2 -> 'X'
    assert resident_check_fits("11010519491231002X")
    # from the right, every second doubled: 4+7+6+9+0+2+... of 79927398713 is 70
    assert luhn_fits("79927398713")
    assert not luhn_fits("79927398710")


@pytest.mark.parametrize(("text", "kind"), SECRETS.items(), ids=range(len(SECRETS)))
def test_a_secret_is_found_and_only_its_first_four_characters_are_shown(
    text: str, kind: str
) -> None:
    reason = found("secret", f"Use {text} here") or ""
    assert f"what looks like a {kind}" in reason
    shown = reason.split("'")[1]
    assert len(shown) == 5
    assert shown.endswith("…")
    assert shown[:4] in text


@pytest.mark.parametrize("text", NO_SECRETS)
def test_a_placeholder_or_a_word_is_no_secret(text: str) -> None:
    assert found("secret", f"Use {text} here") is None


def test_entropy_is_in_bits_per_character() -> None:
    assert entropy("aaaa") == 0
    assert entropy("abcdabcd") == 2
    assert entropy("") == 0


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("email", "Write: jo@shop.de"),
        ("phone", "Phone: 780-800-7092"),
        ("id_number", "Karte: 378282246310005"),
        ("secret", "Token: AKIA" + "Q3EGRIHNC7BPLZTW"),
        ("url", "Visit: https://shop.de"),
    ],
)
def test_the_reason_names_turn_character_and_remedy(rule: str, text: str) -> None:
    reason = found(rule, text) or ""
    assert reason.startswith("turn 2 (assistant) holds ")
    assert f" at character {text.index(': ') + 2}. " in reason
    assert reason.endswith(".")
