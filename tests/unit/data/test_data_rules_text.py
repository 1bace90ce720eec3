"""Damaged text is found, and clean text of many kinds and languages is not."""

from __future__ import annotations

import pytest
from rule_examples import found, only, row, turns

# Written by hand: everyday text, and what looks damaged but is not.
CLEAN = {
    "English": "The “quick” brown fox — it’s 5° outside… costs £5 or 3 ½ €, no more.",
    "Chinese": "你好，世界！“今天天气”——不错……他说：《红楼梦》很好看；价格是￥35.8元（含税）。",
    "traditional Chinese": "臺灣的鐵路與銀行，對於學習語言的人來說很重要。"
    "涮羊肉、溴化銀、涓涓細流。",
    "Japanese": "これは日本語の文章です。「カタカナ」も使います。ヴァイオリン",
    "Korean": "안녕하세요, 세계! 오늘은 날씨가 좋네요.",
    "German": "Größe, Füße, Ärger und Öl: „Weiß ich nicht“, sagte sie – für 3 €. Straße §5 Abs. 2",
    "French": "« L’été dernier, à Noël », dit-elle, « j’ai créé un cœur – où ? ÇA VA ? » Nº 5 n° 7",
    "Spanish": "¿Qué pasó mañana? ¡Ñandú! El 1º y la 2ª están aquí.",
    "Portuguese": "A manhã não é só ação: NÃO, MÃE, CÂMARA, À VISTA, avó e avô.",
    "Russian": "Привет, мир! Её ёлка — «зелёная» № 5. В Санкт-Петербурге 3 °С…",
    "Ukrainian": "Її ґанок і Європа: «з’їзд» — це Ґудзики.",
    "Greek": "Καλημέρα κόσμε! «Ελλάδα», Ω Άνοιξη· ΐ ΰ — 5 €.",
    "Arabic": "مرحبا بالعالم، كيف حالك؟ ١٢٣",
    "Hebrew": "שלום עולם, מה שלומך?",
    "Vietnamese": "Tiếng Việt có nhiều dấu: ơ, ư, ạ, ễ, ộ, ừ. Đà Nẵng",
    "Turkish": "İstanbul’da ığdır, şeker, ÇOĞU ÜÇ ŞİŞE.",
    "Czech": "Příliš žluťoučký kůň úpěl ďábelské ódy. „Ňaf“ – ŘÍŠE",
    "Polish": "Zażółć gęślą jaźń. „Łódź” – ŻÓŁĆ",
    "Swedish": "Å i åa ä e ö. Ångström Å = 0,1 nm; SMÖRGÅSBORD “ÅÄÖ”",
    "emoji": "👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ (╯°□°)╯︵ ┻━┻ ಠ_ಠ ʕ•ᴥ•ʔ ¯\\_(ツ)_/¯",
    "LaTeX": r"\frac{∂f}{∂x} ≤ ∑_{i=1}^n α_i² ± ½, ¬p ∧ ¬¬q ⇒ ∀x∈ℝ: |x|² ≥ 0, "
    r"∫₀^∞ e^{−x²}dx = √π/2 ≈ 0.886",
    "footnotes": "see Smith†‡ and Jones§¶ ¹² ®™ ©2020",
    "phonetics": "/ˈkœ̃ʁ/ [œ] ‘ð’ /æ/ /ˌɪntəˈnæʃənəl/ “Œ”",
    "code": 'if (a < b && c >> 2) { s = "naïve £"; } // → ok │├─ └──',
    "table": "┌──┬──┐\n│ä │ é│\n╞══╡\n█▓▒░",
    "units": "20 °C ± 0,5 µm × 3 m² ÷ 2 · 5 ‰ — Ø 12 mm",
    "classes": "[àâäéèêëïîôöùûüÿçÀÂÄÉÈÊËÏÎÔÖÙÛÜŸÇ] and ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß",
}


