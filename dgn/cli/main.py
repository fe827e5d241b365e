"""``dgn VERB [hydra overrides] [-m]``: finds the verb, lets Hydra compose, and turns errors into one line."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from dgn.errors import DgnError, first_line, nearest

VERBS = {
    "synthesize": "images that units prefer, through a generator prior and from raw pixels",
    "examples": "the images of a data set that excite units most",
    "facets": "the kinds of images that a unit answers to, with a synthesis of each",
    "ablate": "which parts of an image a unit needs",
    "train": "train a generator that inverts a layer of a network",
    "evaluate": "measure how good the images of a run or of a prior are",
    "figure": "a figure for a paper: PDF, PNG and the numbers behind it",
    "gallery": "runs as one self-contained page",
    "gather": "the runs of a sweep as one table, grid and gallery",
    "units": "list a network's layers; find its classes",
}


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0, 2 for something the user can mend, 130 when interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        import dgn

        print(f"dgn {dgn.__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    rest = _positional(verb, rest)
    try:
        if verb not in VERBS:
            raise DgnError(f"no verb {verb!r}{nearest(verb, VERBS) or '; expected ' + ', '.join(VERBS)}")
        with _stoppable():
            return _run(verb, rest)
    except DgnError as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        goes_on = verb == "synthesize" or "-m" in rest or "--multirun" in rest
        line = "interrupted; the same command continues" if goes_on else "interrupted"
        return _fail(line, stop.args[0] if stop.args else 130)
    except SystemExit as end:  # argparse has said what was wrong
        return 2 if end.code else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends a job as Ctrl-C does: what it has is written, its children are stopped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    code: list[int] = []

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is on its way
        code.append(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:  # perhaps another one, raised by a library that caught it
        raise KeyboardInterrupt(*code) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _positional(verb: str, rest: list[str]) -> list[str]:
    """Run folders and a figure's name in their plain form, as overrides; ``-m`` in front, wherever it stood: argparse
    takes no overrides behind it once there were some before."""
    for flag in ("-m", "--multirun"):
        if flag in rest:
            rest = [flag, *(word for word in rest if word != flag)]
    plain = [word for word in rest if "=" not in word and not word.startswith("-")]
    if verb == "evaluate" and plain:
        rest = [f"run={_quoted(plain[0])}", *(word for word in rest if word not in plain)]
    elif verb == "gallery" and plain:
        rest = [f"runs=[{','.join(map(_quoted, plain))}]", *(word for word in rest if word not in plain)]
    elif verb == "gather" and plain:
        rest = [f"sweep={_quoted(plain[0])}", *(word for word in rest if word not in plain)]
    elif verb == "figure":
        rest = [re.sub(r"^name=", "figure=", word) for word in rest]
        if plain:
            rest = [f"figure={plain[0]}", *(word for word in rest if word not in plain)]
    return rest


def _quoted(word: str) -> str:
    return "'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _help() -> str:
    lines = ["dgn: what does this neuron want to see?", "", "usage: dgn VERB [key=value ...] [-m]", ""]
    lines += [f"  {verb:<12}{what}" for verb, what in VERBS.items()]
    lines += ["", "dgn VERB --help shows a verb's keys with their values; -m sweeps over comma-separated values."]
    return "\n".join(lines)


def _fail(message: str, code: int = 2) -> int:
    print("dgn: " + " ".join(message.split()), file=sys.stderr)
    return code


def _run(verb: str, arguments: list[str]) -> int:
    from dgn.cli.job import Task
    from dgn.cli.sweep import Sweep, is_sweep, key_of

    _refuse_rerun(arguments)
    if any(key_of(word) == "hydra.mode" for word in arguments):
        raise DgnError("hydra.mode can't be given: -m runs a sweep, and a command without it one job")
    task = Task(verb)
    if not is_sweep(arguments) or verb in ("units", "gallery", "gather"):
        _hydra(task, arguments)
        return _fail(task.stopped) if task.stopped else 0
    sweep = Sweep(verb, arguments)
    try:
        _hydra(task, sweep.hydra_arguments())
    except KeyboardInterrupt:
        sweep.end(interrupted=True)
        raise
    except BaseException:
        line = sweep.end(broken=True)
        if line:
            _fail(line)
        raise
    line = sweep.end()
    return _fail(line) if line else 0


def _refuse_rerun(arguments: list[str]) -> None:
    """``--experimental-rerun``, however abbreviated: Hydra would unpickle the file that it names."""
    from hydra._internal.utils import get_args_parser

    known, _ = get_args_parser().parse_known_args(arguments)
    if known.experimental_rerun is not None:
        raise DgnError("--experimental-rerun unpickles a file, which can run any code; give the overrides instead")


def _hydra(task: Any, arguments: list[str]) -> None:
    """Hydra composes the configuration, and has the task run once, or once a job of a sweep."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from dgn.cli import schema
    from dgn.resources import resource

    schema.register()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the lines below say it in one line
    before, sys.argv = sys.argv, [f"dgn {task.verb}", *arguments]
    try:
        hydra.main(version_base="1.3", config_path=str(resource("conf")), config_name=task.verb)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise DgnError(explain(error, task.verb)) from error
    except Exception as error:  # the jobs' own are caught
        if task.broken or isinstance(error, (DgnError, BrokenPipeError)):
            raise
        raise DgnError(f"Hydra can't take these arguments: {first_line(error)}") from error
    finally:
        sys.argv = before


