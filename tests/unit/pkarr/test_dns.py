"""The DNS check against the reference's verdicts and texts."""

import json
from pathlib import Path

import pytest

from relay.errors import PacketError
from relay.pkarr import dns

VECTORS = Path(__file__).parents[4] / "shared" / "vectors"
CASES = json.loads((VECTORS / "dns.json").read_text())["cases"]
UINT32_MAX = 2**32 - 1


def clamp_free_ttl(message):
    return min(dns.min_answer_ttl_s(message) or 0, UINT32_MAX)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_dns_vector(case):
    message = bytes.fromhex(case["dns_hex"])
    if case["ok"]:
        dns.check(message)
        assert clamp_free_ttl(message) == case["ttl"]
    else:
        with pytest.raises(PacketError) as caught:
            dns.check(message)
        assert (caught.value.fault, str(caught.value)) == (case["error"], case["message"])
