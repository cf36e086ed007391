'''The stops of the guided tour, from a tensor to the register tile: python -m tinynet tour.

A stop is a function. Its docstring is what is told: a line with the idea, the question that people ask, the answer,
with a program between the lines. The function returns what there is to look at, so that file and line can't be wrong.
'''

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tinynet import autograd, nn, ops, tensor
from tinynet import operators as own
from tinynet.gradcheck import gradcheck
from tinynet.inspect.sources import ROOT
from tinynet.kernels import convolution, softmax, tile, winograd, winograd_transform
from tinynet.ops.convolution import Gather, Scatter, WeightGradient
from tinynet.ops.normalization import InputGradient, Normalize, Standardize


def remembering() -> tuple[Any, ...]:
    """A Tensor is an array that remembers which op made it.

    Why must it remember?

    A gradient is asked for at the end of a computation, and has to find its way back to the beginning. So every
    operator makes an *op*: an object that computes the result (`forward`) and keeps what its derivative will need
    (`backward`). The result points at its op, and the op at the ops that its inputs came from, its parents. This
    is the graph. Nobody builds it; it is what computing leaves behind.

    >>> import tinynet as tn
    >>> x = tn.Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = (x * x).sum()
    >>> y
    Tensor(14., op=Reshape)

    From the result one can walk back by hand. The reshape comes from a sum, the sum from a product, and the product
    from x, a *leaf*, which no op made:

    >>> total = y.op.parents[0]
    >>> product = total.parents[0]
    >>> type(total).__name__, type(product).__name__, product.parents[0] is x
    ('Sum', 'Mul', True)

    `backward()` makes the same walk and calls each op's `backward` on the way. It ends at the leaf, in `.grad`:

    >>> y.backward()
    >>> x.grad
    Tensor([2., 4., 6.])

    Look at how little a Tensor is: an array, a gradient, an op, and operators that call ops. All mathematics is in
    the ops.
    """
    return tensor.Tensor, autograd.Op


def ordering() -> tuple[Any, ...]:
    """The way back visits an op only when all that used its result has been visited.

    Why a topological order?

    Take a = 2 x, b = a + 1, c = a b. The gradient of a has two parts: one comes from c directly, one through b. If a
    handed its gradient on as soon as the first part arrives, the second would come too late.

    >>> import tinynet as tn
    >>> x = tn.Tensor(1.0, requires_grad=True)
    >>> a = x * 2
    >>> b = a + 1
    >>> c = a * b

    From c to a directly flows dc/da = b = 3, and a would hand 2 times that on to x:

    >>> 2 * b.item()
    6.0

    But c = 4 x^2 + 2 x, whose derivative at 1 is 10. The missing 4 is the part through b. So first all consumers of a
    value, then the op that made it. A topological order is one in which this holds for every value:

    >>> from tinynet.autograd import topological_order
    >>> names = {c.op: "c", b.op: "b", a.op: "a", x: "x"}
    >>> [names[node] for node in topological_order([c.op])]
    ['c', 'b', 'a', 'x']
    >>> c.backward()
    >>> x.grad
    Tensor(10.)

    It is found by counting: each node knows how many consumers have not been visited yet, and is ready at 0. Both
    the counting and the walk are loops. A recursion would end at Python's limit, a depth of 1,000; this chain is
    ten times as long:

    >>> y = x
    >>> for _ in range(10_000):
    ...     y = y + 1
    >>> x.grad = None
    >>> y.backward()
    >>> x.grad
    Tensor(1.)
    """
    return autograd.topological_order, autograd.propagate


