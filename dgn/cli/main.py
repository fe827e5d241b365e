"""``dgn VERB [hydra overrides] [-m]``: finds the verb, lets Hydra compose, and turns errors into one line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from dgn.cli.verbs import VERBS
from dgn.cli.words import check, check_paths, key_of, overrides_in, positional
from dgn.errors import DgnError, first_line, nearest, of_machine


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0, 2 for something the user can mend, 130 when interrupted, 141
    where nobody reads what it prints any more."""
    arguments = sys.argv[1:] if argv is None else argv
    try:
        code = _main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # what is printed from now on, also at the interpreter's end, goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return code


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if arguments[0] in ("-V", "--version"):
        import dgn

        print(f"dgn {dgn.__version__}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb not in VERBS:
            raise DgnError(f"no verb {verb!r}{nearest(verb, VERBS) or '; expected ' + ', '.join(VERBS)}")
        with _stoppable():
            return _run(verb, positional(verb, rest))
    except DgnError as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        goes_on = verb == "synthesize" or "-m" in rest or "--multirun" in rest
        line = "interrupted; the same command continues" if goes_on else "interrupted"
        return _fail(line, stop.args[0] if stop.args else 130)
    except SystemExit as end:  # Hydra's own --help and --version
        return 2 if end.code else 0
    except OSError as error:
        refused = of_machine(error)
        if refused is None:
            raise
        return _fail(refused)


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


def _help() -> str:
    lines = ["dgn: what does this neuron want to see?", "", "usage: dgn VERB [key=value ...] [-m]", ""]
    lines += [f"  {name:<12}{verb.what}" for name, verb in VERBS.items()]
    lines += [
        "",
        "dgn VERB --help shows what can be set, and its values; -m sweeps over comma-separated values.",
    ]
    return "\n".join(lines)


def _fail(message: str, code: int = 2) -> int:
    print("dgn: " + " ".join(message.split()), file=sys.stderr)
    return code


def _run(verb: str, arguments: list[str]) -> int:
    _check_flags(verb, arguments)
    check(verb, arguments, sweep=bool({"-m", "--multirun"} & {*arguments}))
    if {"-h", "--help"} & {*arguments}:
        from dgn.cli.help import help_of

        print(help_of(verb, arguments))
        return 0
    check_paths(arguments)
    from dgn.cli.sweeps.job import Task
    from dgn.cli.sweeps.sweep import Sweep, is_sweep

    task, no_runs = Task(verb), VERBS[verb].writes is None
    if no_runs and any(key_of(word) == "hydra.sweep.dir" for word in overrides_in(arguments)):
        raise DgnError(f"dgn {verb} makes no runs: leave out hydra.sweep.dir")
    if not is_sweep(arguments) or no_runs:
        _hydra(task, arguments)
        if task.unread:
            raise BrokenPipeError
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


def _check_flags(verb: str, arguments: list[str]) -> None:
    """Flags that Hydra does not have, in one line; and ``--experimental-rerun``, however abbreviated: it would unpickle
    the file that it names."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise DgnError(f"{message}; dgn {verb} --help shows what can be given")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    if parser.parse_args(arguments).experimental_rerun is not None:
        raise DgnError("--experimental-rerun unpickles a file, which can run any code; give the overrides instead")


def _hydra(task: Any, arguments: list[str]) -> None:
    """Hydra composes the configuration, and has the task run once, or once a job of a sweep."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from dgn.cli import schema
    from dgn.cli.compose import explain, opened
    from dgn.resources import resource

    # Where a file may make it a sweep, hydra.main finds out by composing once more.
    plain = not any(word.startswith("-") or "hydra.searchpath" in word for word in arguments)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and the lines below say it in one line
    before, sys.argv = sys.argv, [f"dgn {task.verb}", *arguments]
    try:
        if plain:
            with opened(arguments) as (composer, given):
                composer.run(task.verb, task, [*given.overrides, "hydra.mode=RUN"])
        else:
            schema.register()
            hydra.main(version_base="1.3", config_path=str(resource("conf")), config_name=task.verb)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise DgnError(explain(error, task.verb, arguments)) from error
    except Exception as error:  # the jobs' own are caught
        if task.broken or isinstance(error, (DgnError, BrokenPipeError)):
            raise
        line = of_machine(error) if isinstance(error, OSError) else None
        raise DgnError(line or f"Hydra can't take these arguments: {first_line(error)}") from error
    finally:
        sys.argv = before


if __name__ == "__main__":
    sys.exit(main())
