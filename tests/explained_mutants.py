"""Mutants that survive `mutants.py` because they compute the same, with the reason why nobody can notice them."""

from __future__ import annotations

FROZEN = "nothing writes into one"
EQUIVALENT = {
    "pruning/choose/scoring": {
        "module: 1000 + 1 in MAX_ITERATIONS = 1000": "any limit of that size will do",
        "convex_representation: 0 + 1 in max=0": "nothing but rounding is above 0",
        "convex_representation: Lt -> LtE in change < tolerance * float(coefficients.norm())": (
            "no two such numbers are equal"
        ),
    },
    "pruning/choose/curves": {
        "module: True turned in frozen=True": FROZEN,
        "removal_curve: 0 + 1 in gram.shape[0]": "the matrix is square",
        "module: 96 + 1 in (96, 256)": "blocks of any size give the same",
        "module: 256 + 1 in (96, 256)": "units may be guessed among any number",
        **dict.fromkeys(
            (
                "_eliminate_block: Mult -> Div in ALIKE * found.clamp(min=ALIKE * dearest)",
                "_eliminate_block: Gt -> GtE in found - costs.amin(1) > ALIKE * found.clamp(min=ALIKE * dearest)",
                "_eliminate_block: Mult -> Div in ALIKE * dearest",
            ),
            "costs are hardly ever so nearly alike",
        ),
    },
    "pruning/choose/search": {
        "keep_best: True turned in stable=True": (
            "the sort of PyTorch on a CPU is stable without being asked, which nobody promises"
        ),
        "keep_best: 0.0 + 1 in next(steps[name], 0.0) (2)": "nothing asks what a unit after the last would cost",
        "keep_best: True turned in strict=True": "there are as many parts as sites",
        "remove_cheapest: 1.0 + 1 in max((float(tables[name][-1]) for name in curves)) or 1.0": (
            "where nothing costs anything, any number above 0 will do"
        ),
        "remove_in_order: LtE -> Lt in left <= allowed": "what goes too much at equality comes back at once",
    },
    "pruning/refit/least_squares": {"module: True turned in frozen=True": FROZEN},
    "model/surgery": {
        "describe_cut: True turned in strict=True": "a cut model has the sites that it had before",
        "_resize_attention: FloorDiv -> Mult in site.query_heads // site.groups": (
            "attention with arguments by head is not read in slots, so there is one group"
        ),
    },
}
"""By file and change."""
