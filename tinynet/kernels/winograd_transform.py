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
usual 0, 1, -1, 2, -2 and infinity. With 8 points, 64 products give 6x6 pixels, 5 times less than by definition, and the
error is three times as large. There 2, -2, 1/2 and -1/2 are as good as any, and they are pairs: the values at a and -a
are the sum and the difference of the same two numbers, with which the transforms take fewer steps.

Toom 1963; Cook 1966; Winograd, Arithmetic complexity of computations, 1980; Lavin and Gray, Fast algorithms for
convolutional neural networks, CVPR 2016 (arXiv:1509.09308).
"""

import functools
import itertools
from fractions import Fraction

import numpy as np
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I1, I8, I64, VECTOR_BYTES, Operand, Vector, emit_loop, unknown
from tinynet.typing import Array

N, LARGE_N = 6, 8               # how many points, infinity with them
POINTS = {N: tuple(map(Fraction, ("0", "1", "-1", "2", "-1/2"))),
          LARGE_N: tuple(map(Fraction, ("0", "1", "-1", "2", "-2", "1/2", "-1/2")))}     # without it
SIZES = (4, 3), (5, 2), (2, 5), (6, 3), (4, 5)         # (m, r)
LANES = VECTOR_BYTES // 4        # float32 in a vector


def evaluation(k: int, n: int = N) -> Array:
    """E_k: the values at all n points of a polynomial with k coefficients.

    >>> print(evaluation(2).astype(float).T)
    [[ 1.   1.   1.   1.   1.   0. ]
     [ 0.   1.  -1.   2.  -0.5  1. ]]
    """
    return np.array([[a**i for i in range(k)] for a in POINTS[n]] + [[Fraction(0)] * (k - 1) + [Fraction(1)]])


def interpolation(n: int = N) -> Array:
    """E_n^-T: its row for the point a holds the polynomial that is 1 at a and 0 at the others (Lagrange's).

    That of infinity is 0 at all points and has the highest coefficient 1.
    """
    return (_monic(n).T / _values(n)).T


def _monic(n):
    """interpolation()'s rows, but with the highest coefficient 1: the products of (z - b) over the other points b."""
    points = POINTS[n]
    others = [points[:j] + points[j + 1:] for j in range(n - 1)]
    return np.array([_shifted(_product(some), 0, n) for some in [*others, points]])


def _values(n):
    """What they are at their own points."""
    return np.array([sum(c * a**i for i, c in enumerate(row)) for a, row in zip(POINTS[n], _monic(n), strict=False)]
                    + [Fraction(1)])


def _product(points):
    """The coefficients of (z - a)(z - b)... from the lowest up."""
    coefficients = [Fraction(1)]
    for a in points:
        higher, lower = [Fraction(0), *coefficients], [*coefficients, Fraction(0)]
        coefficients = [h - a * c for h, c in zip(higher, lower, strict=True)]
    return coefficients


def _shifted(coefficients, k, length):
    """The coefficients of z^k times a polynomial, filled up with zeros."""
    return np.array(([Fraction(0)] * k + coefficients + [Fraction(0)] * length)[:length])


def _two_steps():
    """B^T with monic rows, as the product of two matrices that are mostly zeros: 16 additions in place of 24.

    The points but for 0 are taken in pairs, f(z) = (z - 1)(z + 1) and g(z) = (z - 2)(z + 1/2). Every row is f or g
    times what is left of the other, of degree 2 at most:

        0: f g     1: z (z + 1) g     -1: z (z - 1) g     2: z (z + 1/2) f     -1/2: z (z - 2) f     infinity: z f g

    so the first step multiplies by g or f (at the shifts z^0 to z^3 and z^1 to z^2), the second by what is left.
    """
    f, g = POINTS[N][1:3], POINTS[N][3:5]
    first = [_shifted(_product(g), k, N) for k in range(4)] + [_shifted(_product(f), k, N) for k in (1, 2)]
    left = [(_product(f), 0), *[(_product([b]), 1) for b in f[::-1]], *[(_product([b]), 4) for b in g[::-1]],
            (_product(f), 1)]
    return np.array([_shifted(*row, N) for row in left]), np.array(first)


def _in_pairs(matrix, n):
    """A matrix with a column for each point as (left, right); right adds and subtracts what a and -a give."""
    points, left, right = POINTS[n], matrix.copy(), np.eye(n, dtype=int)
    for j, k in ((j, points.index(-a)) for j, a in enumerate(points) if a > 0 and -a in points):
        left[:, j], left[:, k] = (matrix[:, j] + matrix[:, k]) / 2, (matrix[:, j] - matrix[:, k]) / 2
        right[np.ix_([j, k], [j, k])] = [[1, 1], [1, -1]]
    return left, right


def _matrices():
    """All of them, by name, each as the factors whose product it is: B^T by n, the others by F(m, r).

    A factor that moves from a row of B^T to that of G changes nothing: B^T's rows are monic.
    """
    matrices = {f"BT{N}": _two_steps(), f"BT{LARGE_N}": (_monic(LARGE_N),)}
    for m, r in SIZES:
        n, size = m + r - 1, f"({m},{r})"
        g, a = (evaluation(r, n).T / _values(n)).T, evaluation(m, n)
        matrices |= {"G" + size: (g,), "GT" + size: _in_pairs(g.T, n)}
        matrices |= {"A" + size: (a,), "AT" + size: _in_pairs(a.T, n)}
    return {name: [factor.astype(float) for factor in factors] for name, factors in matrices.items()}


MATRICES = _matrices()


# ---- On vectors of channels --------------------------------------------------------------------------------

@intrinsic(prefer_literal=True)
def _transform(typing, name, source, target):
    """target = M source M^T for a vector of channels at each place.

    name: of M in MATRICES, which is (P, Q). source (Q, Q) and target (P, P) are (array, offset, step of the rows, of
    the columns).
    """
    if not isinstance(name, types.StringLiteral):
        return None
    factors = MATRICES[name.literal_value]

    def codegen(context, builder, signature, arguments):
        x, y = (Operand(context, builder, signature.args[i], arguments[i]) for i in (1, 2))
        vector = Vector(builder, signature.args[1][0].dtype)

        _emit_sandwich(vector, factors, _columns(vector, x), _storing(vector, y), [])
        return context.get_dummy_value()

    return types.none(name, source, target), codegen


@intrinsic(prefer_literal=True)
def _transform_unpooled(typing, name, source, places, skipped, target):
    """As _transform, for images of which only one of each 2x2 pixels is not 0.

    source = (array, offset, step of the rows, of the columns) of these pixels, places the same for which of the four
    each of them is, 0 to 3. skipped = (rows, columns) of the first four, 0 or 1, that lie before the tile.
    """
    if not isinstance(name, types.StringLiteral):
        return None
    factors = MATRICES[name.literal_value]

    def codegen(context, builder, signature, arguments):
        x, k, y = (Operand(context, builder, signature.args[i], arguments[i]) for i in (1, 2, 4))
        skipped = [builder.extract_value(arguments[3], i) for i in range(2)]
        vector = Vector(builder, signature.args[1][0].dtype)
        _emit_sandwich(vector, factors, _unpooled_columns(vector, x, k, skipped), _storing(vector, y), [])
        return context.get_dummy_value()

    return types.none(name, source, places, skipped, target), codegen


def _storing(vector, y):
    def store(i, lines, _):
        _store(vector, i, *lines, y)
        return []

    return store


@intrinsic(prefer_literal=True)
def _finish(typing, name, source, target, bias, floor, check, streams):
    """target = max(M source M^T + bias, floor); check += the sum of what was there before the floor.

    bias and check are (array, offset), floor is a number. If a sum is finite, so is all that it was made of.
    streams = 1: target, of whole cache lines, is written past the caches.
    """
    if not isinstance(name, types.StringLiteral):
        return None
    factors = MATRICES[name.literal_value]

    def codegen(context, builder, signature, arguments):
        x, y, b, c = (Operand(context, builder, signature.args[i], arguments[i]) for i in (1, 2, 3, 5))
        vector = Vector(builder, signature.args[1][0].dtype)
        bias, floor, streams = vector.load(b.at(), None), vector.spread(arguments[4]), builder.trunc(arguments[6], I1)

        def finish(i, lines, total):
            (line,), total = _with_bias(vector, lines, bias, total)
            _store(vector, i, [vector.maximum(value, floor) for value in line], y, streams)
            return total

        add_to(vector, c, _emit_sandwich(vector, factors, _columns(vector, x), finish, [vector.zero]))
        return context.get_dummy_value()

    return types.none(name, source, target, bias, floor, check, types.intp), codegen


@intrinsic(prefer_literal=True)
def _finish_pooled(typing, name, source, target, places, bias, floor, check, streams):
    """As _finish, but of every 2x2 pixels only the largest goes to target, and which it was, 0 to 3, to places.

    The first of equal ones is taken, and NaN beats every number.
    """
    if not isinstance(name, types.StringLiteral):
        return None
    factors = MATRICES[name.literal_value]

    def codegen(context, builder, signature, arguments):
        x, y, k, b, c = (Operand(context, builder, signature.args[i], arguments[i]) for i in (1, 2, 3, 4, 6))
        vector = Vector(builder, signature.args[1][0].dtype)
        bias, floor, streams = vector.load(b.at(), None), vector.spread(arguments[5]), builder.trunc(arguments[7], I1)

        def finish(i, lines, total):
            (upper, lower), total = _with_bias(vector, lines, bias, total)
            best = [vector.largest([upper[j], upper[j + 1], lower[j], lower[j + 1]]) for j in range(0, len(upper), 2)]
            _store(vector, i, [vector.maximum(value, floor) for value, _ in best], y, streams)
            for (_, rank), place in zip(best, _row(k, i, len(best)), strict=True):
                vector.store_bytes(rank, place)
            return total

        add_to(vector, c, _emit_sandwich(vector, factors, _columns(vector, x), finish, [vector.zero], abreast=2))
        return context.get_dummy_value()

    return types.none(name, source, target, places, bias, floor, check, types.intp), codegen


def _columns(vector, x):
    """column(j, n): the n vectors of column j of X, from the top down"""
    builder = vector.builder

    def column(j, n):
        top = x.at(unknown(builder, builder.mul(j, x.steps[1])))
        return [vector.load(place, None) for place in _line(top, builder, x.steps[0], n)]

    return column


def _unpooled_columns(vector, x, places, skipped):
    """The same, where of each 2x2 pixels x has one, and places says which."""
    builder, (above, before) = vector.builder, skipped

    def column(j, n):
        j = builder.add(j, before)
        four, is_right = builder.lshr(j, I64(1)), builder.and_(j, I64(1))
        upper = builder.add(builder.mul(above, I64(2)), is_right)
        ranks = [builder.trunc(rank, I8) for rank in (upper, builder.xor(upper, I64(2)))]      # in every second row
        values = []
        for i in range(n):
            down = builder.add(I64(i // 2), above) if i % 2 else I64(i // 2)
            at = (each.at(unknown(builder, builder.mul(four, each.steps[1])), builder.mul(down, each.steps[0]))
                  for each in (x, places))
            values.append(vector.load_where(*at, ranks[i % 2]))
        return values

    return column


def _emit_sandwich(vector, factors, columns, receive, values, abreast=1):
    """values = receive(i, [row i of M X M^T], values) for each i; with several abreast, the i-th so many rows

    columns: as _columns gives them.

    M X goes column by column to the stack, and (M X) M^T comes from there row by row. All at once would be 36 vectors,
    more than there are registers: where these are 16 of 32 bytes, LLVM's code took three times as long. (Column by
    column, an image would be written in lines that are a whole row apart; past the caches, that takes twice as long.)
    """
    builder, (P, Q) = vector.builder, (len(factors[0]), factors[-1].shape[1])
    between = vector.on_stack(P * Q)

    def column(j, _):
        for p, value in enumerate(multiply(vector, factors, columns(j, Q))):
            at = builder.mul(builder.add(j, I64(p * Q)), I64(vector.lanes))
            vector.store(value, builder.gep(between, [at]), None)
        return []

    def rows(i, values):
        lines = []
        for k in range(abreast):
            first = builder.mul(builder.add(builder.mul(i, I64(abreast)), I64(k)), I64(Q * vector.lanes))
            places = _line(builder.gep(between, [first]), builder, I64(vector.lanes), Q)
            lines.append(multiply(vector, factors, [vector.load(place, None) for place in places]))
        return receive(i, lines, values)

    emit_loop(builder, I64(Q), [], column)
    return emit_loop(builder, I64(P // abreast), values, rows)


def _with_bias(vector, lines, bias, totals):
    """(the lines plus the bias, [the total plus all that is in them])"""
    lines = [[vector.add(value, bias) for value in line] for line in lines]
    return lines, [functools.reduce(vector.add, itertools.chain(*lines), *totals)]


def add_to(vector, place, totals):
    vector.store(vector.add(vector.load(place.at(), None), *totals), place.at(), None)


def _store(vector, i, line, y, streams=None):
    """Row i of y = line"""
    vector.store_all(line, [(place, None) for place in _row(y, i, len(line))], streams)


def _row(operand, i, size):
    builder = operand.builder
    offset = unknown(builder, builder.mul(i, operand.steps[0]))
    return _line(operand.at(offset), builder, operand.steps[1], size)


def _line(place, builder, step, size):
    """The addresses of so many places, each a step on from the one before."""
    places = [place]
    for _ in range(size - 1):
        places.append(builder.gep(places[-1], [step]))
    return places


def multiply(vector, factors, values):
    """[sum_q M[p, q] values[q] for all p] of the matrix M with these factors"""
    return functools.reduce(lambda values, factor: _combine(vector, factor, values), factors[::-1], values)


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


# ---- The same in NumPy, for NUMBA_DISABLE_JIT=1 ------------------------------------------------------------

def _view(operand, size):
    array, offset, down, across = operand
    steps = [step * array.itemsize for step in (down, across, 1)]
    return np.lib.stride_tricks.as_strided(array[offset:], (size, size, VECTOR_BYTES // 4), steps)


def _sandwich_numpy(name, source):
    matrix = functools.reduce(np.matmul, MATRICES[name]).astype(source[0].dtype)
    return np.einsum("ia,abv,jb->ijv", matrix, _view(source, matrix.shape[1]), matrix)


def _with_bias_numpy(y, bias, check):
    y = y + _lanes(*bias)
    _lanes(*check)[...] += y.sum((0, 1))
    return y


def _lanes(array, offset):
    return array[offset:offset + VECTOR_BYTES // 4]


def _transform_numpy(name, source, target):
    y = _sandwich_numpy(name, source)
    _view(target, len(y))[...] = y


def _transform_unpooled_numpy(name, source, places, skipped, target):
    lanes, size = VECTOR_BYTES // 4, MATRICES[name][-1].shape[1]
    window = np.zeros((size, size, lanes), source[0].dtype)
    for i, j in np.ndindex(size, size):
        h, l = skipped[0] + i, skipped[1] + j
        values, ranks = (each[0][each[1] + h // 2 * each[2] + l // 2 * each[3]:][:lanes] for each in (source, places))
        window[i, j] = np.where(ranks == h % 2 * 2 + l % 2, values, 0)
    _transform_numpy(name, (window.reshape(-1), 0, size * lanes, lanes), target)


def _finish_numpy(name, source, target, bias, floor, check, streams):
    y = _with_bias_numpy(_sandwich_numpy(name, source), bias, check)
    _view(target, len(y))[...] = np.maximum(y, floor)


def _finish_pooled_numpy(name, source, target, places, bias, floor, check, streams):
    y = _with_bias_numpy(_sandwich_numpy(name, source), bias, check)
    half = len(y) // 2
    fours = y.reshape(half, 2, half, 2, -1).transpose(0, 2, 1, 3, 4).reshape(half, half, 4, -1)
    _view(target, half)[...] = np.maximum(fours.max(2), floor)
    _view(places, half)[...] = fours.argmax(2)                           # argmax, too, takes the first NaN there is


if config.DISABLE_JIT:
    transform, transform_unpooled = _transform_numpy, _transform_unpooled_numpy
    finish, finish_pooled = _finish_numpy, _finish_pooled_numpy
else:
    transform, transform_unpooled, finish, finish_pooled = _transform, _transform_unpooled, _finish, _finish_pooled
