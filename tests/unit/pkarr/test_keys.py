"""Keys against the reference's vectors, and the corners they leave out."""

import json
from pathlib import Path

import pytest

from relay.errors import PublicKeyError
from relay.pkarr import zbase32
from relay.pkarr.keys import Keypair, PublicKey

VECTORS = Path(__file__).parents[4] / "shared" / "vectors"
KEYS = json.loads((VECTORS / "keys.json").read_text())["cases"]
KEYSTRINGS = json.loads((VECTORS / "keystrings.json").read_text())["cases"]
EDGE_KEYS = [
    case
    for case in json.loads((VECTORS / "ed25519-edge.json").read_text())["cases"]
    if "key_ok" in case
]


@pytest.mark.parametrize("case", KEYS, ids=lambda case: case["id"])
def test_key_vector(case):
    keypair = Keypair.from_seed(bytes.fromhex(case["seed"]))
    key = keypair.public_key
    assert key.octets.hex() == case["public_key"]
    assert str(key) == case["z32"]
    assert key.uri == case["uri"]
    assert key.target.hex() == case["dht_target"]
    assert PublicKey.parse(case["z32"]) == PublicKey.parse(case["uri"]) == key
    assert keypair.seed.hex() == case["seed"]


@pytest.mark.parametrize("case", KEYSTRINGS, ids=lambda case: case["id"])
def test_keystring_vector(case):
    if case["ok"]:
        key = PublicKey.parse(case["input"])
        assert (key.octets.hex(), str(key)) == (case["public_key"], case["z32"])
    else:
        with pytest.raises(PublicKeyError) as caught:
            PublicKey.parse(case["input"])
        assert (caught.value.fault, str(caught.value)) == (case["error"], case["message"])


@pytest.mark.parametrize("case", EDGE_KEYS, ids=lambda case: case["id"])
def test_small_order_and_non_canonical_keys(case):
    def parse():
        return PublicKey.parse(case["key"])

    if case["key_ok"]:
        assert parse().octets.hex() == case["key_hex"]
    else:
        with pytest.raises(PublicKeyError):
            parse()


@pytest.mark.parametrize(
    "text",
    ["", "+" + "y" * 51, "_" * 52, "y_" * 26, " " + "y" * 51, "y" * 51 + "\n", "\ud800" * 20],
)
def test_what_int_would_tolerate_is_refused(text):
    with pytest.raises(PublicKeyError):
        PublicKey.parse(text)


def test_length_is_measured_in_utf8_bytes():
    """25 two-byte characters and a key are over 52 bytes, so the subdomain is peeled off."""
    key = "y" * 52
    assert str(PublicKey.parse("é" * 25 + "." + key)) == key
    # 27 characters but 53 bytes: peeled down to the letter after the dot.
    with pytest.raises(PublicKeyError, match="got: 0"):
        PublicKey.parse("é" * 25 + "..y")


def test_octets_are_checked():
    with pytest.raises(PublicKeyError) as caught:
        PublicKey(bytes(31))
    assert caught.value.fault == "length"
    with pytest.raises(PublicKeyError) as caught:
        PublicKey.from_octets(b"\x02" + bytes(31))
    assert caught.value.fault == "not_a_point"


def test_keys_are_dictionary_keys():
    assert {PublicKey(bytes(32)): 1}[PublicKey(bytes(32))] == 1


def test_generated_pairs_differ_and_hide_their_secret():
    one, other = Keypair.generate(), Keypair.generate()
    assert one.public_key != other.public_key
    assert one.seed.hex() not in repr(one)
    assert Keypair.from_seed(one.seed).public_key == one.public_key


def test_seed_length():
    with pytest.raises(ValueError, match="32 bytes"):
        Keypair.from_seed(bytes(31))


def test_signature_is_deterministic():
    """RFC 8032, section 7.1, test 1."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert Keypair.from_seed(seed).sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_zbase32_bytes():
    assert zbase32.encode(b"") == ""
    assert zbase32.decode("") == b""
    assert zbase32.encode(bytes(range(10))) == "yyyoryarywdyqnyj"
    with pytest.raises(ValueError, match="invalid literal"):
        zbase32.decode("l")


@pytest.mark.parametrize("form", ["{hex}", "{HEX}", " {hex}\n", "{key}", "pk:{key}", " {key} "])
def test_keys_as_people_give_them(form: str) -> None:
    key = Keypair.from_seed(bytes(32)).public_key
    digits = key.octets.hex()
    text = form.format(hex=digits, HEX=digits.upper(), key=key)
    assert PublicKey.parse_any(text) == key


@pytest.mark.parametrize("text", ["", "00" * 31, "0g" * 32, "02" + "00" * 31, "٣" * 64])
def test_what_is_no_key_for_people_either(text: str) -> None:
    with pytest.raises(PublicKeyError):
        PublicKey.parse_any(text)
