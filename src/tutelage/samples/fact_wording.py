"""How facts about countries are put into words: names, sentences, questions.

In: nothing. Out: tables of plain text; ``{subject}`` stands for the country, ``{said}`` for what is said of it.
"""

from collections.abc import Sequence
from types import MappingProxyType

# ISO 639 codes as the package uses them; a code that is not listed is left unsaid.
LANGUAGES = MappingProxyType(
    {
        "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "ay": "Aymara", "az": "Azerbaijani", "be": "Belarusian",
        "bg": "Bulgarian", "bi": "Bislama", "bn": "Bengali", "bs": "Bosnian", "ca": "Catalan", "ch": "Chamorro",
        "cnr": "Montenegrin", "cs": "Czech", "da": "Danish", "de": "German", "dv": "Dhivehi", "dz": "Dzongkha",
        "el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian", "ff": "Fula",
        "fi": "Finnish", "fj": "Fijian", "fo": "Faroese", "fr": "French", "ga": "Irish", "gn": "Guarani",
        "gv": "Manx", "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "ht": "Haitian Creole", "hu": "Hungarian",
        "hy": "Armenian", "id": "Indonesian", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ka": "Georgian",
        "kg": "Kongo", "kk": "Kazakh", "kl": "Greenlandic", "km": "Khmer", "ko": "Korean", "ku": "Kurdish",
        "ky": "Kyrgyz", "la": "Latin", "lb": "Luxembourgish", "ln": "Lingala", "lo": "Lao", "lt": "Lithuanian",
        "lu": "Luba", "lv": "Latvian", "mg": "Malagasy", "mh": "Marshallese", "mi": "Maori", "mk": "Macedonian",
        "mn": "Mongolian", "ms": "Malay", "mt": "Maltese", "my": "Burmese", "na": "Nauruan", "nd": "Ndebele",
        "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "ny": "Chichewa", "oc": "Occitan", "pa": "Punjabi",
        "pl": "Polish", "ps": "Pashto", "pt": "Portuguese", "qu": "Quechua", "rn": "Kirundi", "ro": "Romanian",
        "ru": "Russian", "rw": "Kinyarwanda", "sg": "Sango", "si": "Sinhala", "sk": "Slovak", "sl": "Slovene",
        "sm": "Samoan", "sn": "Shona", "so": "Somali", "sq": "Albanian", "sr": "Serbian", "ss": "Swati",
        "st": "Sotho", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "tg": "Tajik", "th": "Thai",
        "ti": "Tigrinya", "tk": "Turkmen", "tn": "Tswana", "to": "Tongan", "tr": "Turkish", "ts": "Tsonga",
        "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "ve": "Venda", "vi": "Vietnamese", "xh": "Xhosa",
        "zh": "Chinese", "zu": "Zulu",
    }
)  # fmt: skip

# Names that need an article in a sentence, by how they end or begin, or as a whole.
ARTICLE_ENDS = (" Islands", " Republic", " States", " Kingdom", " Emirates", " Lands", " Territory")
ARTICLE_STARTS = ("Republic of", "Democratic Republic", "Federated States", "Isle of")
ARTICLE_NAMES = frozenset({"Netherlands", "Philippines", "Maldives", "Seychelles", "Comoros"})

# Two or more ways to say and to ask each kind of fact; which one a country gets depends on its name alone.
SENTENCES = MappingProxyType(
    {
        "capital": ("The capital of {subject} is {said}.", "{Subject} is governed from its capital, {said}."),
        "region": ("{Subject} belongs to the region of {said}.", "On the map, {subject} is part of {said}."),
        "population": ("{Subject} has about {said}.", "A count of those who live in {subject} gives {said}."),
        "area": ("{Subject} covers {said}.", "The land of {subject} measures {said}."),
        "languages": (
            "The official languages of {subject} include {said}.",
            "In the offices of {subject} one hears {said}.",
        ),
        "currency": ("Prices in {subject} are given in {said}.", "The currency of {subject} has the code {said}."),
        "borders": ("{Subject} shares a border with {said}.", "The neighbours of {subject} on land are {said}."),
        "provinces": ("The provinces of {subject} include {said}.", "Some parts of {subject} are called {said}."),
        "demonym": ("Someone from {subject} is {said}.", "The word for a native of {subject} is {said}."),
        "calling_code": ("Calls to {subject} begin with {said}.", "The calling code of {subject} is {said}."),
        "web_ending": ("Web addresses from {subject} end in {said}.", "Sites of {subject} are found under {said}."),
        "short_code": ("On forms, {subject} is written as {said}.", "The code for {subject} in tables is {said}."),
        "german_name": ("Germans call {subject} {said}.", "The German name of {subject} is {said}."),
        "spanish_name": ("In Spanish, {subject} is called {said}.", "The Spanish name of {subject} is {said}."),
    }
)
QUESTIONS = MappingProxyType(
    {
        "capital": ("What is the capital of {subject}?", "Which city governs {subject}?"),
        "region": ("To which region does {subject} belong?", "In what part of the world is {subject}?"),
        "population": ("How many people live in {subject}?", "What is the population of {subject}?"),
        "area": ("How large is {subject}?", "What is the area of {subject}?"),
        "languages": ("Name an official language of {subject}.", "Which language do officials of {subject} use?"),
        "currency": ("In which currency does one pay in {subject}?", "What is the currency code of {subject}?"),
        "borders": ("Which country has a border with {subject}?", "Name a neighbour of {subject}."),
        "provinces": ("Name a province of {subject}.", "Which place is a part of {subject}?"),
        "demonym": ("What is someone from {subject} called?", "What do you call a native of {subject}?"),
        "calling_code": ("What do you dial first to call {subject}?", "What is the calling code of {subject}?"),
        "web_ending": ("How do web addresses from {subject} end?", "Which ending do sites of {subject} have?"),
        "short_code": ("Which three letters stand for {subject}?", "What is the short code of {subject}?"),
        "german_name": ("What is {subject} called in German?", "How do Germans call {subject}?"),
        "spanish_name": ("What is {subject} called in Spanish?", "How do Spaniards call {subject}?"),
    }
)


def with_article(name: str) -> str:
    """Return a country's name as it stands inside a sentence: ``the Netherlands``, ``the Bahamas``, ``France``."""
    if name.startswith("The "):
        return "the " + name.removeprefix("The ")
    needs = name in ARTICLE_NAMES or name.endswith(ARTICLE_ENDS) or name.startswith(ARTICLE_STARTS)
    return f"the {name}" if needs else name


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does: ``A``, ``A and B``, ``A, B and C``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
