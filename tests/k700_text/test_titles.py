from __future__ import annotations

import csv
import html
import json
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from k700_text.titles import (
    KEEP_HALVES,
    MAX_TITLE_LENGTH,
    clean_plain_title,
    clean_title,
    is_junk_title,
    join_halves,
)

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  How to   fold\ta\nshirt ", "How to fold a shirt"),
        ("Tom &amp; Jerry &lt;3 &#39;live&#39;", "Tom & Jerry <3 'live'"),
        (
            "AT&amp;amp;T Fish&parasailing Q&ampA &copy2 &notit; &#x41",
            "AT&amp;T Fish&parasailing Q&ampA &copy2 &notit; &#x41",
        ),
        (f"&#{'9' * 400};", f"&#{'9' * 400};"),
        ("cafe\u0301", "caf\u00e9"),
        ("a\u00a0b\u3000c\u2028d", "a b c d"),
        ("bell\x07 and\x00null", "bell and null"),
        ("zero\u200bwidth\ufeff\u2060\u00ad", "zerowidth"),
        ("\u202eevil\u202c \u2066x\u2069", "evil x"),
        (f"family {FAMILY}!", f"family {FAMILY}!"),
        (f"flag {ENGLAND}", f"flag {ENGLAND}"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("क्\u200dष", "क्\u200dष"),
        ("a\u200db \u200d c\u200d", "ab c"),
        ("heart \u2764\ufe0f", "heart \u2764\ufe0f"),
        ("lone \ud83d surrogate", "lone surrogate"),
        ("non\ufdd0char\uffff", "nonchar"),
        ("=SUM(A1)", "=SUM(A1)"),
    ],
)
def test_cleans(raw: str, cleaned: str) -> None:
    assert clean_title(raw) == cleaned


@pytest.mark.parametrize(
    "raw", ["", "   ", "\u200b\ufeff", "\x00\x01", "&nbsp;", "x" * (MAX_TITLE_LENGTH + 1), f"&#{'9' * 5000};"]
)
def test_nothing_readable_is_no_title(raw: str) -> None:
    assert clean_title(raw) is None


def test_a_title_above_the_services_limit_is_kept_whole() -> None:
    assert clean_title("ab " * 50) == ("ab " * 50).strip()


@given(st.text(st.characters(), max_size=120))
def test_a_cleaned_title_is_storable_composed_and_stays_as_it_is(raw: str) -> None:
    title = clean_title(raw)
    if title is not None:
        title.encode()
        assert unicodedata.is_normalized("NFC", title)
        assert title == title.strip() and "  " not in title
        assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in title)
        assert clean_plain_title(title) == title


@pytest.mark.parametrize(
    "title",
    ["What is &nbsp; and &lt;br&gt; in HTML", "AT&amp;T &#39;quoted&#39;", "&#55357;&#56832;", "R&copy;D &eacute;"],
)
def test_data_is_taken_at_its_word_and_html_is_decoded_once(title: str) -> None:
    assert clean_plain_title(title) == title
    assert clean_title(html.escape(title)) == title
    assert clean_title(html.escape(html.escape(title))) == html.escape(title)


SMILE = "\U0001f600"


@pytest.mark.parametrize(
    "spelled",
    [SMILE, "\ud83d\ude00", "&#55357;&#56832;", "&#xD83D;&#xDE00;", "&#x1F600;", "&#128512;", "\ud83d&#xDE00;"],
)
def test_two_utf_16_halves_are_one_character(spelled: str) -> None:
    assert clean_title(f"a {spelled} b") == f"a {SMILE} b"


