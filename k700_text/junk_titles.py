"""What pages of the site are called when they show no video, in the languages of the site.

The phrases are of four kinds, named by the reason that a source reports: the page that asks for consent, the page that
suspects a robot, the page of a video that is gone, and others (errors, start page, sign-in). Texts are compared folded:
without case, compatibility forms, invisible marks, and with one form of each dash, quote, space and ellipsis.

Sources: web-contracts section 4.6, titles that published programs test for, and the wording of the site's interface.
A title counts only as a whole: "My private video collection" is a title.
"""

from __future__ import annotations

import re
import unicodedata

CONSENT_PAGE = "consent_page"
BLOCK_PAGE = "block_page"
DEAD_PAGE = "dead_page"
JUNK_TITLE = "junk_title"

_SAME = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201b\u02bc\u02b9\u2032\u00b4`\uff07", "'"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
        **dict.fromkeys('"\u201c\u201d\u201e\u201f\u00ab\u00bb\u300c\u300d\u300e\u300f\u300a\u300b\uff02', None),
    }
)
_BRACKETS = {"[": "]", "(": ")", "\u3010": "\u3011"}
_PREFIX = re.compile(r"youtube ?[-:] ?(?=.)")
_SUFFIX = re.compile(r"(?:^| )[-|] ?youtube$")
_FINAL_POINTS = ".!\u3002\u0964 "

_CONSENT = r"""
before you (?:continue|go|proceed)(?: on)? to {site}
bevor (?:sie|du) (?:zu|mit) {site} (?:weitergehen|weitergehst|fortfahren|fortfährst)
avant (?:d'accéder à|de continuer (?:sur|vers|à)|de poursuivre (?:sur|vers)|d'aller sur) {site}
antes de (?:ir|continuar|pasar|acceder) (?:a|en|con|hacia) {site}
antes de (?:continuar|prosseguir|avançar|ir|aceder|acessar)(?: para| no| em| ao| a)?(?: o)? {site}
prima di (?:continuare|proseguire|passare|andare|accedere) (?:su|a|con|verso) {site}
voordat (?:je|u) (?:verdergaat|doorgaat|verder gaat) (?:naar|met|op) {site}
zanim (?:przejdziesz|przejdziemy) do (?:serwisu |usługi )?{site}
innan du (?:fortsätter|går vidare) (?:till|på) {site}
(?:inden|før) du (?:fortsætter|går videre) (?:til|på) {site}
før du (?:fortsetter|går videre) (?:til|på) {site}
áður en þú (?:heldur áfram|ferð) (?:á|í|til|yfir á) {site}
ennen kuin (?:jatkat|siirryt) {site}[^ ]*(?: palveluun)?
enne,? kui (?:jätkad|jätkate|liigud|liigute) .{0,20}{site}[^ ]*(?: juurde)?
enne {site}[^ ]* (?:juurde )?(?:jätkamist|liikumist|minemist)
pirms (?:turpināt|turpināt darbu|dodaties|pāriet) .{0,30}{site}
pirms turpini .{0,30}{site}
prieš (?:tęsdami|tęsiant|pereidami|pereinant|eidami) .{0,20}{site}[^ ]*
(?:než|předtím, než) (?:budete pokračovat|přejdete|začnete) (?:na|do|k|používat) (?:službu |služby |web )?{site}
(?:skôr|predtým),? (?:než|ako) (?:prejdete|budete pokračovať|začnete) (?:na|do|používať) (?:službu |služby )?{site}
mielőtt (?:továbblép\w*|folytat\w*|tovább\w*) a(?: következőre:| következő oldalra:)? {site}[^ ]*
înainte (?:de a continua|să continui|să continuați|de a accesa|de a merge) (?:pe|la|către|spre|în)? ?{site}
преди да (?:продължите|преминете|отидете) (?:към|в|с) {site}
prije nego (?:što )?(?:nastavite|odete|prijeđete|pređete) (?:na|s|sa) {site}
pre nego što (?:nastavite|odete|pređete) (?:na|sa) {site}
пре него што (?:наставите|одете|пређете) (?:на|са) {site}
пред да продолжите (?:на|кон) {site}
preden (?:nadaljujete|nadaljujete z uporabo|odprete|obiščete) (?:na|v|do|s|z|storitve|storitev)? ?{site}[^ ]*
(?:πριν|προτού) (?:συνεχίσετε|μεταβείτε) (?:στο|προς το|με το) {site}
{site}'?[^ ]{0,4} (?:devam etmeden|gitmeden|geçmeden|girmeden) önce
(?:прежде чем|перед тем,? как) (?:перейти|продолжить|начать|вы перейдете|вы продолжите) .{0,25}{site}
(?:перш ніж|перед тим,? як) (?:перейти|продовжити|почати|ви перейдете) .{0,25}{site}
перад тым,? як (?:перайсці|працягнуць) .{0,25}{site}
قبل (?:المتابعة|الانتقال|متابعة استخدام|أن تتابع) (?:إلى|في|على)? ?{site}
لفני שממשיכים ל-?{site}
לפני ש(?:ממשיכים|עוברים|תמשיך|תמשיכו|נכנסים) (?:אל |ל-? ?){site}
پیش از (?:ادامه|رفتن) .{0,15}{site}
قبل از (?:ادامه|رفتن) .{0,15}{site}
{site} (?:पर|में) (?:जाने|जारी रखने|आगे बढ़ने) से पहले
{site}-?[^ ]{0,3} (?:চালিয়ে যাওয়ার|যাওয়ার) আগে
sebelum (?:anda |kamu )?(?:melanjutkan|meneruskan|beralih|pergi|ke) (?:ke )?{site}
trước khi (?:bạn )?(?:tiếp tục|chuyển|truy cập)(?: đến| tới| sang| vào| sử dụng)? {site}
ก่อนที่(?:คุณ)?จะ(?:ไปที่|ไปยัง|ดำเนินการต่อไปยัง|ใช้|ใช้งาน) ?{site}(?: ต่อ)?
{site} ?(?:に|へ)(?:進む|アクセスする|移動する|続行する)前に
{site} ?(?:の利用|の使用)?を(?:続行|続ける|使用|利用)する?前に
続行する前に ?- ?{site}
{site} ?(?:으로|로)? ?(?:계속하기|이동하기|계속 진행하기|가기) 전에
(?:在)?(?:继续|您继续)?(?:前往|使用|访问|进入) ?{site} ?(?:之前|前)(?:的须知事项)?
(?:在)?(?:繼續|您繼續)?(?:前往|使用|造訪|進入) ?{site} ?(?:之前|前)(?:的須知事項|的相關說明)?
abans (?:de continuar|d'anar|d'accedir|de passar) (?:a|cap a|amb) {site}
{site}(?:-era|-en|ra|n)? (?:jarraitu|joan) aurretik
antes de continuar en {site}
bago (?:ka|mo) (?:magpatuloy|ipagpatuloy|pumunta) (?:sa|ang) {site}
"""
_SITE = r"(?:youtube(?: (?:music|kids|tv|studio))?|google(?: \w+)?)"

_DEAD = """
Video unavailable|This video is unavailable|This video is not available|This video isn't available|Video not available
This video isn't available anymore|This video is no longer available|Unavailable video|Video not found
Private video|This video is private|This is a private video|Deleted video|Removed video|This video has been deleted
This video has been removed|This video has been removed by the user|This video has been removed by the uploader
This video does not exist|This video doesn't exist|The video you have requested is not available
This content isn't available|Content unavailable|This live stream recording is not available
Video nicht verfügbar|Dieses Video ist nicht verfügbar|Dieses Video ist nicht mehr verfügbar|Nicht verfügbares Video
Privates Video|Dieses Video ist privat|Gelöschtes Video|Das Video ist nicht verfügbar
Vidéo non disponible|Vidéo indisponible|Cette vidéo n'est pas disponible|Cette vidéo n'est plus disponible
Vidéo privée|Cette vidéo est privée|Vidéo supprimée|Cette vidéo a été supprimée
Vídeo no disponible|Video no disponible|Este vídeo no está disponible|Este video no está disponible
El vídeo no está disponible|El video no está disponible|Este vídeo ya no está disponible|Vídeo privado|Video privado
Este vídeo es privado|Este video es privado|Vídeo eliminado|Video eliminado|Vídeo borrado|Video borrado
Vídeo indisponível|Vídeo não disponível|Este vídeo não está disponível|Este vídeo é privado|Vídeo particular
Este vídeo está indisponível|Este vídeo não está mais disponível
Este vídeo já não está disponível|Este vídeo é particular
Vídeo excluído|Vídeo removido|Vídeo apagado|Vídeo eliminado
Video non disponibile|Questo video non è disponibile|Questo video non è più disponibile|Il video non è disponibile
Video privato|Questo video è privato|Video eliminato|Video rimosso
Video niet beschikbaar|Deze video is niet beschikbaar|Deze video is niet meer beschikbaar|Privévideo|Privé-video
Privé video|Deze video is privé|Verwijderde video|Video is niet beschikbaar
Film niedostępny|Ten film jest niedostępny|Film jest niedostępny|Wideo niedostępne|Film prywatny|Prywatny film
Ten film jest prywatny|Usunięty film|Film usunięty|Ten film nie jest już dostępny
Videon är inte tillgänglig|Den här videon är inte tillgänglig|Videoklippet är inte tillgängligt|Otillgänglig video
Privat video|Privat videoklipp|Videon är privat|Raderad video|Borttagen video|Borttaget videoklipp
Videoen er ikke tilgængelig|Denne video er ikke tilgængelig|Video ikke tilgængelig|Slettet video|Denne video er privat
Videoen er ikke tilgjengelig|Denne videoen er ikke tilgjengelig|Videoen er utilgjengelig|Video utilgjengelig
Videoen er privat|Denne videoen er privat|Fjernet video
Video ei ole saatavilla|Video ei saatavilla|Tämä video ei ole saatavilla|Tämä video ei ole käytettävissä
Yksityinen video|Tämä video on yksityinen|Poistettu video|Video ei ole käytettävissä
Video není k dispozici|Toto video není k dispozici|Video není dostupné|Toto video není dostupné|Nedostupné video
Soukromé video|Toto video je soukromé|Smazané video|Odstraněné video
Video nie je k dispozícii|Toto video nie je k dispozícii|Video nie je dostupné|Súkromné video|Toto video je súkromné
Odstránené video|Vymazané video
A videó nem érhető el|Ez a videó nem érhető el|A videó nem elérhető|Privát videó|Ez a videó privát|Törölt videó
Videoclipul nu este disponibil|Acest videoclip nu este disponibil|Videoclip indisponibil|Videoclip privat
Acest videoclip este privat|Videoclip șters|Videoclip eliminat
Το βίντεο δεν είναι διαθέσιμο|Αυτό το βίντεο δεν είναι διαθέσιμο|Μη διαθέσιμο βίντεο|Ιδιωτικό βίντεο
Απόρρητο βίντεο|Αυτό το βίντεο είναι ιδιωτικό|Διαγραμμένο βίντεο|Το βίντεο διαγράφηκε
Видеоклипът не е налице|Този видеоклип не е налице|Видеоклипът не е достъпен|Този видеоклип не е достъпен
Частен видеоклип|Този видеоклип е частен|Изтрит видеоклип
Videozapis nije dostupan|Ovaj videozapis nije dostupan|Video nije dostupan|Ovaj video nije dostupan
Privatan videozapis|Privatni videozapis|Privatni video
Ovaj je videozapis privatan|Izbrisan videozapis
Izbrisani videozapis
Видео није доступан|Овај видео није доступан|Приватни видео
Приватан видео|Избрисан видео|Izbrisan video|Privatan video
Videoposnetek ni na voljo|Ta videoposnetek ni na voljo
Zaseben videoposnetek|Zasebni videoposnetek|Izbrisan videoposnetek
Video pole saadaval|See video pole saadaval|Privaatne video|Kustutatud video
Videoklips nav pieejams|Šis videoklips nav pieejams|Privāts videoklips|Dzēsts videoklips
Vaizdo įrašas nepasiekiamas|Šis vaizdo įrašas nepasiekiamas|Privatus vaizdo įrašas|Ištrintas vaizdo įrašas
Video kullanılamıyor|Bu video kullanılamıyor|Video mevcut değil|Bu video mevcut değil|Bu video artık mevcut değil
Gizli video|Özel video|Bu video gizli|Bu video özel|Silinmiş video|Silinen video|Video kullanım dışı
Видео недоступно|Это видео недоступно|Видео не доступно|Видео больше не доступно|Это видео больше не доступно
Личное видео|Частное видео|Приватное видео|Видео с ограниченным доступом|Это видео является закрытым|Закрытое видео
Это частное видео|Это личное видео|Удаленное видео|Удалённое видео|Видео удалено|Это видео удалено
Доступ к этому видео ограничен|Видео с открытым доступом удалено|Ролик недоступен
Відео недоступне|Це відео недоступне|Відео більше не доступне|Приватне відео|Це приватне відео|Видалене відео
Відэа недаступнае|Прыватнае відэа|Выдаленае відэа
الفيديو غير متاح|هذا الفيديو غير متاح|الفيديو غير متوفر|هذا الفيديو غير متوفر|فيديو غير متاح|فيديو غير متوفر
فيديو خاص|هذا الفيديو خاص|هذا فيديو خاص|فيديو محذوف|الفيديو محذوف|تم حذف الفيديو|لم يعد هذا الفيديو متاحًا
הסרטון לא זמין|הסרטון אינו זמין|סרטון זה אינו זמין|הסרטון הזה לא זמין|סרטון פרטי|הסרטון הזה פרטי|סרטון זה פרטי
סרטון שנמחק|סרטון מחוק|הסרטון נמחק|הסרטון הזה אינו זמין
ویدیو در دسترس نیست|این ویدیو در دسترس نیست|ویدیوی خصوصی|ویدیو خصوصی|ویدیوی حذف شده|ویدیو حذف شده
वीडियो उपलब्ध नहीं है|यह वीडियो उपलब्ध नहीं है|निजी वीडियो|यह वीडियो निजी है|यह एक निजी वीडियो है
हटाया गया वीडियो|मिटाया गया वीडियो|वीडियो मिटाया गया|यह वीडियो अब उपलब्ध नहीं है
ভিডিও উপলভ্য নেই|ভিডিওটি উপলভ্য নয়|এই ভিডিওটি উপলভ্য নয়|ব্যক্তিগত ভিডিও|মুছে ফেলা ভিডিও
வீடியோ கிடைக்கவில்லை|இந்த வீடியோ கிடைக்கவில்லை|தனிப்பட்ட வீடியோ|நீக்கப்பட்ட வீடியோ
వీడియో అందుబాటులో లేదు|ఈ వీడియో అందుబాటులో లేదు|ప్రైవేట్ వీడియో|తొలగించబడిన వీడియో
ویڈیو دستیاب نہیں ہے|یہ ویڈیو دستیاب نہیں ہے|نجی ویڈیو|حذف شدہ ویڈیو
Video tidak tersedia|Video ini tidak tersedia|Video ini tidak tersedia lagi|Video pribadi|Ini adalah video pribadi
Video ini bersifat pribadi|Video dihapus|Video yang dihapus|Video telah dihapus
Video tidak tersedia lagi|Video peribadi|Ini video peribadi|Video yang dipadamkan|Video dipadamkan|Video telah dipadam
Video không có sẵn|Video này không có sẵn|Video không khả dụng|Video này không khả dụng|Không có video này
Video không còn nữa|Video này không còn nữa|Video riêng tư|Đây là video riêng tư|Video này là video riêng tư
Video đã xóa|Video đã xoá|Video đã bị xóa|Video đã bị xoá
วิดีโอไม่พร้อมใช้งาน|วิดีโอนี้ไม่พร้อมใช้งาน|ไม่มีวิดีโอนี้|วิดีโอนี้ใช้งานไม่ได้|วิดีโอใช้งานไม่ได้แล้ว
วิดีโอส่วนตัว|วิดีโอนี้เป็นส่วนตัว|วิดีโอนี้เป็นวิดีโอส่วนตัว|วิดีโอที่ถูกลบ|วิดีโอที่ลบแล้ว|วิดีโอถูกลบแล้ว
動画を再生できません|この動画は再生できません|この動画は利用できません|動画は利用できません|この動画は視聴できません
この動画はご利用いただけません|非公開動画|この動画は非公開です|非公開の動画|削除された動画|この動画は削除されました
この動画は存在しません|動画が見つかりません
동영상을 재생할 수 없음|동영상을 재생할 수 없습니다
동영상을 볼 수 없음|동영상을 사용할 수 없음
이 동영상은 볼 수 없습니다
이 동영상은 사용할 수 없습니다|이 동영상을 더 이상 볼 수 없습니다
비공개 동영상|비공개 동영상입니다|이 동영상은 비공개입니다
삭제된 동영상|이 동영상은 삭제되었습니다|동영상을 사용할 수 없습니다|더 이상 볼 수 없는 동영상입니다
视频不可用|此视频不可用|该视频不可用|视频无法播放|此视频无法播放
无法播放视频|此视频已无法观看|视频不再可用|此视频不再可用
私享视频|私密视频|私人视频|此视频是私享视频|这是私享视频|已删除的视频|已删除视频|视频已删除|此视频已被移除
影片無法播放|無法播放影片|這部影片無法播放|這部影片不存在
影片不存在|無法觀看這部影片|這部影片已無法觀看|此影片無法使用
私人影片|這是私人影片|這部影片為私人影片|已刪除的影片|已刪除影片|這部影片已遭移除|影片已被刪除
El vídeo no està disponible|Aquest vídeo no està disponible|Vídeo no disponible|Vídeo privat|Vídeo suprimit
Hindi available ang video|Hindi available ang video na ito|Pribadong video|Na-delete na video
Þetta myndskeið er ekki tiltækt|Einkamyndskeið|Eytt myndskeið
"""

_BLOCKED = """
Sorry for the interruption|We're sorry for the interruption
Entschuldigung für die Unterbrechung|Wir entschuldigen uns für die Unterbrechung
Désolé pour cette interruption|Désolés pour cette interruption|Veuillez nous excuser pour cette interruption
Disculpa la interrupción|Disculpe la interrupción|Perdona la interrupción|Sentimos la interrupción
Desculpe a interrupção|Desculpe pela interrupção|Desculpe-nos pela interrupção|Lamentamos a interrupção
Ci scusiamo per l'interruzione|Spiacenti per l'interruzione|Sorry voor de onderbreking|Przepraszamy za przerwę
Przepraszamy za zakłócenia|Förlåt avbrottet|Vi beklager afbrydelsen|Vi beklager avbruddet|Pahoittelemme keskeytystä
Omlouváme se za přerušení|Ospravedlňujeme sa za prerušenie
Elnézést a kellemetlenségért|Ne cerem scuze pentru întrerupere
Ζητούμε συγγνώμη για τη διακοπή|Kesinti için özür dileriz|Приносим извинения за неудобства|Извините за прерывание
Вибачте за незручності|Вибачте за переривання|نعتذر عن المقاطعة|עמך הסליחה על ההפרעה|Maaf atas gangguan ini
Xin lỗi vì sự gián đoạn này|ขออภัยในความไม่สะดวก
ご不便をおかけして申し訳ございません
ご迷惑をおかけして申し訳ございません
이용에 불편을 드려 죄송합니다|抱歉打扰一下|很抱歉,打断您一下|抱歉打擾您|很抱歉造成您的不便|रुकावट के लिए खेद है
Attention Required! | Cloudflare
"""
_BLOCKED_BEGINNINGS = """
our systems have detected unusual traffic|unusual traffic from your computer network
unsere systeme haben ungewöhnlichen datenverkehr|nos systèmes ont détecté un trafic exceptionnel
nuestros sistemas han detectado tráfico inusual|hemos detectado tráfico inusual procedente
nossos sistemas detectaram tráfego incomum|os nossos sistemas detetaram tráfego invulgar
i nostri sistemi hanno rilevato un traffico insolito|onze systemen hebben ongebruikelijk verkeer
nasze systemy wykryły nietypowy ruch|våra system har upptäckt ovanlig trafik
наши системы обнаружили необычный трафик|мы зарегистрировали подозрительный трафик
sistemlerimiz bilgisayar ağınızdan|お使いのコンピュータ ネットワークから通常と異なるトラフィック
我们的系统检测到您的计算机网络中存在异常流量|我們的系統偵測到您的電腦網路送出的流量有異常情況
사용자의 컴퓨터 네트워크에서 비정상적인 트래픽이 감지되었습니다
"""

_TAGLINES = """
Broadcast Yourself|Broadcast Yourself (TM)|Broadcast YourselfTM|Transmite tú mismo|Transmítete|Transmítete a ti mismo
Difunde tu vida|Emítelo tú mismo|Comparte tus vídeos
Comparte tus videos|Compartilhe seus vídeos
Partilhe os seus vídeos
Transmita-se|Transmita você mesmo|Diffusez-vous|Diffusez vos vidéos|Partagez vos vidéos|Sende dich selbst
Teile deine Videos|Trasmetti te stesso|Trasmettiti|Condividi i tuoi video|Zend jezelf uit|Deel je video's|Pokaż się
Udostępniaj swoje filmy|Sänd dig själv|Kendini yayınla
Videolarını paylaş|Транслируй себя|Вещай сам|Делитесь своими видео
Транслюй себе|動画を共有しよう|あなた自身を放送しよう
당신을 방송하세요|展现自我|分享你的视频|表現自我|秀出你自己
分享您的影片
بث نفسك|שדר את עצמך|Siarkan diri Anda|Hãy thể hiện chính mình|ถ่ายทอดตัวคุณเอง|Share your videos
Share your videos with friends, family, and the world|Watch, upload and share videos
"""

_OTHER = """
youtube.com|www.youtube.com|m.youtube.com|YouTube Mobile|YouTube Music|YouTube Kids|YouTube is down for maintenance
404 Not Found|404 - Not Found|404: Not Found|404 Page Not Found|Error 404 (Not Found)!!1|400 Bad Request
Error 400 (Bad Request)!!1|401 Unauthorized|403 Forbidden|Error 403 (Forbidden)!!1|405 Method Not Allowed
429 Too Many Requests|Error 429 (Too Many Requests)!!1|500 Internal Server Error|500 - Internal Server Error
Error 500 (Server Error)!!1|502 Bad Gateway|Error 502 (Server Error)!!1|503 Service Unavailable
503 Service Temporarily Unavailable|504 Gateway Time-out|504 Gateway Timeout|301 Moved Permanently|302 Moved
302 Moved Temporarily|307 Temporary Redirect|Wayback Machine|Internet Archive Wayback Machine
Internet Archive: Wayback Machine|Sign in to YouTube|Sign in - Google Accounts|Sign in: Google Accounts
Sign in to continue to YouTube|Sign in to confirm your age|Sign in to confirm you're not a bot|Login to YouTube
Create your YouTube account|Create your Google Account
Anmelden - Google Konten|Anmelden - Google-Konten|Anmeldung - Google Konten|Anmelden bei YouTube
Connexion - Comptes Google|Connexion : Comptes Google|Connexion: comptes Google|Connexion à YouTube
Iniciar sesión - Cuentas de Google|Iniciar sesión: Cuentas de Google|Inicia sesión: Cuentas de Google
Inicia sesión - Cuentas de Google|Fazer login nas Contas do Google|Fazer login - Contas do Google
Iniciar sessão - Contas Google|Accedi - Account Google|Inloggen - Google Accounts|Inloggen - Google-accounts
Logowanie - Konta Google|Zaloguj się - Konta Google
Logga in - Google-konton|Вход - Google Аккаунты
Вход - Аккаунты Google
Увійти - Облікові записи Google|Oturum Açın - Google Hesapları|تسجيل الدخول - حسابات Google
ログイン - Google アカウント|로그인 - Google 계정|登录 - Google 帐号|登录 - Google 账号|登入 - Google 帳戶
"""

# Only with their dots: without them they are titles.
_WITH_DOTS = """
sorry|we're sorry|redirecting|just a moment|loading|please wait|loading video
wird geladen|laden|bitte warten|cargando|chargement|chargement en cours|caricamento
caricamento in corso|carregando|a carregar|bezig met laden
ładowanie|wczytywanie|läser in|laddar|indlæser|laster|laster inn
ladataan|načítání|načítá se|načítava sa|betöltés|se încarcă|φόρτωση|зареждане|učitavanje|учитавање|nalaganje|laadimine
notiek ielāde|įkeliama|yükleniyor|загрузка|идет загрузка|завантаження|جار التحميل|جارٍ التحميل|טוען|در حال بارگیری
लोड हो रहा है|লোড হচ্ছে|memuat|memuatkan|đang tải|กำลังโหลด|読み込んでいます|読み込み中|로드 중|로드하는 중|正在加载
加载中|載入中|正在載入
"""

# Names of lists, in the languages of the site's first years. Videos may be called so, too.
_LISTINGS = r"""
.+'s? (?:channel|videos|favou?rites|play ?lists|profile|subscriptions|subscribers|friends|contacts|groups|page)
(?:channel|videos|profile) of .+|(?:kanal|videos) von .+|.+s kanal|(?:chaîne|vidéos) de .+|canal d[eo] .+|canale di .+
kanaal van .+|kanał (?:użytkownika )?.+|канал .+|.+ ?さんのチャンネル|.+ ?のチャンネル|.+ ?님의 채널|.+ ?的(?:频道|頻道)
view play ?list|play ?lists?|(?:video )?search(?: results)?(?:(?: for|:) .+)?|(?:video )?results for:? .+|tags? // .+
suchergebnisse(?: .+)?|ergebnisse für .+|résultats .*recherche.*|resultados .+|risultati .+|zoekresultaten.*
wyniki wyszukiwania.*|результаты поиска.*|.+ ?の検索結果|.+ ?검색결과|.+ ?的搜索结果
(?:browse )?(?:videos|movies|shows|channels|categories|groups|playlists)|browse|trending|music(?: videos)?|news|sports
gaming|live|films|trailers|education|community|contests|spotlight|history|favou?rites|subscriptions|quick ?list
(?:most|top|recently|rising|featured|popular|promoted) (?:viewed|discussed|popular|recent|linked|responded|watched)
(?:top|recently|rising|featured|popular|promoted) (?:rated|favorited|favorites|added|featured|videos)
my (?:account|videos|favou?rites|playlists|subscriptions|messages|inbox|friends|contacts|profile|groups|channel)
(?:video )?upload|sign ?up|log ?in|help(?: cent(?:er|re))?|about(?: us)?|privacy(?: policy| notice)?|contact us|jobs
terms(?: of (?:use|service))?|press ?room|test ?tube|developers?(?: tools)?|advertising
"""

_ADDRESS = re.compile(r"(?:https?://)?(?:[\w-]+\.)*(?:youtube\.com|youtu\.be|youtube-nocookie\.com)/\S*")


def fold(text: str) -> str:
    """Returns a text in the form in which phrases are compared."""
    text = unicodedata.normalize("NFKC", text.translate(_SAME)).translate(_SAME).casefold()
    # Turkish dotted capital I folds to two characters.
    text = unicodedata.normalize("NFKC", text.replace("i\u0307", "i"))
    return " ".join("".join(each for each in text if unicodedata.category(each) != "Cf").split())


def _phrases(table: str) -> frozenset[str]:
    lines = table.replace(" | ", "\x00").replace("|", "\n").replace("\x00", " | ").splitlines()
    return frozenset(filter(None, (fold(line).rstrip(_FINAL_POINTS) for line in lines)))


def _consent_pattern() -> re.Pattern[str]:
    forms = (fold(line).replace("{site}", _SITE) for line in _CONSENT.splitlines() if line)
    return re.compile("|".join(forms))


_CONSENT_PATTERN = _consent_pattern()
_LISTING_PATTERN = re.compile("|".join(filter(None, _LISTINGS.splitlines())))
_DEAD_PHRASES = _phrases(_DEAD)
_BLOCKED_PHRASES = _phrases(_BLOCKED)
_BLOCKED_STARTS = tuple(_phrases(_BLOCKED_BEGINNINGS))
_OTHER_PHRASES = _phrases(_OTHER)
_TAGLINE_PHRASES = _phrases(_TAGLINES)
_DOTTED_PHRASES = _phrases(_WITH_DOTS)


def junk_reason(title: str, youtube_id: str) -> str | None:
    """Returns which page of the site's own bears this title, None for a title that a video may have.

    Args:
        title: the title of the page or of the video, with or without the site's name around it.
        youtube_id: the video asked about; a title equal to it is none.

    Returns:
        ``consent_page``, ``block_page``, ``dead_page`` (also the bare name of the site), ``junk_title``, or None.
    """
    if _is_id(title, youtube_id):
        return JUNK_TITLE
    folded = fold(title)
    bare = _without_site(folded)
    has_site = bare != folded
    bare = _without_brackets(bare)
    if bare in ("", "youtube", "youtube -", "- youtube"):
        return DEAD_PAGE
    return _reason_of(bare, has_site=has_site)


def is_listing_title(title: str) -> bool:
    """Tells whether the site calls pages of channels, lists and searches so; where a video is named, it is its title.

    Args:
        title: the title of the page, with or without the site's name around it.
    """
    return _LISTING_PATTERN.fullmatch(_without_site(fold(title)).rstrip(_FINAL_POINTS)) is not None


def _without_site(folded: str) -> str:
    """Returns a folded title without the site's name before and after it."""
    bare = _SUFFIX.sub("", folded)
    prefix = _PREFIX.match(bare)
    return bare[prefix.end() :] if prefix else bare


def _reason_of(bare: str, *, has_site: bool) -> str | None:
    """Returns the kind of page for a folded title without the site's name; ``has_site``: it was there."""
    phrase = bare.rstrip(_FINAL_POINTS)
    if _CONSENT_PATTERN.fullmatch(phrase):
        return CONSENT_PAGE
    if phrase in _DEAD_PHRASES:
        return DEAD_PAGE
    if phrase in _BLOCKED_PHRASES or phrase.startswith(_BLOCKED_STARTS):
        return BLOCK_PAGE
    if phrase in _OTHER_PHRASES or _ADDRESS.fullmatch(bare):
        return JUNK_TITLE
    if phrase in _TAGLINE_PHRASES and (has_site or phrase.startswith("broadcast yourself")):
        return DEAD_PAGE
    if phrase in _DOTTED_PHRASES and bare.endswith(".."):
        return BLOCK_PAGE if "sorry" in phrase else JUNK_TITLE
    return None


def _is_id(title: str, youtube_id: str) -> bool:
    """Ids are case-sensitive: the title is compared as it is."""
    text = title.strip()
    text = text.removeprefix("YouTube - ").removesuffix(" - YouTube").removeprefix("youtube video #").strip()
    return text == youtube_id


def _without_brackets(text: str) -> str:
    while len(text) > 1 and _BRACKETS.get(text[0]) == text[-1]:
        text = text[1:-1].strip()
    return text