def adding_up() -> tuple[Any, ...]:
    """A value that is used several times gets the sum of the gradients of its uses.

    Why do gradients add up?

    Because when x changes by a little, each of its uses changes, and the result feels all of them. The derivative
    along all ways from x to the result is the sum over the ways (the chain rule for several variables).
    x * x uses x twice: once with the slope x, and once more with the slope x.

    >>> import numpy as np, tinynet as tn
    >>> x = tn.Tensor(3.0, requires_grad=True)
    >>> (x * x).backward()
    >>> x.grad
    Tensor(6.)

    With `=` in place of `+=` it would be 3, and a network would train on that without a word, only badly. Three other
    things are the same rule in disguise. A second backward() adds to `.grad`; that is why optimisers have
    zero_grad():

    >>> (x * x).backward()
    >>> x.grad
    Tensor(12.)

    Broadcasting uses a value many times, so its gradient is a sum over the copies. The gradient of a bias is the sum
    over all rows that it was added to, and this is all there is to it (`Op._fit`, `Tensor.sum_to`):

    >>> bias = tn.Tensor([0.0, 0.0], requires_grad=True)
    >>> (tn.Tensor(np.ones((3, 2), np.float32)) + bias).sum().backward()
    >>> bias.grad
    Tensor([3., 3.])

    And an element that indexing takes twice gets both gradients (`IndexAdd`):

    >>> v = tn.Tensor([5.0, 7.0], requires_grad=True)
    >>> v[[0, 0, 1]].sum().backward()
    >>> v.grad
    Tensor([2., 1.])

    Whether all of this is right is asked of the function itself, by differences: (f(x + h) - f(x - h)) / 2h. See
    `tn.gradcheck`, which also says what kind of mistake it sees.
    """
    return own.Mul, autograd._add, autograd.Op._fit, own.IndexAdd, gradcheck


def numerics() -> tuple[Any, ...]:
    """The same formula can be exact or useless, depending on the order in which it is computed.

    Why log-sum-exp, and why does a loss take logits?

    ln(e^1000 + e^1001) is about 1001.3, an ordinary number. But on the way there stands e^1000, and float32 ends at
    e^88:

    >>> import numpy as np, tinynet as tn
    >>> x = np.array([1000.0, 1001.0], np.float32)
    >>> with np.errstate(over="ignore"):
    ...     print(np.log(np.exp(x).sum()))
    inf

    Take the largest, m, out of the sum first: ln sum e^x = m + ln sum e^(x - m). Now no power is above 1, so nothing
    overflows, and one of them is 1, so the logarithm isn't that of 0:

    >>> m = x.max()
    >>> print(np.round(m + np.log(np.exp(x - m).sum()), 3))
    1001.313
    >>> tn.logsumexp(x)
    Tensor(1001.313...)

    A classifier's loss is -ln p of the right class, with p = softmax(x). In two steps, p is rounded to 0 first, and
    its logarithm is infinite (and its gradient 0 * Inf, which is NaN). In one step ln p is x - logsumexp(x), and exact:

    >>> tn.log(tn.softmax([0.0, 200.0]))
    Tensor([-inf,   0.])
    >>> tn.log_softmax([0.0, 200.0])
    Tensor([-200.,    0.])

    This is why cross_entropy takes logits, the numbers before the softmax. It is then also simpler. Its gradient is
    the difference between what the network thinks and what is true, p - t:

    >>> logits = tn.Tensor([[0.0, 200.0]], requires_grad=True)
    >>> tn.cross_entropy(logits, np.array([0])).backward()
    >>> logits.grad
    Tensor([[-1.,  1.]])
    """
    return ops.logsumexp, softmax.softmax_cross_entropy, ops.cross_entropy


