"""Types of operands: a width in bits and a kind of number, written "int8", "fp16", "bf16".

The width decides what an operand costs to store and to move, width and kind together what it costs to multiply.  How a
value is rounded or scaled is left out: a cost model sees no values.  Read energy.py for the prices.
"""

from __future__ import annotations

import re

from .errors import InputError, nearest

KINDS = ("int", "float", "bfloat")
FLOAT_BITS = (16, 32, 64)
MOST_BITS = 64
EXAMPLES = ("int4", "int8", "int16", "int32", "fp16", "bf16", "fp32", "fp64")


def parse_type(text: str, where: str = "type") -> tuple[int, str]:
    """(bits, kind) of "int1" to "int64", "fp16", "fp32", "fp64" or "bf16"; InputError for any other text."""
    words = str(text).strip().lower()
    if words == "bf16":
        return 16, "bfloat"
    if (match := re.fullmatch(r"int(\d{1,2})", words)) and 1 <= int(match[1]) <= MOST_BITS:
        return int(match[1]), "int"
    if (match := re.fullmatch(r"fp(\d{1,2})", words)) and int(match[1]) in FLOAT_BITS:
        return int(match[1]), "float"
    raise InputError(f"unknown number type {text!r}", where=where,
                     expected="int1 to int64, fp16, fp32, fp64 or bf16", fix=nearest(words, EXAMPLES))


def type_name(bits: int, kind: str) -> str:
    """The text that parse_type reads: "int8", "fp16", "bf16"."""
    return {"int": "int", "float": "fp", "bfloat": "bf"}[kind] + str(bits)


def problems(bits: int, kind: str) -> str:
    """What is wrong with a width and a kind, or an empty text."""
    if kind not in KINDS:
        return f"{kind!r}; expected one of {', '.join(KINDS)}; {nearest(kind, KINDS)}"
    if (kind == "float" and bits not in FLOAT_BITS) or (kind == "bfloat" and bits != 16):
        return f"{kind!r} of {bits} bits; expected fp16, fp32, fp64 or bf16"
    return ""


def multiplied_as(weight: tuple[int, str], inputs: tuple[int, str]) -> tuple[tuple[int, str], tuple[int, str]]:
    """The types that a multiplier sees: integers as they are, a float and anything else as the type that holds both.

    An integer beside a float is converted to that float before the array; fp16 beside bf16 needs fp32, since neither
    holds the other.
    """
    kinds = {weight[1], inputs[1]}
    if kinds == {"int"}:
        return weight, inputs
    if "int" in kinds:
        common = weight if inputs[1] == "int" else inputs
    elif weight[0] == inputs[0]:
        common = weight if len(kinds) == 1 else (32, "float")
    else:
        common = max(weight, inputs)
    return common, common
