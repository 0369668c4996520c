"""Write ``cpp/src/kernels/math_coefficients.h``: every constant of ``math-inl.h``.

Each polynomial is a weighted minimax fit (Remez exchange on a dense grid, in 60-digit
arithmetic).  Coefficients are rounded to the target type one after another, the lowest
power first.  Where possible, the others are fitted again after each rounding, so that
they compensate for it.

Usage: ``python fit_coefficients.py [output]``.  Needs mpmath; prints the error of every
fit in units of the target type's half ULP at 1.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mpmath import mp, mpf  # type: ignore[import-untyped]

mp.dps = 60

Function = Callable[[mpf], mpf]

# Distance from 1 to the next lower number: the error unit of relative fits.
UNIT = {"F": mpf(2) ** -24, "D": mpf(2) ** -53}
MANTISSA_BITS = {"F": 24, "D": 53}
C_TYPE = {"F": "float", "D": "double"}

# Factor on the exact reduced range: the quotient that chooses the piece is itself
# rounded, so reduced arguments may lie slightly outside the exact range.
SLACK = mpf("1.0005")


def to_type(x: mpf, kind: str) -> mpf:
    """Round to float ("F") or double ("D"), correctly; normal range only."""
    if x == 0:
        return mpf(0)
    _, exponent = mp.frexp(x)
    scale = mpf(2) ** (MANTISSA_BITS[kind] - exponent)
    return mp.nint(x * scale) / scale


def literal(x: mpf, kind: str) -> str:
    """C++ hexadecimal literal of a number that is representable."""
    value = float(x)
    if mpf(value) != x:
        raise ValueError(f"{x} is not representable")
    suffix = "f" if kind == "F" else ""
    digits, exponent = value.hex().split("p")
    digits = digits.rstrip("0").rstrip(".")
    return f"{digits}p{exponent}{suffix}"


def remez(
    target: Sequence[mpf], basis: Sequence[Sequence[mpf]], weight: Sequence[mpf]
) -> tuple[list[mpf], mpf]:
    """Minimise ``max |weight * (target - sum c_j basis_j)|`` over a grid.

    ``basis[j][i]`` is basis function j at grid point i.  Returns the coefficients and
    the largest weighted error.
    """
    count = len(basis)
    points = len(target)
    if count == 0:
        return [], max(abs(w * t) for w, t in zip(weight, target, strict=True))
    chosen = [
        round(float((1 - mp.cos(mp.pi * k / count)) / 2 * (points - 1)))
        for k in range(count + 1)
    ]
    coefficients: list[mpf] = []
    worst = mpf("inf")
    for _ in range(40):
        matrix = mp.matrix(count + 1, count + 1)
        right = mp.matrix(count + 1, 1)
        for row, i in enumerate(chosen):
            for j in range(count):
                matrix[row, j] = basis[j][i]
            matrix[row, count] = (-1) ** row / weight[i]
            right[row] = target[i]
        solution = mp.lu_solve(matrix, right)
        trial = [solution[j] for j in range(count)]
        level = abs(solution[count])
        error = [
            weight[i]
            * (target[i] - mp.fsum(trial[j] * basis[j][i] for j in range(count)))
            for i in range(points)
        ]
        largest = max(abs(e) for e in error)
        if largest < worst:
            coefficients, worst = trial, largest
        if largest <= level * mpf("1.001"):
            break
        # Keep one extremum for each run of errors of equal sign. While there are too
        # many, drop the weaker of the two outermost ones.
        extrema: list[int] = []
        for i in range(points):
            if extrema and (error[i] > 0) == (error[extrema[-1]] > 0):
                if abs(error[i]) > abs(error[extrema[-1]]):
                    extrema[-1] = i
            else:
                extrema.append(i)
        if len(extrema) < count + 1:
            break
        while len(extrema) > count + 1:
            if abs(error[extrema[0]]) < abs(error[extrema[-1]]):
                extrema.pop(0)
            else:
                extrema.pop()
        chosen = extrema
    return coefficients, worst


def fit(
    name: str,
    kind: str,
    count: int,
    target: Function,
    weight: Function,
    low: mpf,
    high: mpf,
) -> list[mpf]:
    """Polynomial of ``count`` coefficients in x, each representable in ``kind``."""
    points = 24 * (count + 1)
    # Inner points of a Chebyshev grid, so that no point falls on a removable
    # singularity at an end of the interval.
    grid = [
        (low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * (i + mpf(1) / 2) / points)
        for i in range(points)
    ]
    values = [target(x) for x in grid]
    weights = [weight(x) for x in grid]
    powers = [[x**j for x in grid] for j in range(count)]
    coefficients, ideal = remez(values, powers, weights)
    result: list[mpf] = []
    rest = values
    for j in range(count):
        c = to_type(coefficients[0], kind)
        result.append(c)
        rest = [v - c * p for v, p in zip(rest, powers[j], strict=True)]
        # If 0 is inside the interval, the powers above the first do not form a
        # Chebyshev system.
        if low >= 0 and j + 1 < count:
            coefficients, _ = remez(rest, powers[j + 1 :], weights)
        else:
            coefficients = coefficients[1:]
    final = max(abs(w * r) for w, r in zip(weights, rest, strict=True))
    unit = UNIT[kind]
    print(
        f"{name}{kind}: {count} coefficients, error {mp.nstr(final / unit, 4)} units"
        f" (unrounded {mp.nstr(ideal / unit, 4)})"
    )
    return result


# --- the functions -------------------------------------------------------------------


def exp_tail(kind: str, count: int) -> list[mpf]:
    """(e^r - 1 - r) / r^2 for |r| <= ln 2 / 2; relative error of e^r - 1.

    The first coefficient is exactly 1/2; the others are fitted.
    """
    bound = mp.ln(2) / 2 * SLACK
    rest = fit(
        "kExp",
        kind,
        count - 1,
        lambda r: (mp.expm1(r) - r - r**2 / 2) / r**3,
        lambda r: abs(r**3 / mp.expm1(r)),
        -bound,
        bound,
    )
    return [mpf(1) / 2, *rest]


def tanh_tail(kind: str, count: int) -> list[mpf]:
    """(tanh h - h) / h^3 in q = h^2, |h| <= ln 2 / 4; relative error of tanh h."""
    bound = mp.ln(2) / 4 * SLACK

    def target(q: mpf) -> mpf:
        h = mp.sqrt(q)
        return (mp.tanh(h) - h) / (h * q)

    def weight(q: mpf) -> mpf:
        h = mp.sqrt(q)
        return h * q / mp.tanh(h)

    return fit("kTanh", kind, count, target, weight, mpf(0), bound**2)


def log_tail(name: str, kind: str, count: int, bound: mpf) -> list[mpf]:
    """(2 atanh(s) / s - 2) / q in q = s^2, |s| <= bound; relative error of the log."""

    def target(q: mpf) -> mpf:
        s = mp.sqrt(q)
        return (2 * mp.atanh(s) / s - 2) / q

    def weight(q: mpf) -> mpf:
        s = mp.sqrt(q)
        return s * q / (2 * mp.atanh(s))

    return fit(name, kind, count, target, weight, mpf(0), bound**2)


def sin_tail(kind: str, count: int) -> list[mpf]:
    """(sin r - r) / r^3 in q = r^2, |r| <= pi / 4; relative error of sin r."""
    bound = mp.pi / 4 * SLACK

    def target(q: mpf) -> mpf:
        r = mp.sqrt(q)
        return (mp.sin(r) - r) / (r * q)

    def weight(q: mpf) -> mpf:
        r = mp.sqrt(q)
        return r * q / mp.sin(r)

    return fit("kSin", kind, count, target, weight, mpf(0), bound**2)


def cos_tail(kind: str, count: int) -> list[mpf]:
    """(cos r - 1 + r^2 / 2) / r^4 in q = r^2, |r| <= pi / 4; relative error of cos."""
    bound = mp.pi / 4 * SLACK

    def target(q: mpf) -> mpf:
        return (mp.cos(mp.sqrt(q)) - 1 + q / 2) / q**2

    def weight(q: mpf) -> mpf:
        return q**2 / mp.cos(mp.sqrt(q))

    return fit("kCos", kind, count, target, weight, mpf(0), bound**2)


def erf_exponent(kind: str, count: int, limit: mpf, leading: mpf) -> list[mpf]:
    """ln(erfc a) / a - leading for a in [0, limit]; relative error of erf a."""
    return fit(
        "kErf",
        kind,
        count,
        lambda a: mp.ln(mp.erfc(a)) / a - leading,
        lambda a: a * mp.erfc(a) / mp.erf(a),
        mpf(0),
        limit,
    )


def erfc_factor(kind: str, count: int, limit: mpf, centre: mpf) -> list[mpf]:
    """erfc(a) e^(a^2) (a + K) in t = (a - K) / (a + K), a in [0, limit], K = centre."""

    def at(t: mpf) -> mpf:
        return centre * (1 + t) / (1 - t)

    def target(t: mpf) -> mpf:
        a = at(t)
        return mp.erfc(a) * mp.exp(a * a) * (a + centre)

    return fit(
        "kErfc",
        kind,
        count,
        target,
        lambda t: 1 / target(t),
        mpf(-1),
        (limit - centre) / (limit + centre),
    )


def parts(x: mpf, kind: str, count: int) -> list[mpf]:
    """Split x into ``count`` numbers of the type, each nearest to the remainder."""
    result = []
    for _ in range(count):
        piece = to_type(x, kind)
        result.append(piece)
        x -= piece
    return result


# --- the header ----------------------------------------------------------------------


def array(name: str, kind: str, values: Sequence[mpf]) -> str:
    """Definition of a constant array."""
    body = "".join(f"    {literal(v, kind)},\n" for v in values)
    return f"static constexpr {C_TYPE[kind]} {name}{kind}[] = {{\n{body}}};\n"


def scalar(name: str, kind: str, value: mpf) -> str:
    """Definition of a constant."""
    text = literal(value, kind)
    return f"static constexpr {C_TYPE[kind]} {name}{kind} = {text};\n"


def two_over_pi_words(count: int) -> str:
    """Table of the binary digits of 2 / pi, from 64 places before the point."""
    with mp.workprec(32 * count + 64):
        digits = int(mp.floor(mpf(2) ** (32 * count + 1) / mp.pi))
    words = [0, 0]
    words += [(digits >> (32 * (count - 1 - i))) & 0xFFFFFFFF for i in range(count)]
    lines = []
    for i in range(0, len(words), 6):
        lines.append("    " + " ".join(f"0x{w:08X}u," for w in words[i : i + 6]) + "\n")
    return f"static constexpr uint32_t kTwoOverPiBits[] = {{\n{''.join(lines)}}};\n"


def main() -> None:
    """Fit everything and write the header."""
    default = Path(__file__).resolve().parents[1] / "src/kernels/math_coefficients.h"
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    pieces: list[str] = []
    both = ("F", "D")

    exp_count = {"F": 5, "D": 11}
    tanh_count = {"F": 3, "D": 6}
    log_count = {"F": 3, "D": 7}
    log01_count = {"F": 4, "D": 10}
    sin_count = {"F": 3, "D": 6}
    cos_count = {"F": 3, "D": 6}
    erf_count = {"F": 9, "D": 24}
    erf_limit = {"F": mpf("3.95"), "D": mpf("5.95")}
    erfc_count = {"F": 11, "D": 22}
    erfc_limit = {"F": mpf("10.1"), "D": mpf("27.3")}
    # Chosen among nearby values because these coefficients lose little accuracy when
    # rounded and give erfc(0) = 1.
    erfc_centre = {"F": mpf("1.65625"), "D": mpf(4)}

    for kind in both:
        log2e = to_type(1 / mp.ln(2), kind)
        ln2 = parts(mp.ln(2), kind, 2)
        pieces.append("// Range reduction of exp: log2(e), and ln 2 in two parts.\n")
        pieces.append(scalar("kLog2E", kind, log2e))
        pieces.append(scalar("kLn2Hi", kind, ln2[0]))
        pieces.append(scalar("kLn2Lo", kind, ln2[1]))
        pieces.append("\n// Polynomial in r for (e^r - 1 - r) / r^2.\n")
        pieces.append(array("kExp", kind, exp_tail(kind, exp_count[kind])))
        pieces.append("\n// Polynomial in h^2 for (tanh h - h) / h^3.\n")
        pieces.append(array("kTanh", kind, tanh_tail(kind, tanh_count[kind])))
        pieces.append(
            "\n// Polynomial in s^2 for (2 atanh(s)/s - 2)/s^2, |s| <= 3 - 2 sqrt 2.\n"
        )
        bound = (mp.sqrt(2) - 1) / (mp.sqrt(2) + 1) * SLACK
        pieces.append(
            array("kLog", kind, log_tail("kLog", kind, log_count[kind], bound))
        )
        pieces.append(
            "\n// Polynomial in s^2 for (2 atanh(s)/s - 2)/s^2, |s| <= 1/3.\n"
        )
        bound = mpf(1) / 3 * SLACK
        pieces.append(
            array("kLog01", kind, log_tail("kLog01", kind, log01_count[kind], bound))
        )
        pieces.append("\n// Range reduction of sin: 2/pi, and pi/2 in three parts.\n")
        half_pi = parts(mp.pi / 2, kind, 3)
        pieces.append(scalar("kTwoOverPi", kind, to_type(2 / mp.pi, kind)))
        pieces.append(scalar("kHalfPi1", kind, half_pi[0]))
        pieces.append(scalar("kHalfPi2", kind, half_pi[1]))
        pieces.append(scalar("kHalfPi3", kind, half_pi[2]))
        pieces.append("\n// Polynomial in r^2 for (sin r - r) / r^3.\n")
        pieces.append(array("kSin", kind, sin_tail(kind, sin_count[kind])))
        pieces.append("\n// Polynomial in r^2 for (cos r - 1 + r^2 / 2) / r^4.\n")
        pieces.append(array("kCos", kind, cos_tail(kind, cos_count[kind])))
        leading = to_type(-2 / mp.sqrt(mp.pi), kind)
        pieces.append("\n// ln(erfc a) / a is this constant plus a polynomial in a.\n")
        pieces.append(scalar("kErfLeading", kind, leading))
        pieces.append(
            array(
                "kErf",
                kind,
                erf_exponent(kind, erf_count[kind], erf_limit[kind], leading),
            )
        )
        pieces.append(
            "\n// K and a polynomial in (a - K)/(a + K) for erfc(a) e^(a^2) (a + K).\n"
        )
        pieces.append(scalar("kErfcCentre", kind, erfc_centre[kind]))
        pieces.append(
            array(
                "kErfc",
                kind,
                erfc_factor(
                    kind, erfc_count[kind], erfc_limit[kind], erfc_centre[kind]
                ),
            )
        )
        pieces.append("\n")

    # The largest double has exponent 1024; 192 bits are read from a position up to
    # there.
    pieces.append(
        "// Binary digits of 2/pi, starting 64 places before the binary point.\n"
    )
    pieces.append(two_over_pi_words(40))
    pieces.append("\n// pi/2 in units of 2^-63.\n")
    pieces.append(
        f"static constexpr uint64_t kHalfPiBits = 0x{int(mp.nint(mp.pi * 2**62)):X}u;\n"
    )

    header = (
        "// Generated by cpp/tools/fit_coefficients.py: do not edit.\n"
        "// clang-format off\n"
        "#pragma once\n\n#include <stdint.h>\n\n"
        "namespace fastmlp {\nnamespace FASTMLP_ISA {\n\n"
    )
    footer = "\n}  // namespace FASTMLP_ISA\n}  // namespace fastmlp\n"
    output.write_text(header + "".join(pieces) + footer)


if __name__ == "__main__":
    main()
