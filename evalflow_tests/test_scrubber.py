"""Scrubber: personal data becomes a placeholder, everything else stays, and the network is never asked."""

import socket

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from evalflow.adapters.scrubber import Scrubber, _recognisers
from evalflow.settings import Privacy


@pytest.fixture(scope="module")
def scrubber() -> Scrubber:
    return Scrubber(Privacy())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("write to anna.meyer+x@example.co.uk today", "write to <EMAIL_ADDRESS> today"),
        ("my card 4111 1111 1111 1111 was charged", "my card <CREDIT_CARD> was charged"),
        ("4111-1111-1111-1111", "<CREDIT_CARD>"),
        ("send it to DE89 3704 0044 0532 0130 00 please", "send it to <IBAN_CODE> please"),
        ("GB82WEST12345698765432", "<IBAN_CODE>"),
        ("call me on +49 30 901820", "call me on <PHONE_NUMBER>"),
        ("call 212-555-2368 or (415) 555-2671", "call <PHONE_NUMBER> or <PHONE_NUMBER>"),
        ("ring 020 7946 0958 after six", "ring <PHONE_NUMBER> after six"),
    ],
)
def test_personal_data_is_replaced_by_what_it_was(text: str, expected: str, scrubber: Scrubber) -> None:
    scrubbed = scrubber.scrub(text)
    assert scrubbed.text == expected
    assert scrubbed.n_replaced == expected.count("<")


@pytest.mark.parametrize(
    "text",
    [
        "order 12345678 of 2026-06-01",
        "on 2026-06-01 12:30:45 I paid 1,250.00 EUR",
        "top-up of 50 on 12/05/2026",
        "transfer 2500000 to savings",
        "version 3.11.2 build 20260601",
        "pi is 3.14159265",
        "the server 192.168.100.123 is down",
        "ISBN 978-3-16-148410-0",
        "my card ending in 4242 was declined",
        "4111 1111 1111 1112",  # fails the Luhn check
        "DE89370400440532013001",  # fails the IBAN's checksum
        "user@localhost wrote @anna",
        "1 2 3 4 5 6 7 8",
        "",
    ],
)
def test_other_numbers_stay(text: str, scrubber: Scrubber) -> None:
    assert scrubber.scrub(text).text == text
    assert scrubber.scrub(text).n_replaced == 0


def with_luhn(body: str) -> str:
    """The body with the digit that makes its Luhn sum a multiple of ten."""
    doubled = [int(d) * (2 if place % 2 == 0 else 1) for place, d in enumerate(reversed(body))]
    return body + str(-sum(d - 9 if d > 9 else d for d in doubled) % 10)


def test_the_luhn_digit_of_a_known_card() -> None:
    assert with_luhn("411111111111111") == "4111111111111111"


cards = st.builds(with_luhn, st.text("0123456789", min_size=14, max_size=14).map("4".__add__))


@given(cards, st.sampled_from(["", " ", "-"]))
@hypothesis_settings(max_examples=100)
def test_no_card_that_passes_its_check_gets_through(scrubber: Scrubber, card: str, gap: str) -> None:
    written = gap.join(card[i : i + 4] for i in range(0, 16, 4))
    scrubbed = scrubber.scrub(f"please charge {written} now")
    assert written not in scrubbed.text
    assert scrubbed.text.startswith("please charge <")


emails = st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z0-9]{1,8})?@[a-z][a-z0-9]{0,8}\.(com|org|de|co\.uk)", fullmatch=True)


@given(emails, st.sampled_from([" ", "\n", ", ", ": "]))
@hypothesis_settings(max_examples=100)
def test_no_email_address_gets_through(scrubber: Scrubber, address: str, before: str) -> None:
    assert address not in scrubber.scrub(f"write to{before}{address} please").text


@given(st.text(st.characters(exclude_categories=["Cs", "Nd"], exclude_characters="@")))
@hypothesis_settings(max_examples=50)
def test_a_text_without_digits_or_at_signs_stays_as_it_is(scrubber: Scrubber, text: str) -> None:
    assert scrubber.scrub(text).text == text


@given(st.text("0123456789 +-()@.abcXYZ", max_size=60))
@hypothesis_settings(max_examples=100)
def test_scrubbing_twice_finds_nothing_more_of_what_it_put_in(scrubber: Scrubber, text: str) -> None:
    once = scrubber.scrub(text)
    assert scrubber.scrub(text) == once
    assert once.n_replaced == sum(once.text.count(f"<{entity}>") for entity in Privacy().entities)


def test_a_missing_text_is_an_empty_one(scrubber: Scrubber) -> None:
    assert (scrubber.scrub(None).text, scrubber.scrub(None).n_replaced) == ("", 0)


def test_only_what_the_settings_name_is_replaced() -> None:
    emails_only = Scrubber(Privacy(entities=["EMAIL_ADDRESS"]))
    assert emails_only.scrub("a.b@example.com +49 30 901820").text == "<EMAIL_ADDRESS> +49 30 901820"


def test_a_national_format_is_known_where_its_country_is_listed() -> None:
    text = "ring 020 7946 0958"
    assert Scrubber(Privacy(phone_regions=["GB"])).scrub(text).n_replaced == 1
    assert Scrubber(Privacy(phone_regions=["US"])).scrub(text).n_replaced == 0


def test_the_network_is_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("the scrubber asked the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    _recognisers.cache_clear()
    assert Scrubber(Privacy()).scrub("anna@example.co.uk, +49 30 901820").text == "<EMAIL_ADDRESS>, <PHONE_NUMBER>"
