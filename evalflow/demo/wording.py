"""How one phrasing comes to be written in many ways: details, greetings, thanks, case, a slip of the hand.

Everything is drawn from the ``Random`` that is handed in. Keep out: what is asked how often (``world.py``).
"""

import re
from random import Random

# Enough that most texts of a week differ, little enough that the phrasings stay what people read.
DETAIL_CHANCE = 0.40
GREETING_CHANCE = 0.10
THANKS_CHANCE = 0.16
TYPO_CHANCE = 0.05
LOWER_CASE_CHANCE = 0.10
UPPER_CASE_CHANCE = 0.004

ORDERS = (
    "order number FH-{number}",
    "the order is FH-{number}",
    "order FH-{number}, placed on {weekday}",
    "I ordered on {weekday}",
    "it's the order from {weekday}, FH-{number}",
    "I paid on {weekday} with the app",
    "the name on the order is {surname}",
)
ACCOUNT = (
    "I'm on the {device}",
    "I tried it twice on my {device}",
    "I've been with you since 20{year}",
    "the account is in the name of {surname}",
    "same thing on my {device}",
    "I'm a registered customer",
)
PLANTS = (
    "the window faces {compass}",
    "I bought the plant from you in {month}",
    "I'm quite new to plants",
    "our flat is rather {climate}",
    "it's a plant for beginners, they said",
    "it stands in a pot of {size} cm",
)
GARDEN = (
    "the soil here is {soil}",
    "I grow my own vegetables",
    "it's a garden of {size} square metres",
    "I'm a beginner",
    "the garden faces {compass}",
)
SHOP = (
    "I'm asking for my neighbour",
    "it would be about {size} kilos in all",
    "I looked on the website first",
    "I couldn't find it in the shop's pages",
)
VISITS = (
    "Host visit HV-{number}",
    "it's a Fernhill Host booking, HV-{number}",
    "we're in {town}",
    "I'm in {town} and new to Host",
    "it's about a gardener from Host",
    "the Host gardener is called {surname}",
    "I use the Host app",
)
RENTALS = (
    "Host rental HR-{number}",
    "it's a tool hire on Fernhill Host, HR-{number}",
    "it's from the {town} hire point",
    "I hired it on Host until {weekday}",
    "I use the Host app",
    "I'm new to hiring from Host",
)
HOSTING = (
    "it's near {town}",
    "I'm greenhouse host HG-{number}",
    "the greenhouse is {size} square metres",
    "I've been a host since it opened",
    "my Host listing is HG-{number}",
)
IRRIGATION = (
    "it's the {zones}-zone controller",
    "the Host app is version 2.{zones}",
    "the controller's serial ends in {number}",
    "I have {zones} watering zones",
    "I use the Host app on my {device}",
    "the irrigation kit is from Host",
)
TOPICS = {
    "where_is_my_order": ORDERS,
    "change_delivery_address": ORDERS,
    "plant_arrived_damaged": ORDERS,
    "cancel_order": ORDERS,
    "refund_status": ORDERS,
    "invoice_for_company": ORDERS,
    "warranty_tools": ORDERS,
    "payment_card_declined": ACCOUNT,
    "gift_card_balance": ACCOUNT,
    "reset_password": ACCOUNT,
    "discount_code_not_working": ACCOUNT,
    "delete_my_account": ACCOUNT,
    "newsletter_unsubscribe": ACCOUNT,
    "loyalty_points": ACCOUNT,
    "watering_succulents": PLANTS,
    "repotting_orchid": PLANTS,
    "yellow_leaves": PLANTS,
    "pest_aphids": PLANTS,
    "light_for_monstera": PLANTS,
    "pot_size_choice": PLANTS,
    "pets_safe_plants": PLANTS,
    "seed_sowing_calendar": GARDEN,
    "lawn_feed_dosage": GARDEN,
    "compost_smell": GARDEN,
    "book_gardener_slot": VISITS,
    "gardener_did_not_show": VISITS,
    "reschedule_gardener": VISITS,
    "gardener_insurance_cover": VISITS,
    "gardener_hourly_rate": VISITS,
    "join_as_gardener": VISITS,
    "tool_rental_price": RENTALS,
    "tool_rental_deposit": RENTALS,
    "late_tool_return": RENTALS,
    "rented_tool_broken": RENTALS,
    "tool_pickup_point": RENTALS,
    "list_my_greenhouse": HOSTING,
    "greenhouse_host_payout": HOSTING,
    "irrigation_wifi_pairing": IRRIGATION,
    "irrigation_schedule_setup": IRRIGATION,
    "irrigation_leak_alert": IRRIGATION,
}
"""What a person would add to a question of that kind; intents that are not named here are the shop's."""

