"""The mutants of mutation.py: what is changed, one change at a time, and what is left alone."""

import ast

from tests import mutation

SOURCE = '''
def backward(self, gy, scale=2):
    """A docstring with 1 < 2."""
    if not self.needs[0] and gy.ndim < 3:
        raise ValueError(f"needs {1 + 1}")
    self.x += 1
    for a, b in zip(self, gy, strict=True):
        call(a, b)
    return gy * scale, None
'''


def mutants():
    return [mutation.mutate(SOURCE, i) for i in range(mutation.count(SOURCE))]


def test_every_kind_of_change_is_made_once():
    found = [what.split(": ")[1] for _, what in mutants()]
    assert sorted(found) == sorted([
        "a number plus 1", "a number plus 1", "a number plus 1", "a number plus 1",  # scale=2, needs[0], < 3, += 1
        "Not left out", "another comparison", "and for or, or for and", "the condition negated", "a statement left out",
        "Add to Sub", "the first two arguments exchanged", "the first two arguments exchanged", "a statement left out",
        "Mult to Div", "gradient 0 left out",
    ])


def test_each_mutant_differs_from_the_source_and_from_the_others():
    texts = {ast.unparse(tree) for tree, _ in mutants()}
    assert ast.unparse(ast.parse(SOURCE)) not in texts and len(texts) == len(mutants())
    assert all("A docstring with 1 < 2." in text and "strict=True" in text for text in texts)


def test_without_a_number_nothing_is_changed():
    tree, what = mutation.mutate(SOURCE, None)
    assert ast.unparse(tree) == ast.unparse(ast.parse(SOURCE)) and what is None
