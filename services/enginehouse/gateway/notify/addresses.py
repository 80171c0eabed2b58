"""Tells addresses of the outside from those that lead inside: to this machine, its networks, or into a special range."""

import ipaddress

_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.31.196.0/24",  # AS112
            "192.52.193.0/24",  # AMT relays
            "192.88.99.0/24",  # relays of 6to4
            "192.175.48.0/24",  # AS112
            "168.63.129.16/32",  # Azure's host, from inside each of its machines
            "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks, anycast of Port Control Protocol, …
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: leads to an IPv4 address
            "2620:4f:8000::/48",  # AS112
            "3ffe::/16",  # 6bone
            "3fff::/20",  # documentation
        ),
    )
)
"""Ranges of IANA's registries of special-purpose addresses that some version of `ipaddress` calls global."""
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
"""The only part of IPv6 from which addresses for everybody are given out."""
_HOLDS_IPV4 = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))
"""Networks whose addresses end in the IPv4 address to which they lead: IPv4-mapped and NAT64 addresses."""


def is_outside(address: str) -> bool:
    """Say whether a packet to this address leaves for the public internet, whichever form the address has."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if any(ip in network for network in _HOLDS_IPV4):
            return is_outside(str(ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)))
        if ip not in _GLOBAL_IPV6:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _SPECIAL)