@pytest.mark.parametrize("text", CLEAN.values(), ids=CLEAN.keys())
@pytest.mark.parametrize("rule", ["mojibake", "control_characters", "replacement_characters"])
def test_clean_text_is_not_damaged(rule: str, text: str) -> None:
    assert found(rule, text) is None


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp437", "mac-roman"])
def test_utf8_that_was_read_by_single_bytes_is_mojibake(encoding: str) -> None:
    garbled = "Un café crème, très bien à côté".encode().decode(encoding, "ignore")
    reason = found("mojibake", f"Yes.\n{garbled}\nNo.")
    assert reason is not None
    assert "holds text read in a wrong encoding" in reason
    assert "café" in reason


@pytest.mark.parametrize(
    ("garbled", "at", "meant"),
    [
        ("It costs 5 â‚¬.", 11, "€."),
        ("donâ€™t", 0, "don"),
        ("â€œYesâ€\x9d", 0, "Yes"),
        ("GrÃ¶ÃŸe", 0, "Größe"),
        ("РџСЂРёРІРµС‚, РјРёСЂ", 0, "Привет"),
        ("ä½\xa0å¥½ä¸–ç•Œ", 0, "你好世界"),
        ("Seite 1.\n浣犲ソ锛屼笘鐣岋紒", 9, "你好"),
        ("他说：锟斤拷锟斤拷", 3, "锟斤拷"),
        ("µÄÊÇ²»ÁË£¬ÄãºÃ¡£", 0, "的是不了"),
    ],
)
def test_mojibake_is_named_with_its_place_and_what_it_was(
    garbled: str, at: int, meant: str
) -> None:
    reason = found("mojibake", garbled)
    assert reason is not None
    assert f"at character {at}. " in reason
    assert meant in reason
    assert reason.endswith("(data.encoding).")


def test_mojibake_in_one_line_of_a_clean_text_is_found() -> None:
    lines = [*CLEAN.values()]
    reason = found("mojibake", "\n".join([*lines, "naÃ¯ve", *lines]))
    assert reason is not None
    assert f"at character {sum(len(line) + 1 for line in lines)}. " in reason


# --- loops ---------------------------------------------------------------------------------------

WORDS = " ".join(f"word{n}" for n in range(200))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("I am sorry, " * 20, "a loop ('I am sorry, I' stands there 19 times) at character 0"),
        ("我不知道。" * 20, "a loop ('我不知道' stands there 20 times) at character 0"),
        ("“No!” " * 50, "a loop"),
        (f"{WORDS} {'and so on ' * 60}", f"at character {len(WORDS) + 1}"),
        ("哈" * 60, "a loop ('哈哈哈哈' stands there 57 times)"),
        (f"Well, {'ha' * 60}!", "one word of 120 characters"),
        ("yes " * 40, "a loop ('yes yes yes yes' stands there 37 times)"),
    ],
)
def test_an_answer_in_a_loop_is_named_with_what_it_repeats(answer: str, said: str) -> None:
    reason = found("repetition", answer)
    assert reason is not None
    assert said in reason


@pytest.mark.parametrize(
    "answer",
    [
        "yes " * 39,  # too short to tell
        WORDS,
        "\n".join(f"{n} times 7 is {7 * n}" for n in range(40)),
        "ACGT" * 50,  # a word of few letters, but more than a laugh has
        "The cat sat on the mat. The dog sat on the mat. The cow sat in the barn and slept.",
        "| name | age |\n|---|---|\n" + "\n".join(f"| n{i} | {i} |" for i in range(40)),
        "for i in range(10):\n    print(i)\n" * 3,
    ],
)
def test_an_answer_that_says_new_things_is_no_loop(answer: str) -> None:
    assert found("repetition", answer) is None


LOOP = "I am sorry, " * 20


@pytest.mark.parametrize(
    "kept",
    [
        row(f"u:{LOOP}", "a:x"),
        row("u:q", f"a:{LOOP}", label=False),
        row("u:q", "a:x", rejected=turns(f"a:{LOOP}")),
        row(text=LOOP),
    ],
)
def test_only_answers_to_imitate_are_looked_at_for_loops(kept: object) -> None:
    assert only("repetition").judge(kept).error is None  # type: ignore[arg-type]