def company() -> tuple[Any, ...]:
    """Batch normalisation in training judges an image by its company; in evaluation by the past.

    Why are train() and eval() not the same?

    In training each channel is brought to mean 0 and variance 1 over the batch at hand. What an image gives then
    depends on the others in the batch. The value 1 here, in two batches:

    >>> import numpy as np, tinynet as tn
    >>> from tinynet import nn
    >>> def batch(*values):
    ...     return tn.Tensor(np.reshape(values, (-1, 1, 1, 1)).astype(np.float32))
    >>> norm = nn.BatchNorm2d(1)
    >>> for others in ((2.0, 3.0), (2.0, 30.0)):
    ...     print(norm(batch(1.0, *others)).numpy().reshape(-1).round(2))
    [-1.22  0.    1.22]
    [-0.74 -0.67  1.41]

    That is good for training, where it steadies the scale of everything, and bad for use: an answer must not depend
    on who else asked. So training keeps running averages of mean and variance, and evaluation uses these:

    >>> norm = norm.eval()
    >>> for others in ((2.0, 3.0), (2.0, 30.0)):
    ...     print(norm(batch(1.0, *others)).numpy().reshape(-1)[0].round(2))
    -0.05
    -0.05

    The gradients differ too. In training, x moves its own mean and variance: add 1 to all images, and nothing
    changes. So the gradients of a channel must add up to 0. In evaluation mean and variance are constants, and the
    gradient is just scaled:

    >>> def gradients():
    ...     x = tn.Tensor(batch(1.0, 2.0, 30.0).numpy(), requires_grad=True)
    ...     (norm(x) * batch(1.0, 5.0, 2.0)).sum().backward()
    ...     return x.grad.numpy().reshape(-1)
    >>> norm = norm.train()
    >>> bool(abs(gradients().sum()) < 1e-5)
    True
    >>> norm = norm.eval()
    >>> print((gradients() / gradients()[0]).round(3))
    [1. 5. 2.]

    These are two different ops: `Normalize` (training) and `Standardize` (evaluation). To forget eval() is a mistake
    that no error message will tell you of.
    """
    return Normalize, InputGradient, Standardize, nn.BatchNorm2d, ops.batch_norm


def transposing() -> tuple[Any, ...]:
    """A convolution is a matrix that is never written down, and its gradient is that matrix, transposed.

    Why is a convolution's gradient a transposed convolution?

    A convolution is linear in the image, so there is a matrix M with y = M x. Here is one: a line of 4 pixels, a
    kernel of 3 taps, 2 outputs. Column k of M is what the image with a single 1 at pixel k gives:

    >>> import numpy as np, tinynet as tn
    >>> w = np.reshape([1.0, 2.0, 3.0], (1, 3, 1, 1))
    >>> M = np.stack([tn.conv2d(np.reshape(one, (1, 1, 4, 1)), w).numpy().reshape(2) for one in np.eye(4)], axis=1)
    >>> M
    array([[1., 2., 3., 0.],
           [0., 1., 2., 3.]])

    A row says what an output gathers. A column says where an input's value goes. If y = M x then the gradient of x is
    M^T gy: what was gathered is scattered back, by the same weights. That is what conv_transpose2d does, and this
    is its name:

    >>> gy = np.array([10.0, 1.0])
    >>> M.T @ gy
    array([10., 21., 32.,  3.])
    >>> tn.conv_transpose2d(gy.reshape(1, 1, 2, 1), w).numpy().reshape(4)
    array([10., 21., 32.,  3.])
    >>> x = tn.Tensor(np.zeros((1, 1, 4, 1)), requires_grad=True)
    >>> tn.conv2d(x, w).backward(gy.reshape(1, 1, 2, 1))
    >>> x.grad.numpy().reshape(4)
    array([10., 21., 32.,  3.])

    So the decoder of an autoencoder, which makes images larger by a transposed convolution, runs an encoder's
    backward pass as its forward pass. And there is more of it: x, w and y stand in one sum of products. Leave out y,
    and it is Gather (convolution); leave out x, and it is Scatter (transposed convolution); leave out w, and it is
    WeightGradient. The gradients of each are the other two, and so on for ever. Read the top of the file.
    """
    return Gather, Scatter, WeightGradient


