"""RSA keys of the Infineon library with the flaw ROCA (CVE-2017-15361), whose private key can be computed.

The primes of such a key are `k · M + (65537ᵃ mod M)`, where M is the product of the first primes. So its
modulus is a power of 65537 modulo M, and has a discrete logarithm to the base 65537. That of another key has
one by chance once in 2¹⁵⁰ (Nemec and others, "The Return of Coppersmith's Attack", ACM CCS 2017, §4.1).
"""

from itertools import count
from math import lcm, prod
from typing import Final

_GENERATOR: Final = 65537
_PRIMES: Final = tuple(n for n in range(2, 168) if all(n % d for d in range(2, n)))
"""The first 39 primes: those of M for the shortest keys, and a part of M for all others."""
_MODULUS: Final = prod(_PRIMES)


def _factors(number: int) -> dict[int, int]:
    """Return the prime powers of a small number: prime → exponent."""
    found: dict[int, int] = {}
    for divisor in count(2):
        while number % divisor == 0:
            found[divisor] = found.get(divisor, 0) + 1
            number //= divisor
        if number == 1:
            return found
    raise AssertionError("unreachable: the loop has no other end")


def _order(prime: int) -> int:
    """Return the order of the generator modulo a small prime."""
    return next(n for n in count(1) if pow(_GENERATOR, n, prime) == 1 % prime)


_ORDER: Final = lcm(*(_order(prime) for prime in _PRIMES))
"""The order of the generator modulo M, a product of small primes."""
_ORDER_FACTORS: Final = _factors(_ORDER)


def is_vulnerable(modulus: int) -> bool:
    """Return whether the modulus of an RSA key has the fingerprint of ROCA."""
    element = modulus % _MODULUS
    # Most keys end here: no power of the generator has another order.
    return pow(element, _ORDER, _MODULUS) == 1 and _has_logarithm(element)


def _has_logarithm(element: int) -> bool:
    """Find the discrete logarithm in the subgroup of each prime power (Pohlig and Hellman), and check it."""
    logarithm, period = 0, 1
    for prime, exponent in _ORDER_FACTORS.items():
        size = prime**exponent
        base = pow(_GENERATOR, _ORDER // size, _MODULUS)
        wanted = pow(element, _ORDER // size, _MODULUS)
        residue = next((n for n in range(size) if pow(base, n, _MODULUS) == wanted), None)
        if residue is None:
            return False
        # The Chinese remainder theorem, one step for each prime power.
        logarithm += period * ((residue - logarithm) * pow(period, -1, size) % size)
        period *= size
    return pow(_GENERATOR, logarithm, _MODULUS) == element
