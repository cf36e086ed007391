"""The small matrices of Winograd's convolution, derived, and Y = M X M^T on vectors of channels.

A convolution of m outputs and r weights takes m r products. Winograd's takes only n = m + r - 1. It comes from how
one multiplies polynomials. Let p(z) have m coefficients and w(z) have r; the product q = p w has n. To multiply
them,

    evaluate both at n points,   multiply value by value,   find the q that goes through these n values.

Only the middle step multiplies p by w; the others multiply by constants. With E_k the n x k matrix that evaluates k
coefficients (its row for the point a is 1, a, a^2, ...; for the point infinity it is 0, ..., 0, 1, which reads off the
highest coefficient), this is

    q = E_n^-1 [ (E_m p) * (E_r w) ]                            * value by value

And a convolution y[i] = sum_t x[i + t] w[t] is this product seen from the other side: q = T p with T[i + t, i] = w[t],
and y = T^T x. Transpose the line above, in which E_r w may be written as a diagonal matrix between the other two:

    y = E_m^T [ (E_r w) * (E_n^-T x) ]    =    A^T [ (G w) * (B^T x) ]

Images have two axes; each matrix is then applied to rows and to columns: Y = A^T [(G w G^T) * (B^T x B)] A. With
m = 4, r = 3 this multiplies 36 times where the definition does 144 times: 4 times less. The sum over channels comes
between: only the sum is transformed back, and for each of the 36 places it is a matrix product.

The points decide the rounding: it grows with their powers. 0, 1, -1, 2, -1/2 and infinity have half the error of the
usual 0, 1, -1, 2, -2 and infinity.

Toom 1963; Cook 1966; Winograd, Arithmetic complexity of computations, 1980; Lavin and Gray, Fast algorithms for
convolutional neural networks, CVPR 2016 (arXiv:1509.09308).
"""

from fractions import Fraction

import numpy as np
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.tile import I64, VECTOR_BYTES, Operand, Vector

POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-1, 2))  # and infinity
N = len(POINTS) + 1


def evaluation(k):
    """E_k: the values at all points of a polynomial with k coefficients.

    >>> print(evaluation(2).astype(float).T)
    [[ 1.   1.   1.   1.   1.   0. ]
     [ 0.   1.  -1.   2.  -0.5  1. ]]
    """
    return np.array([[a**i for i in range(k)] for a in POINTS] + [[Fraction(0)] * (k - 1) + [Fraction(1)]])


def interpolation():
    """E_n^-T: its row for the point a holds the polynomial that is 1 at a and 0 at the others (Lagrange's).

    That of infinity is 0 at all points and has the highest coefficient 1.
    """
    rows = [_vanishing(POINTS[:j] + POINTS[j + 1:]) for j in range(N - 1)]
    values = [sum(c * a**i for i, c in enumerate(row)) for a, row in zip(POINTS, rows, strict=True)]
    rows = [[c / value for c in row] + [Fraction(0)] for row, value in zip(rows, values, strict=True)]
    return np.array([*rows, _vanishing(POINTS)])


def _vanishing(points):
    """The coefficients of (z - a)(z - b)... from the lowest up."""
    coefficients = [Fraction(1)]
    for a in points:
        higher, lower = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [h - a * c for h, c in zip(higher, lower, strict=True)]
    return coefficients


def _matrices():
    """All of them, by name. A factor that moves from a row of B^T to that of G changes nothing: the one by which the
    row of B^T becomes simple, its smallest entry 1."""
    bt = interpolation()
    scale = np.array([min(abs(c) for c in row if c) for row in bt])[:, None]
    matrices = {"BT": bt / scale}
    for r in (2, 3):
        g, a = evaluation(r) * scale, evaluation(N + 1 - r)
        matrices |= {f"G{r}": g, f"GT{r}": g.T, f"A{r}": a, f"AT{r}": a.T}
    return {name: m.astype(float) for name, m in matrices.items()}


