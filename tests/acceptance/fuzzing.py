"""Random command lines: keys of every verb with values of every kind, and Hydra's own grammar turned against it."""

from __future__ import annotations

from hypothesis import strategies as st
from smallest import TINY

from dgn.cli.verbs import VERBS

LONG = {
    "seeds", "batch", "frames", "steps", "screen", "race_steps", "refine_steps", "population", "views", "starts",
    "octaves", "phases", "size", "input_size", "image_size", "encoder_size", "width", "widths", "depths", "k",
    "workers", "threads", "jobs", "n_jobs", "n_trials",
    "most", "shown", "curve_steps", "per_class", "most_photos", "components", "classes",
    "component_images", "statistics_images", "ascent_steps", "held_out", "examples", "members", "facets",
}  # fmt: skip
"""Keys whose value is paid for in time and memory: they get values that are refused, or that cost nothing."""

WORDS = st.sampled_from([
    "", "null", "true", "abc", "nan", "inf", "-inf", "goldfish", "0", "1", "-1", "1.5", "1e-3", "auto", "none", "???",
    "[]", "{}", "[1,2]", "[nan]", "{a: 1}", "[{a: {b: c}}]", "[[0]]", "[0,0]", "{path: pixel}", "[null]", "''", '""',
    "é", "\N{TROPICAL FISH}", "日本", "a b", "a=b", "a:b", "a/b", "../x", "/", ".", "..", "x" * 300, "\\", "\t", "\n",
    "${seed}", "${nothing}", "${oc.env:HOME}", "${oc.env:NOT_THERE}", "${now:%Y}", "${", "}", "$", "[", "{", "'", '"',
    "[a", "{a", "'a", "a'", "a,b", "1,2", "range(1,3)", "choice(1,2)", "interval(0,1)", "glob(*)", "int(a)",
    "str(1)", "sort(2,1)", "shuffle(1,2)", "extend_list(1)", "${hydra:job.num}", "@", "%", "#", "~", "*", "!", "|",
    "0*1", "0 - 0", "0.5*0 + 0.5*1", "output:0", "stem:1", "stem:1@0,0", "stem:1@center", "stem:*", "log(0)", "p(0)",
    "0:0", ":", "::", "a:b:c", "blocks.1:99999999999", "-0", "0x10", "1_000", "1e400", "True", "no", "cpu", "cuda:9",
    "pictures", "pictures/a.png", "pictures/broken.png", "small.pt2", "shift", "{shift: nan}", "{blur: {sigma: x}}",
    "adam", "nguyen2016", "cmaes", "ppgn", "best", "last", "crop", "resize", "bf16", "float32", "log", "offline",
])  # fmt: skip
DEAR = st.sampled_from(["", "null", "abc", "nan", "inf", "-1", "0", "1", "2", "1.5", "[]", "{}", "[1]", "true",
                        "${seed}", "-9223372036854775809", "99999999999999999999"])  # fmt: skip
CHEAP = st.sampled_from(
    ["-1", "0", "1", "2", "0.5", "-0.0", "1e-30", "1e30", "nan", "inf", "-inf", "null", "true", "x"]
)
CHOICES = {
    "rule": ["adam", "nguyen2016", "cmaes", "ppgn", "adm", "sgd", "null"], "fit": ["crop", "resize", "x"],
    "keep": ["best", "last", "x"], "precision": ["bf16", "float32", "x"], "preset": ["nguyen2016", "ppgn", "x", "null"],
    "transforms": ["[shift]", "[{shift: nan}]", "[{rotate: 1e9}]", "[x]", "{}", "[]", "[{blur: {sigma: -1}}]", "3"],
    "penalties": ["[tv]", "[{l2: inf}]", "[{tv: -1}]", "[x]", "{}", "[]"], "between": ["[blur]", "[{blur: 0}]", "[x]"],
    "phases": ["[]", "[{}]", "[{steps: 1}]", "[{steps: -1}]", "[{grow: 0}]", "[{grow: nan}]", "[{phases: [{}]}]", "x"],
    "diversity_layer": ["stem", "output", "x", "null"],
    "units": ["[0]", "[stem:1]", "[9]", "[]", "0", "[null]", "[[0]]"],
    "unit": ["0", "stem:1", "stem:*", "[0]", "9", "late:1@0,0", "''"],
    "image": ["pictures/a.png", "[]", "pictures", "x"],
}  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-3, 3).map(str), st.integers(-(2**70), 2**70).map(str), st.floats().map(repr),
)  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
VALUES = st.one_of(WORDS, WORDS, NUMBERS, TEXTS, TEXTS.map(lambda text: "'" + text.replace("'", "") + "'"))
FLAGS = st.sampled_from([
    "--cfg=job", "--cfg=nothing", "--cfg", "--info", "--info=defaults", "--nothing", "-x", "--help", "--hydra-help",
    "-m", "--multirun", "--package=a", "--resolve", "--version", "--experimental-rerun=x", "--config-name=nothing",
    "--config-name=../x", "--config-path=nowhere", "--config-dir=nowhere", "-cd", "-cn", "--shell-completion",
])  # fmt: skip
NAMES = st.one_of(
    TEXTS,
    st.sampled_from([
        "units", "+units", "~units", "++units", "~seed", "+new", "++new.deep", "+prior.x", "~prior", "prior@a", "@", "",
        "prior.pixel", "prior.pixel.path", "prior.pixel.size", "prior.pixel.weights", "prior.pixel.options",
        "prior.pixel.module", "+prior.pixel.ascent", "+prior.'../x'.path", "prior", "network", "ascent", "tracking",
        "hydra.run.dir", "hydra/launcher", "hydra/sweeper", "hydra.sweeper.x", "figure", "data", "a.b.c", "..", "a..b",
        "units.0", "units[0]", "network.name", "network.weights", "verb", "trust", "name", "shard", "objective",
    ]),
)  # fmt: skip


def overrides(keys: list[str]) -> st.SearchStrategy[str]:
    """One argument: a known or made-up key with a random value, a flag, or any text."""

    def value(key: str) -> st.SearchStrategy[str]:
        name = key.rpartition(".")[2]
        own = DEAR if name in LONG else CHEAP if key.startswith("ascent.") else VALUES
        if name in CHOICES and name != "phases":
            own = st.sampled_from(CHOICES[name])
        return st.one_of(own, own, own, DEAR if name in LONG else VALUES).map(lambda text: f"{key}={text}")

    known = st.sampled_from([key for key in keys if not key.startswith(("hydra", "out"))])
    return st.one_of(
        *[known.flatmap(value)] * 6,
        st.tuples(NAMES, WORDS).map("=".join), FLAGS, TEXTS,
    )  # fmt: skip


def commands(keys: dict[str, list[str]]) -> st.SearchStrategy[list[str]]:
    """A command line: a verb at its smallest with one to four random arguments, sometimes another word for a verb.

    Args:
        keys: of each verb.
    """

    def of(verb: str) -> st.SearchStrategy[list[str]]:
        more = st.lists(overrides(keys[verb]), min_size=1, max_size=2)
        return more.map(lambda given: [verb, *TINY[verb], *given])

    verbs = st.sampled_from(sorted(VERBS)).flatmap(of)
    return st.one_of(*[verbs] * 12, TEXTS.map(lambda text: [text]), st.lists(TEXTS, max_size=3))
