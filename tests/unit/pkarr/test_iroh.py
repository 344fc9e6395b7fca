"""What an iroh endpoint says of itself."""

from relay.pkarr import dns_build
from relay.pkarr.dns_text import records
from relay.pkarr.iroh import iroh_attributes
from relay.pkarr.keys import Keypair

KEY = Keypair.from_seed(bytes(range(32))).public_key
OTHER = Keypair.from_seed(bytes(32)).public_key


def attributes(*new):
    return iroh_attributes(KEY, records(dns_build.message(KEY, new)))


def test_attributes_in_their_order():
    assert attributes(
        dns_build.txt("_iroh", "addr=203.0.113.9:4433"),
        dns_build.txt("_iroh", "relay=https://relay.example/?a=b"),
        dns_build.txt("_iroh", "addr=[2001:db8::9]:4433"),
        dns_build.txt("_iroh", 'user-data=say "hi"'),
    ) == {
        "addr": ["203.0.113.9:4433", "[2001:db8::9]:4433"],
        "relay": ["https://relay.example/?a=b"],
        "user-data": [r"say \"hi\""],
    }


def test_what_is_no_endpoints():
    assert (
        attributes(
            dns_build.txt("_iroh", "relay"),
            dns_build.txt("_iroh.x", "relay=x"),
            dns_build.txt("@", "relay=x"),
            dns_build.a("_iroh", "192.0.2.1"),
        )
        == {}
    )
    message = dns_build.message(OTHER, [dns_build.txt("_iroh", "relay=x")])
    assert iroh_attributes(KEY, records(message)) == {}