MATRICES = _matrices()


@intrinsic(prefer_literal=True)
def _transform(typing, name, source, target, bias):
    """target = M source M^T + bias for a vector of channels at each place; returns the sum of all that it wrote.

    name: of M in MATRICES, which is (P, Q). source (Q, Q) and target (P, P) are (array, offset, step of the rows, of
    the columns), bias (array, offset) or None.
    """
    if not isinstance(name, types.StringLiteral):
        return None
    matrix = MATRICES[name.literal_value]
    signature = source[0].dtype(name, source, target, bias)

    def codegen(context, builder, signature, arguments):
        x, y = (Operand(context, builder, signature.args[i], arguments[i]) for i in (1, 2))
        vector = Vector(builder, signature.args[1][0].dtype)
        outputs, inputs = matrix.shape
        rows = [_combine(vector, matrix, [vector.load(place, None) for place in line]) for line in _places(x, inputs)]
        columns = [_combine(vector, matrix, column) for column in zip(*rows, strict=True)]
        if not isinstance(signature.args[3], types.NoneType):
            added = vector.load(Operand(context, builder, signature.args[3], arguments[3]).at(), None)
            columns = [[vector.add(value, added) for value in column] for column in columns]
        for line, values in zip(_places(y, outputs), zip(*columns, strict=True), strict=True):
            for place, value in zip(line, values, strict=True):
                vector.store(value, place, None)
        return vector.sum([value for column in columns for value in column])

    return signature, codegen


def _places(operand, size):
    """The addresses of size x size places."""
    down, across = operand.steps
    builder = operand.builder
    return [[operand.at(builder.mul(down, I64(i)), builder.mul(across, I64(j))) for j in range(size)]
            for i in range(size)]


def _combine(vector, matrix, values):
    """[sum_q matrix[p, q] values[q] for all p]

    Two rows with much in common, as those of the points 1 and -1, are half their sum plus and minus half their
    difference, where that takes fewer steps.
    """
    results = {}
    for p in range(len(matrix)):
        if p in results:
            continue
        for q in range(p + 1, len(matrix)):
            even, odd = (matrix[p] + matrix[q]) / 2, (matrix[p] - matrix[q]) / 2
            if np.count_nonzero([even, odd]) + 2 < np.count_nonzero([matrix[p], matrix[q]]):
                even, odd = _sum(vector, even, values), _sum(vector, odd, values)
                results[p], results[q] = vector.add(even, odd), vector.subtract(even, odd)
                break
        else:
            results[p] = _sum(vector, matrix[p], values)
    return [results[p] for p in range(len(matrix))]


def _sum(vector, row, values):
    """sum_q row[q] values[q], without multiplying by 0 and 1"""
    terms = sorted(((c, v) for c, v in zip(row, values, strict=True) if c), key=lambda term: term[0] != 1)
    (c, total), *others = terms
    if c != 1:
        total = vector.multiply(vector.constant(c), total)
    for c, value in others:
        if c == 1:
            total = vector.add(total, value)
        elif c == -1:
            total = vector.subtract(total, value)
        else:
            total = vector.multiply_add(vector.constant(c), value, total)
    return total


def _transform_numpy(name, source, target, bias):
    """The same in NumPy, for NUMBA_DISABLE_JIT=1."""
    def view(operand, size):
        array, offset, down, across = operand
        steps = [step * array.itemsize for step in (down, across, 1)]
        lanes = VECTOR_BYTES // array.itemsize
        return np.lib.stride_tricks.as_strided(array[offset:], (size, size, lanes), steps)

    matrix = MATRICES[name].astype(source[0].dtype)
    y = np.einsum("ia,abv,jb->ijv", matrix, view(source, matrix.shape[1]), matrix)
    if bias is not None:
        array, offset = bias
        y += array[offset:offset + y.shape[2]]
    view(target, len(matrix))[...] = y
    return y.sum()


transform = _transform_numpy if config.DISABLE_JIT else _transform