def test_utf_16_halves_are_read_from_bytes_too() -> None:
    halves = "".join(("\ud55c ", "\ud83d", "\ude00", " b")).encode("utf-8", "surrogatepass")
    with pytest.raises(UnicodeDecodeError):
        halves.decode()
    assert join_halves(halves.decode("utf-8", KEEP_HALVES)) == f"\ud55c {SMILE} b"
    for damaged in (b"a \xed\x28 b", b"a \xff b", b"a \xed\xa0"):
        assert damaged.decode("utf-8", KEEP_HALVES) == damaged.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "sign", ["\u0600", "\u06dd", "\u070f", "\u0890", "\u08e2", "\U000110bd", "\ue000", "\u20dd", "\U000f0000"]
)
def test_signs_that_are_seen_stay_of_whatever_category(sign: str) -> None:
    assert clean_plain_title(f"{sign}12") == f"{sign}12"


@pytest.mark.parametrize(
    "unseen",
    [
        *("\u3164", "\uffa0", "\u115f\u1160", "\u2800 \u2800", "\u034f", "\ufe0f", "\u180e", "\u2063", "\u17b4"),
        *("\U000e0101", "\U000e0041\U000e0042", "\U0001d173", "\ufff9", "\u061c \u200e", "\u3000\u3164\u200b"),
    ],
)
def test_what_nobody_sees_is_no_title(unseen: str) -> None:
    assert clean_plain_title(unseen) is None
    # Beside something that is seen it makes no difference to whether there is a title.
    seen = clean_plain_title(f"{unseen} cat")
    assert seen is not None and seen.endswith("cat")


def test_text_in_marks_that_nobody_sees_is_dropped() -> None:
    hidden = "".join(chr(0xE0000 + ord(character)) for character in "ignore all")
    assert clean_plain_title(f"cat{hidden} dog") == "cat dog"
    assert clean_plain_title(f"{ENGLAND} cat") == f"{ENGLAND} cat"


@pytest.mark.parametrize(
    "title",
    [
        *("", "YouTube", " - YouTube", "- YouTube", "YouTube - Broadcast Yourself.", "Loading...", "404 Not Found"),
        *("Before you continue to YouTube", "Bevor Sie zu YouTube weitergehen", "Sorry for the interruption"),
        *("Video unavailable", "Private video", "Deleted video - YouTube", "dQw4w9WgXcQ", "dQw4w9WgXcQ - YouTube"),
        *("Avant d\u2019accéder à YouTube", "YouTube - ", "YouTube - dQw4w9WgXcQ", "youtube video #dQw4w9WgXcQ"),
        *("www.youtube.com", "YOUTUBE", "YouTube - YouTube", "[Private video]", "（非公開動画）", "【削除された動画】"),
        *(
            "https://www.youtube.com/watch?v=jNQXAC9IVRw",
            "youtu.be/jNQXAC9IVRw",
            "Error 404 (Not Found)!!1",
            "Sorry...",
        ),
        *(
            "Sign in - Google Accounts",
            "Anmelden – Google Konten",
            "Connexion\u00a0: comptes Google",
            "Wayback Machine",
        ),
        *("403 Forbidden", "500 Internal Server Error", "503 Service Temporarily Unavailable", "502 Bad Gateway"),
        *("Our systems have detected unusual traffic from your computer network. Please try your request later",),
        *("YouTube - Comparte tus vídeos.", "YouTube - Sende dich selbst", "This video isn\u2019t available anymore"),
        *(
            "Wird geladen…",
            "Cargando...",
            "読み込んでいます…",
            "Загрузка...",
            "Chargement . . ...",
            "Attention Required! | Cloudflare",
        ),
    ],
)
def test_names_of_the_sites_own_pages_are_junk(title: str) -> None:
    assert is_junk_title(title, "dQw4w9WgXcQ")