def checkerboards() -> tuple[Any, ...]:
    """A transposed convolution writes some pixels more often than others, unless the stride divides the kernel.

    Why do generated images have checkerboards?

    Count how often each pixel is written: transpose a convolution whose image and weights are all 1. First 4 pixels
    in a line, with a kernel of 3 and a stride of 2:

    >>> import numpy as np, tinynet as tn
    >>> def writes(size, kernel, stride):
    ...     y = tn.conv_transpose2d(np.ones((1, *size, 1)), np.ones((*kernel, 1, 1)), stride=stride)
    ...     return y.numpy()[0, :, :, 0].astype(int)
    >>> writes((1, 4), (1, 3), (1, 2))
    array([[1, 1, 2, 1, 2, 1, 2, 1, 1]])

    Neighbouring windows overlap by 3 - 2 = 1 pixel: every other pixel is written twice. In two dimensions the counts
    multiply, to 1, 2 and 4, and that is the pattern:

    >>> writes((3, 3), (3, 3), (2, 2))
    array([[1, 1, 2, 1, 2, 1, 1],
           [1, 1, 2, 1, 2, 1, 1],
           [2, 2, 4, 2, 4, 2, 2],
           [1, 1, 2, 1, 2, 1, 1],
           [2, 2, 4, 2, 4, 2, 2],
           [1, 1, 2, 1, 2, 1, 1],
           [1, 1, 2, 1, 2, 1, 1]])

    A network can learn weights that make up for it, but it starts with the pattern, and some of it stays. With a
    kernel of 4, which the stride divides, every pixel but those at the edges is written equally often:

    >>> writes((1, 4), (1, 4), (1, 2))
    array([[1, 1, 2, 2, 2, 2, 2, 2, 1, 1]])

    That is why the examples enlarge images with nn.ConvTranspose2d(..., 4, stride=2, padding=1); the padding cuts one
    pixel off each edge, so that 4 pixels become 8. The other way is to enlarge first and convolve then: nn.Upsample(2)
    and an nn.Conv2d of 3x3. There an output pixel takes 9 products of channels in place of 4.
    Odena, Dumoulin and Olah, Deconvolution and Checkerboard Artifacts, 2016 (distill.pub).
    """
    return ops.conv_transpose2d, Scatter, nn.ConvTranspose2d, nn.init.bilinear


def stepping() -> tuple[Any, ...]:
    """A kernel is plain Python that is compiled; switched off, it can be stepped through.

    Why can't I see what a kernel does?

    You can. Everything in tinynet/kernels is Python, in which numba compiles the loops. With NUMBA_DISABLE_JIT=1 it
    doesn't, and a debugger goes down to the innermost one. Write a small program into a file, say small.py (with small
    images: uncompiled loops are slow):

    >>> program = '''
    ... import numpy as np
    ... import tinynet as tn
    ... x = tn.Tensor(np.arange(12.0).reshape(1, 2, 3, 2))
    ... w = tn.Tensor(np.ones((2, 2, 2, 20)))
    ... print(tn.conv2d(x, w).shape)
    ... '''

    and start it with

        NUMBA_DISABLE_JIT=1 python -m pdb small.py

    At its prompt type what follows here: import the module, stop at its function (tile.py has it in NumPy, too), go on,
    ask where we are, and print two variables. The tour does so now, in a process of its own:

    >>> said = debugged(program, ["import tinynet.kernels.tile as tile", "break tile._tile_numpy", "continue", "where",
    ...                           "p [int(n) for n in counts]", "p int(columns)", "quit"])

    `where` tells the whole way, from the line of the program down to the loop. These are the functions on it, with the
    lines in which each calls the next. Read them in this order:

    >>> print(*way_down(said), sep="\\n")
    convolution.py(...)conv2d()
    autograd.py(...)__call__()
    convolution.py(...)forward()
    convolution.py(...)gather()
    convolution.py(...)_correlate()
    convolution.py(...)correlate()
    convolution.py(...)_correlate_rows()
    convolution.py(...)_correlate_phase()
    tile.py(...)block()
    tile.py(...)_tile_numpy()

    `p` prints a variable. The sums of this convolution run over 2 rows of the
    kernel, and in each over 4 numbers, 2 taps of 2 channels, which lie side by side in memory; there are 20 outputs:

    >>> print(*said.splitlines()[-3:-1], sep="\\n")
    (Pdb) [2, 1, 4]
    (Pdb) 20

    `next` goes on by a line, `step` into what it calls, `up` to the caller, `list` shows the source, `quit` ends.
    """
    return convolution.gather, convolution._correlate, convolution.correlate, convolution._correlate_phase


