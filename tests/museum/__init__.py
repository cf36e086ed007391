"""A museum of wrong gradients: each exhibit is a mistake that somebody has made, and one check must reject it.

An exhibit is an op whose docstring says what went wrong, and where it is known from. Its rooms:

    formulas.py      wrong factors, signs, formulas, sums: gradcheck sees them
    places.py        right values in wrong places: gradcheck sees them too, and mostly tells how they got there
    test_museum.py   the checks; and what gradcheck can't see: second derivatives, a backward that fits a wrong forward,
                     what hides at a kink, an engine that lets a graph be spoiled
"""

MUSEUM = []  # (op, what gradcheck should say that it looks like, the inputs to check it at)


def exhibit(looks_like, *at):
    """Put an op into the museum: what it looks like (None: no usual mistake), and the inputs to check it at."""

    def hang(op):
        MUSEUM.append((op, looks_like, at))
        return op

    return hang