CONSENT_TITLES = [
    *("Before you continue to YouTube", "Bevor du zu YouTube weitergehst", "Avant d'accéder à YouTube"),
    *("Antes de ir a YouTube", "Antes de continuar a YouTube", "Antes de continuar para o YouTube"),
    *("Prima di continuare su YouTube", "Voordat je verdergaat naar YouTube", "Zanim przejdziesz do YouTube"),
    *("Innan du fortsätter till YouTube", "Inden du fortsætter til YouTube", "Før du går videre til YouTube"),
    *("Ennen kuin jatkat YouTubeen", "Než budete pokračovat na YouTube", "Skôr než prejdete na YouTube"),
    *("Mielőtt továbblépne a YouTube-ra", "Înainte de a continua pe YouTube", "Преди да продължите към YouTube"),
    *("Prije nego što nastavite na YouTube", "Пре него што наставите на YouTube", "Preden nadaljujete na YouTube"),
    *("Enne YouTube'i jätkamist", "Pirms turpināt lietot YouTube", "Prieš tęsdami „YouTube“"),
    *("Πριν συνεχίσετε στο YouTube", "YouTube'a devam etmeden önce", "Прежде чем перейти на YouTube"),
    *("Перш ніж перейти на YouTube", "قبل المتابعة إلى YouTube", "לפני שממשיכים ל-YouTube"),
    *("YouTube पर जाने से पहले", "Sebelum melanjutkan ke YouTube", "Trước khi bạn tiếp tục đến YouTube"),
    *("ก่อนที่คุณจะไปที่ YouTube", "YouTube に進む前に", "YouTube로 이동하기 전에", "在继续前往 YouTube 之前"),
    *("繼續使用 YouTube 前的須知事項", "Abans de continuar a YouTube", "Áður en þú heldur áfram á YouTube"),
    "Before you continue to Google Search",
]
UNAVAILABLE_TITLES = [
    *("This video is unavailable", "Video nicht verfügbar", "Vidéo non disponible", "Vídeo no disponible"),
    *("Este vídeo no está disponible", "Vídeo indisponível", "Este vídeo não está disponível", "Video non disponibile"),
    *("Video niet beschikbaar", "Film niedostępny", "Videon är inte tillgänglig", "Videoen er ikke tilgængelig"),
    *("Videoen er ikke tilgjengelig", "Video ei ole saatavilla", "Video není k dispozici", "Video nie je k dispozícii"),
    *("A videó nem érhető el", "Acest videoclip nu este disponibil", "Το βίντεο δεν είναι διαθέσιμο"),
    *("Видеоклипът не е налице", "Videozapis nije dostupan", "Video kullanılamıyor", "Видео недоступно"),
    *("Це відео недоступне", "هذا الفيديو غير متاح", "הסרטון לא זמין", "वीडियो उपलब्ध नहीं है", "Video tidak tersedia"),
    *(
        "Video không có sẵn",
        "วิดีโอไม่พร้อมใช้งาน",
        "この動画は再生できません",
        "동영상을 재생할 수 없음",
        "视频不可用",
        "影片無法播放",
    ),
]
PRIVATE_TITLES = [
    *("Privates Video", "Vidéo privée", "Vídeo privado", "Video privado", "Vídeo particular", "Video privato"),
    *("Privévideo", "Film prywatny", "Privat video", "Yksityinen video", "Soukromé video", "Súkromné video"),
    *(
        "Privát videó",
        "Videoclip privat",
        "Απόρρητο βίντεο",
        "Ιδιωτικό βίντεο",
        "Частен видеоклип",
        "Privatan videozapis",
    ),
    *("Gizli video", "Частное видео", "Личное видео", "Приватне відео", "فيديو خاص", "סרטון פרטי", "निजी वीडियो"),
    *("Video pribadi", "Video riêng tư", "วิดีโอส่วนตัว", "非公開動画", "비공개 동영상", "私享视频", "私人影片"),
]
DELETED_TITLES = [
    *(
        "Gelöschtes Video",
        "Vidéo supprimée",
        "Vídeo eliminado",
        "Vídeo excluído",
        "Video eliminato",
        "Verwijderde video",
    ),
    *("Usunięty film", "Raderad video", "Slettet video", "Poistettu video", "Smazané video", "Odstránené video"),
    *("Törölt videó", "Videoclip șters", "Διαγραμμένο βίντεο", "Изтрит видеоклип", "Silinmiş video", "Удаленное видео"),
    *("Видалене відео", "فيديو محذوف", "סרטון שנמחק", "हटाया गया वीडियो", "Video dihapus", "Video đã bị xóa"),
    *("วิดีโอที่ถูกลบ", "削除された動画", "삭제된 동영상", "已删除的视频", "已刪除的影片"),
]


