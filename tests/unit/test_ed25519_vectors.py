"""Published and recorded ed25519 vectors against both twins, and the compiled kernel's parts.

Vectors: RFC 8032, section 7.1 (all five of plain Ed25519), and the reference's verdicts in
../shared/vectors. Parts: SHA-512 against `hashlib`, field and scalar arithmetic against Python's
integers, at the values where carries and reductions change their course.
"""

import hashlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay._pure import ed25519 as pure
from relay._speedups import ed25519 as compiled

VECTORS = Path(__file__).parents[3] / "shared" / "vectors"
ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"

RFC_8032 = {
    "TEST 1": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701c"
        "f9b46bd25bf5f0595bbe24655141438e7a100b",
        "",
    ),
    "TEST 2": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0"
        "f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        "72",
    ),
    "TEST 3": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f76098"
        "4dc6594a7c15e9716ed28dc027beceea1ec40a",
        "af82",
    ),
    "TEST 1024": (
        "278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e",
        "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350aa5371b1508f9f4528ecea23c4"
        "36d94b5e8fcd4f681e30a6ac00a9704a188a03",
        "08b8b2b733424243760fe426a4b54908632110a66c2f6591eabd3345e3e4eb98fa6e264bf09efe12ee50f8f54e"
        "9f77b1e355f6c50544e23fb1433ddf73be84d879de7c0046dc4996d9e773f4bc9efe5738829adb26c81b37c93a"
        "1b270b20329d658675fc6ea534e0810a4432826bf58c941efb65d57a338bbd2e26640f89ffbc1a858efcb8550e"
        "e3a5e1998bd177e93a7363c344fe6b199ee5d02e82d522c4feba15452f80288a821a579116ec6dad2b3b310da9"
        "03401aa62100ab5d1a36553e06203b33890cc9b832f79ef80560ccb9a39ce767967ed628c6ad573cb116dbefef"
        "d75499da96bd68a8a97b928a8bbc103b6621fcde2beca1231d206be6cd9ec7aff6f6c94fcd7204ed3455c68c83"
        "f4a41da4af2b74ef5c53f1d8ac70bdcb7ed185ce81bd84359d44254d95629e9855a94a7c1958d1f8ada5d0532e"
        "d8a5aa3fb2d17ba70eb6248e594e1a2297acbbb39d502f1a8c6eb6f1ce22b3de1a1f40cc24554119a831a9aad6"
        "079cad88425de6bde1a9187ebb6092cf67bf2b13fd65f27088d78b7e883c8759d2c4f5c65adb7553878ad575f9"
        "fad878e80a0c9ba63bcbcc2732e69485bbc9c90bfbd62481d9089beccf80cfe2df16a2cf65bd92dd597b0707e0"
        "917af48bbb75fed413d238f5555a7a569d80c3414a8d0859dc65a46128bab27af87a71314f318c782b23ebfe80"
        "8b82b0ce26401d2e22f04d83d1255dc51addd3b75a2b1ae0784504df543af8969be3ea7082ff7fc9888c144da2"
        "af58429ec96031dbcad3dad9af0dcbaaaf268cb8fcffead94f3c7ca495e056a9b47acdb751fb73e666c6c655ad"
        "e8297297d07ad1ba5e43f1bca32301651339e22904cc8c42f58c30c04aafdb038dda0847dd988dcda6f3bfd15c"
        "4b4c4525004aa06eeff8ca61783aacec57fb3d1f92b0fe2fd1a85f6724517b65e614ad6808d6f6ee34dff7310f"
        "dc82aebfd904b01e1dc54b2927094b2db68d6f903b68401adebf5a7e08d78ff4ef5d63653a65040cf9bfd4aca7"
        "984a74d37145986780fc0b16ac451649de6188a7dbdf191f64b5fc5e2ab47b57f7f7276cd419c17a3ca8e1b939"
        "ae49e488acba6b965610b5480109c8b17b80e1b7b750dfc7598d5d5011fd2dcc5600a32ef5b52a1ecc820e308a"
        "a342721aac0943bf6686b64b2579376504ccc493d97e6aed3fb0f9cd71a43dd497f01f17c0e2cb3797aa2a2f25"
        "6656168e6c496afc5fb93246f6b1116398a346f1a641f3b041e989f7914f90cc2c7fff357876e506b50d334ba7"
        "7c225bc307ba537152f3f1610e4eafe595f6d9d90d11faa933a15ef1369546868a7f3a45a96768d40fd9d03412"
        "c091c6315cf4fde7cb68606937380db2eaaa707b4c4185c32eddcdd306705e4dc1ffc872eeee475a64dfac86ab"
        "a41c0618983f8741c5ef68d3a101e8a3b8cac60c905c15fc910840b94c00a0b9d0",
    ),
    "TEST SHA(abc)": (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c664"
        "31e0303dca179c138ac17ad9bef1177331a704",
        hashlib.sha512(b"abc").hexdigest(),
    ),
}


