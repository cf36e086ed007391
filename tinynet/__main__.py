"""python -m tinynet: a table of commands, each a module with main(arguments)."""

import importlib
import sys

COMMANDS = {
    "warmup": ("tinynet.warmup", "compile ahead what the examples need, so that their first run starts at once"),
    "tour": ("tinynet.inspect.tour", "a guided tour of the source in ten stops, from a tensor to the register tile"),
    "explain": ("tinynet.inspect.explain", "all about an op, layer, loss or optimiser on one card; alone: their names"),
    "tensorboard": ("tinynet.interop.tensorboard", "make of metrics.csv what TensorBoard shows"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"    {name:{width}}    {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(["usage: python -m tinynet COMMAND [ARGUMENT ...]", "", *lines, "",
                      "python -m tinynet COMMAND --help tells more of a command."])


def main(arguments: list[str]) -> int:
    """Runs the command that the first argument names; returns the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    name, *others = arguments
    if name not in COMMANDS:
        print(f"python -m tinynet: there is no command {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[name][0]).main(others) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