def fewer_multiplications() -> tuple[Any, ...]:
    """Winograd's convolution multiplies less, by evaluating polynomials.

    Why can a convolution do with fewer multiplications?

    Two outputs of a kernel with three weights, F(2, 3), take 6 multiplications:

        y0 = x0 w0 + x1 w1 + x2 w2
        y1 = x1 w0 + x2 w1 + x3 w2

    Winograd's way takes 4. By hand, for x = 1, 2, 4, 3 and w = 2, 4, 6. The weights are prepared once, and serve the
    whole image:

    >>> x0, x1, x2, x3 = 1, 2, 4, 3
    >>> w0, w1, w2 = 2, 4, 6
    >>> plus, minus = (w0 + w1 + w2) / 2, (w0 - w1 + w2) / 2
    >>> m1 = (x0 - x2) * w0
    >>> m2 = (x1 + x2) * plus
    >>> m3 = (x2 - x1) * minus
    >>> m4 = (x1 - x3) * w2
    >>> m1, m2, m3, m4
    (-6, 36.0, 4.0, -6)
    >>> m1 + m2 + m3, m2 - m3 - m4
    (34.0, 38.0)
    >>> x0 * w0 + x1 * w1 + x2 * w2, x1 * w0 + x2 * w1 + x3 * w2
    (34, 38)

    All else is additions. In two dimensions the savings multiply: 16 in place of 36. tinynet takes F(4, 3), for 4x4
    outputs at once: 6 in place of 12, in two dimensions 36 in place of 144, four times fewer; of larger images with few
    channels F(6, 3):

    >>> for m in (2, 4, 6):
    ...     print(f"{m}x{m} outputs of 3x3 weights: {(3 * m)**2} products by definition, {(m + 2)**2} Winograd's way")
    2x2 outputs of 3x3 weights: 36 products by definition, 16 Winograd's way
    4x4 outputs of 3x3 weights: 144 products by definition, 36 Winograd's way
    6x6 outputs of 3x3 weights: 324 products by definition, 64 Winograd's way

    Where does it come from? A convolution is a product of polynomials seen from the other side. To multiply two of
    them, evaluate both at enough points, multiply value by value, and find the one through these values. Only the
    step in the middle multiplies image by weight. winograd_transform.py derives the matrices from the points:

    >>> import functools, numpy as np
    >>> from tinynet.kernels.winograd_transform import MATRICES
    >>> BT, G, AT = (functools.reduce(np.matmul, MATRICES[name]) for name in ("BT6", "G(4,3)", "AT(4,3)"))
    >>> x, w = np.array([1.0, 2.0, 4.0, 3.0, 5.0, 6.0]), np.array([2.0, 4.0, 6.0])
    >>> (AT @ ((G @ w) * (BT @ x))).round(9)
    array([34., 38., 50., 62.])
    >>> np.correlate(x, w)
    array([34., 38., 50., 62.])

    Why not F(8, 3) then? The transforms add and subtract numbers that nearly cancel, and the more points, the larger
    the powers: digits are lost. With F(6, 3) the error is some 1e-5 of the largest result, with F(4, 3) a third of
    that. `tn.exact_convolution()` does without, and the many additions only pay from 16 channels on.
    """
    return winograd_transform.evaluation, winograd_transform.interpolation, winograd.gather, winograd.pays