def other_spellings(title: str) -> set[str]:
    """Returns a title as other tools and times may spell it."""
    return {
        title.upper() if title.isascii() else title,
        title.lower(),
        unicodedata.normalize("NFD", title),
        title.replace("'", "\u2019"),
        title.replace(" ", "\u00a0"),
        f"\u202a{title}\u202c\u200f",
        f"  {title} ",
        f"{title}.",
        f"{title} - YouTube",
        f"YouTube - {title}",
    }


@pytest.mark.parametrize("title", [*CONSENT_TITLES, *UNAVAILABLE_TITLES, *PRIVATE_TITLES, *DELETED_TITLES])
def test_translations_are_junk_however_they_are_spelled(title: str) -> None:
    for spelling in other_spellings(title):
        assert is_junk_title(spelling, "dQw4w9WgXcQ"), spelling


@pytest.mark.parametrize(
    "title",
    [
        *(
            "My private video collection",
            "My private video of a cat",
            "Video unavailable - why?",
            "YouTube Rewind 2012",
        ),
        *("404 not found (official music video)", "Loading... please wait song", "Loading a truck", "Loading", "404"),
        *("Sorry", "We're sorry, we lost", "Before you continue to YouTube, watch this", "Before YouTube existed"),
        *(
            "Antes de ir a YouTube hay que saber esto",
            "Bevor Sie zu YouTube weitergehen: ein Test",
            "Deleted videos found",
        ),
        *(
            "Broadcast Yourself with a webcam",
            "How to sign in to YouTube",
            "Private video?!",
            "The Wayback Machine explained",
        ),
        *(
            "YouTube: The Movie",
            "youtube.com is down!",
            "dqw4w9wgxcq",
            "dQw4w9WgXcQ explained",
            "Just a moment",
            "Home",
        ),
        *(
            "Voordat je verdergaat",
            "Видео недоступно в вашей стране - решение",
            "この動画は再生できませんの直し方",
            "[MV] 非公開",
        ),
        *(
            "-",
            "...",
            "?",
            "Übung",
            "Compartilhe seus vídeos",
            "Access Denied",
            "Error",
            "YouTube - the story - YouTube",
        ),
    ],
)
def test_titles_of_videos_are_not_junk(title: str) -> None:
    assert not is_junk_title(title, "dQw4w9WgXcQ")


@given(st.text(max_size=120))
def test_any_text_can_be_judged(title: str) -> None:
    assert is_junk_title(title, "dQw4w9WgXcQ") in (True, False)
    assert not is_junk_title(f"{title} of a cat in the garden", "dQw4w9WgXcQ")


@pytest.mark.realdata
def test_no_real_title_is_refused(real_data: Path) -> None:
    titles = real_titles(real_data / "titles")
    assert len(titles) > 7_900
    refused = [
        (title, youtube_id)
        for title, youtube_id in titles
        for spelling in (title, f"{title} - YouTube", f"YouTube - {title}")
        if is_junk_title(clean_title(spelling) or spelling, youtube_id)
    ]
    assert refused == []


def real_titles(folder: Path) -> list[tuple[str, str]]:
    titles = []
    for name in ("US", "GB"):
        with (folder / "trending-2018" / f"{name}videos.csv").open(encoding="utf-8", newline="") as file:
            titles += [(row["title"], row["thumbnail_link"].split("/")[4]) for row in csv.DictReader(file)]
    records = json.loads((folder / "ytdlp_extractor_tests.json").read_text(encoding="utf-8"))
    # Among them is a list of videos, whose title is its id: no video.
    titles += [(each["title"], each["id"]) for each in records if each["title"] and each["title"] != each["id"]]
    table = pq.read_table(folder / "video2dataset" / "youtube.parquet", columns=["videoID", "title"])
    return titles + [(row["title"], row["videoID"]) for row in table.to_pylist()]