GREETINGS = (
    "Hi.",
    "Hello.",
    "Hi there.",
    "Good morning.",
    "Good afternoon.",
    "Hello, quick question.",
    "Evening all.",
)
THANKS = ("thanks", "thank you", "many thanks", "thanks in advance", "cheers", "much appreciated")
WORDS = {
    "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "month": ("January", "February", "September", "October", "November", "December"),
    "town": (
        "Leeds",
        "Norwich",
        "Exeter",
        "York",
        "Derby",
        "Swansea",
        "Perth",
        "Bath",
        "Durham",
        "Hull",
        "Kendal",
        "Truro",
    ),
    "surname": (
        "Hart",
        "Okafor",
        "Whitcombe",
        "Singh",
        "Marsh",
        "Kowalska",
        "Doyle",
        "Pryce",
        "Ahmed",
        "Lister",
    ),
    "device": ("phone", "tablet", "laptop", "iPad", "old PC"),
    "compass": ("north", "east", "south", "west"),
    "climate": ("warm", "cold", "dry", "dark", "draughty"),
    "soil": ("heavy clay", "sandy", "chalky", "stony", "quite acid"),
}
SURNAMES, FIRST_NAMES = WORDS["surname"], ("jo", "sam", "priya", "tom", "agnes", "lee", "maria", "owen")
_GREETED = re.compile(r"^(hi|hello|hey|dear|good (morning|afternoon|evening))\b", re.IGNORECASE)
_LONG_WORD = re.compile(r"\b[a-z]{5,}\b")


def varied(rng: Random, text: str, intent: str) -> str:
    """The phrasing as this person types it."""
    if rng.random() < DETAIL_CHANCE:
        text = with_clause(text, _filled(rng, rng.choice(TOPICS.get(intent, SHOP))))
    if rng.random() < GREETING_CHANCE and not _GREETED.match(text):
        text = f"{rng.choice(GREETINGS)} {text[0].upper()}{text[1:]}"
    if rng.random() < THANKS_CHANCE:
        text = with_clause(text, rng.choice(THANKS))
    if rng.random() < TYPO_CHANCE:
        text = _with_typo(rng, text)
    case = rng.random()
    if case < UPPER_CASE_CHANCE:
        return text.upper()
    return text.lower() if case < UPPER_CASE_CHANCE + LOWER_CASE_CHANCE else text


def with_personal_data(rng: Random, text: str) -> str:
    """The text with made-up personal data: reserved domains, a test card, numbers kept free for fiction."""
    name = f"{rng.choice(FIRST_NAMES)}.{rng.choice(SURNAMES).lower()}"
    clause = rng.choice(
        (
            f"you can reach me at {name}@example.{rng.choice(('org', 'com'))}",
            f"my number is +44 20 7946 0{rng.randrange(1000):03d}",
            "I paid with card 4111 1111 1111 1111",
        )
    )
    return with_clause(text, clause)


def with_clause(text: str, clause: str) -> str:
    """The clause as a sentence of its own after a whole sentence, after a comma where the text just stops."""
    if text[-1] in ".!?":
        return f"{text} {clause[0].upper()}{clause[1:]}."
    return f"{text}, {clause}"


def _filled(rng: Random, clause: str) -> str:
    chosen = {name: rng.choice(words) for name, words in WORDS.items()}
    return clause.format(
        **chosen,
        number=rng.randrange(10_000, 99_999),
        size=rng.randrange(8, 60),
        year=rng.randrange(14, 26),
        zones=rng.randrange(2, 9),
    )


def _with_typo(rng: Random, text: str) -> str:
    """Two neighbouring letters of one longer word swapped, or one of them left out."""
    words = list(_LONG_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    if rng.random() < 0.5:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