def explain(error: Exception, verb: str) -> str:
    """Hydra's and OmegaConf's messages in one line, with the nearest key or choice."""
    from dgn.resources import resource

    conf = str(resource("conf"))
    text = f"{error}\n{error.__cause__ or ''}"
    found = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' (?:is )?not in", text)
    if found:
        key = found[1]
        full = re.search(r"full_key: (\S+)", text)
        return f"no key {str(full[1] if full else key)!r}{nearest(key, _keys(verb, conf))}"
    found = re.search(r"Could not find '([^']+)/([^/']+)'", text)
    if found:
        if found[2] in ("dgn_slurm", "dgn_slurm_local", "submitit_slurm", "submitit_local"):
            return "Slurm's launchers need a plugin: pip install 'dgn[slurm]'"
        options = [line.strip() for line in text.split("Available options", 1)[-1].splitlines()[1:] if line.strip()]
        options = [option for option in options if re.fullmatch(r"[\w.-]+", option)]
        return f"no {found[1]} {found[2]!r}{nearest(found[2], options)}; expected one of: {', '.join(options)}"
    found = re.search(r"Missing mandatory value: (\S+)", text)
    if found:
        full = re.search(r"full_key: (\S+)", text)
        key = full[1] if full else found[1]
        return f"the key {key} has no value; give {key}=VALUE"
    found = re.search(r"While dereferencing interpolation '\$\{([\w.]+)\}': (Value .*)", text)
    if found:
        return f"{found[1]}: {found[2]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Error in call to target"):
        return " ".join(lines[:2])
    full = re.search(r"full_key: (\S+)", text)
    value = next((line for line in lines if line.startswith("Value ")), None)
    if value:
        return f"{full[1] if full else lines[0]}: {value}"
    return lines[0] if lines else type(error).__name__


@cache
def _keys(verb: str, conf: str) -> list[str]:
    """Every key of a verb's default configuration, as it would be written."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import DictConfig

    GlobalHydra.instance().clear()
    with initialize_config_dir(conf, version_base="1.3"):
        config = compose(verb)
    keys: list[str] = []

    def walk(node: DictConfig, prefix: str) -> None:
        for key in node:
            keys.append(f"{prefix}{key!s}")
            inner = node._get_node(key)
            if isinstance(inner, DictConfig) and not inner._is_missing() and not inner._is_none():
                walk(inner, f"{prefix}{key!s}.")

    walk(config, "")
    return keys


if __name__ == "__main__":
    sys.exit(main())