def cases(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())["cases"]
    return loaded


def constant(size: int) -> bytes:
    """Return coefficients for batches of vectors, where nobody forges anything."""
    return bytes(index % 251 + 1 for index in range(size))


def signable(payload: bytes) -> bytes:
    """Return what the signature of a relay body signs (protocol.md, section 2)."""
    timestamp_us, dns = int.from_bytes(payload[64:72]), payload[72:]
    return b"3:seqi%de1:v%d:%s" % (timestamp_us, len(dns), dns)


def key_octets(letters: str) -> bytes:
    """Return the 32 bytes of a key's 52 letters, which end in four bits of padding."""
    number = 0
    for letter in letters:
        number = number << 5 | ALPHABET.index(letter)
    return (number >> 4).to_bytes(32)


@pytest.fixture(params=[compiled, pure], ids=["compiled", "pure"])
def twin(request: pytest.FixtureRequest) -> ModuleType:
    module: ModuleType = request.param
    return module


@pytest.mark.parametrize("name", RFC_8032)
def test_rfc_8032(twin: ModuleType, name: str) -> None:
    key, signature, message = map(bytes.fromhex, RFC_8032[name])
    assert twin.is_point(key)
    assert twin.verify(key, signature, message)
    assert not twin.verify(key, signature, message + b"\0")


def test_rfc_8032_as_a_batch(twin: ModuleType) -> None:
    items = [tuple(map(bytes.fromhex, vector)) for vector in RFC_8032.values()]
    altered = [(key, signature, message + b"\0") for key, signature, message in items]
    assert twin.verify_batch(items, constant) == [True] * 5
    assert twin.verify_batch(items + altered, constant) == [True] * 5 + [False] * 5


@pytest.mark.parametrize("case", cases("ed25519-edge"), ids=lambda case: str(case["id"]))
def test_edge_keys_and_signatures(twin: ModuleType, case: dict[str, Any]) -> None:
    """The reference's verdict where libraries differ."""
    key = bytes.fromhex(case["key_hex"])
    if "key_ok" in case:
        assert twin.is_point(key) is case["key_ok"]
        return
    payload = bytes.fromhex(case["payload_hex"])
    item = (key, payload[:64], signable(payload))
    assert twin.verify(*item) is case["ok"]
    assert twin.verify_batch([item, item], constant) == [case["ok"]] * 2


def test_edge_signatures_as_a_batch(twin: ModuleType) -> None:
    edge = [case for case in cases("ed25519-edge") if "payload_hex" in case]
    payloads = [bytes.fromhex(case["payload_hex"]) for case in edge]
    items = [
        (bytes.fromhex(case["key_hex"]), payload[:64], signable(payload))
        for case, payload in zip(edge, payloads, strict=True)
    ]
    assert twin.verify_batch(items, constant) == [case["ok"] for case in edge]


def test_keys_that_are_points_and_keys_that_are_not(twin: ModuleType) -> None:
    verdicts = {True: 0, False: 0}
    for case in cases("keystrings"):
        if case["ok"]:
            assert twin.is_point(bytes.fromhex(case["public_key"])), case["id"]
            verdicts[True] += 1
        elif case["error"] == "not_a_point":
            assert not twin.is_point(key_octets(case["input"])), case["id"]
            verdicts[False] += 1
    assert verdicts[True] > 10
    assert verdicts[False] > 10