def registers() -> tuple[Any, ...]:
    """One inner loop does nearly all the work, and its sums never leave the registers.

    Why does it need a tile?

    A processor core can multiply and add two vectors of 16 numbers in each cycle, but load only about as many. A sum
    that loads both factors of each product waits for the memory. So compute a whole tile of sums at once: R rows
    of A by V vectors of B. A step loads R numbers of A and V vectors of B, and uses each of them several times:

    >>> for rows, vectors in ((1, 1), (2, 1), (4, 2), (8, 2), (6, 4)):
    ...     loads, products = rows + vectors, rows * vectors
    ...     print(f"{rows} x {vectors}: {loads:2} loads for {products:2} multiply-adds, {products / loads:.2f} a load")
    1 x 1:  2 loads for  1 multiply-adds, 0.50 a load
    2 x 1:  3 loads for  2 multiply-adds, 0.67 a load
    4 x 2:  6 loads for  8 multiply-adds, 1.33 a load
    8 x 2: 10 loads for 16 multiply-adds, 1.60 a load
    6 x 4: 10 loads for 24 multiply-adds, 2.40 a load

    Why not larger still? The R V sums have to stay in registers, of which there are 32 (AVX-512): 24 sums, 4 vectors
    of B and a number of A are 29. Where B has no columns for 4 vectors, tiles are 8 x 2.

    That is a matrix product. And a convolution? With the channels last, the windows are there already: the pixels
    of a window lie side by side in memory, and the next window begins C numbers further on. So a convolution is the
    same tile, with rows that overlap. Nothing is copied. In NumPy, with steps in place of copies:

    >>> import numpy as np, tinynet as tn
    >>> C, KW, OW = 2, 3, 4
    >>> line = np.arange(12.0)                                    # a row of 6 pixels with 2 channels
    >>> windows = np.lib.stride_tricks.as_strided(line, (OW, KW * C), (C * 8, 8))     # 8 bytes a number
    >>> windows
    array([[ 0.,  1.,  2.,  3.,  4.,  5.],
           [ 2.,  3.,  4.,  5.,  6.,  7.],
           [ 4.,  5.,  6.,  7.,  8.,  9.],
           [ 6.,  7.,  8.,  9., 10., 11.]])
    >>> np.shares_memory(windows, line)
    True
    >>> w = np.arange(18.0).reshape(KW * C, 3)                    # 3 outputs
    >>> y = tn.conv2d(line.reshape(1, 1, 6, C), w.reshape(1, KW, C, 3)).numpy()
    >>> bool((windows @ w == y.reshape(OW, 3)).all())
    True

    A stride makes the step larger, a dilation another one; a transposed matrix has its two steps swapped; the weight
    gradient reads A across. tile.py takes a step for every index and does all of them; product.py has the same tile for
    plain matrices, which are simpler. They write vector instructions by hand, as do a few files beside them, such as
    winograd_transform.py, with the `Operand` and the `Vector` of emit.py. Everything else is Python, plain or
    compiled. Here the tour ends.
    """
    return tile.block, tile._emit_tiles, convolution._correlate_phase


STOPS = (remembering, ordering, adding_up, numerics, company, transposing, checkerboards, stepping,
         fewer_multiplications, registers)


def debugged(program: str, commands: str) -> str:
    """What pdb says when a program runs under it, uncompiled, and these commands are typed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.py"
        path.write_text(program, encoding="utf-8")
        where = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])  # the same tinynet as here
        done = subprocess.run([sys.executable, "-m", "pdb", str(path)], input="\n".join(commands), text=True,
                              capture_output=True, env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": where})
    return done.stdout


def way_down(said: str) -> list[str]:
    """What pdb's `where` has said of the functions below the program's own lines: file(line)function()."""
    answer = max(said.split("(Pdb) "), key=lambda text: text.count("\n-> "))
    lines = answer.rpartition("<module>()")[2].splitlines()
    return [Path(line).name for line in lines if line.endswith("()") and not line.startswith("->")]