def test_recorded_signatures() -> None:
    """Items and packets whose signature the reference accepted, and packets where it did not."""
    items = []
    expected = []
    for case in cases("bep44"):
        value = bytes.fromhex(case["signable_hex"])
        items.append((bytes.fromhex(case["public_key"]), bytes.fromhex(case["signature"]), value))
        expected.append(case["signature_valid"])
    for case in cases("invalid"):
        payload = bytes.fromhex(case["payload_hex"])
        if len(payload) >= 72 and case.get("error") in ("signature", "dns"):
            items.append((key_octets(case["key"]), payload[:64], signable(payload)))
            expected.append(case["error"] == "dns")
    assert True in expected
    assert False in expected
    assert [compiled.verify(*item) for item in items] == expected
    assert compiled.verify_batch(items, constant) == expected
    assert [pure.verify(*item) for item in items] == expected


@given(st.binary(max_size=600), st.integers(0, 600))
@example(bytes(111), 0)
@example(bytes(112), 0)
@example(bytes(127), 127)
@example(bytes(128), 1)
@example(bytes(240), 128)
def test_sha512(data: bytes, split: int) -> None:
    split = min(split, len(data))
    assert compiled._sha512(data, split) == hashlib.sha512(data).digest()


EDGES_OF_FIELD = [
    0, 1, 2, 18, 19, 20, pure.P - 2, pure.P - 1, pure.P, pure.P + 1, pure.P + 18,
    2**51 - 1, 2**51, 2**102 - 1, 2**153, 2**204 - 1, 2**254, 2**255 - 1,
    sum((2**51 - 1) << 102 * i for i in range(3)),
    sum((2**51 - 1) << 51 + 102 * i for i in range(2)),
]  # fmt: skip
four_elements = st.lists(
    st.sampled_from(EDGES_OF_FIELD) | st.integers(0, 2**255 - 1), min_size=4, max_size=4
)


def joined(numbers: list[int]) -> bytes:
    return b"".join(number.to_bytes(32, "little") for number in numbers)


@pytest.mark.parametrize("lanes", [True, False], ids=["lanes", "portable"])
@given(four_elements, four_elements)
@example([2**255 - 1] * 4, [2**255 - 1] * 4)
@example([pure.P - 1, pure.P, 2**255 - 20, 0], [2**255 - 1] * 4)
def test_field_products(lanes: bool, left: list[int], right: list[int]) -> None:
    """Also of factors as large as the proofs of ed25519_field.h and ed25519_lanes.h allow."""
    lanes = compiled._allow_lanes(lanes)
    try:
        for m, n in ((1, 1), (5, 3) if lanes else (7, 7)):
            products, squares = compiled._field_products(joined(left), joined(right), m, n)
            assert products == joined(
                [m * a * n * b % pure.P for a, b in zip(left, right, strict=True)]
            )
            assert squares == joined([n * b * n * b % pure.P for b in right])
    finally:
        compiled._allow_lanes(True)


EDGES_OF_SCALARS = [
    0, 1, 2**64 - 1, 2**64, 2**127 - 1, 2**127, 2**128 - 1, 2**252, 2**253 - 1, 2**255, 2**256 - 1,
    *(multiple * pure.L + offset for multiple in (1, 2, 15) for offset in (-1, 0, 1)),
]  # fmt: skip
EDGES_OF_WIDE = [2**256, 2**512 - 1, 2**259 * pure.L, 2**259 * pure.L - 1, pure.L * pure.L]


@given(
    st.sampled_from(EDGES_OF_SCALARS) | st.integers(0, 2**256 - 1),
    st.sampled_from(EDGES_OF_SCALARS + EDGES_OF_WIDE) | st.integers(0, 2**512 - 1),
)
def test_scalar_products(left: int, right: int) -> None:
    product = compiled._scalar_product(left.to_bytes(32, "little"), right.to_bytes(64, "little"))
    assert product == left * right % pure.L


@settings(max_examples=300)
@given(
    st.sampled_from(EDGES_OF_SCALARS + EDGES_OF_WIDE)
    | st.integers(0, 2**512 - 1)
    # Quotients in Euclid's algorithm as large as they get: k near L / small and near 2^127.
    | st.builds(lambda n, d: pure.L // n + d, st.integers(1, 2**130), st.integers(-3, 3)).filter(
        bool
    )
    | st.builds(lambda d: 2**127 + d, st.integers(-5, 5))
)
def test_half_length_scalars(wide: int) -> None:
    """t k = r modulo L, with the lengths that the doublings saved rest on."""
    t, r = compiled._scalar_halves((wide % 2**512).to_bytes(64, "little"))
    assert 0 < abs(t) < 2**126
    assert 0 <= r < 2**127
    assert (t * wide - r) % pure.L == 0
