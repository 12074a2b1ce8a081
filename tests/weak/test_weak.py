"""The protocols under memory models weaker than any test can run on: kernels of them in C11, and GenMC.

Each kernel is a small program over hbcore's own ``atomics.h``. GenMC runs it in every way that a model allows, and
finds no broken assertion; with a bug planted it finds one. ``python tests/weak/kernels.py`` does the same, and prints a
table. Without ``genmc`` on the PATH, what is left is that the kernels compile, and that the functions that they
transcribe are what they were.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import transcribed
from kernels import ATOMICS, MODELS, NoVerdictError, compiler_flags, examine, kernels

pytestmark = pytest.mark.skipif(not ATOMICS.exists(), reason="the kernels transcribe a source tree")

needs_genmc = pytest.mark.skipif(
    shutil.which("genmc") is None,
    reason="genmc is not on the PATH: it is built from https://github.com/MPI-SWS/genmc, see tests/README.md",
)
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
QUICK = {"closing", "late_refund", "read_pair", "read_slot", "registration"}

PROGRAMS = [(name, configuration) for name, kernel in kernels().items() for configuration in kernel.configurations]
PLANTED = [
    (name, plant.number, configuration)
    for name, kernel in kernels().items()
    for plant in kernel.plants
    for configuration in plant.configurations
]


def marked(cases: list[tuple]) -> list:
    """Leave to the full run all but a few kernels."""
    return [
        pytest.param(*case, id="-".join(map(str, case)), marks=[] if case[0] in QUICK else [pytest.mark.full])
        for case in cases
    ]


# ---- what GenMC finds -----------------------------------------------------------------------------------------------


@needs_genmc
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "configuration"), marked(PROGRAMS))
def test_no_execution_that_the_model_allows_breaks_a_promise(name: str, configuration: str, model: str) -> None:
    verdict = examine(kernels()[name].path, configuration, 0, model)
    assert not verdict.found, verdict.output


@needs_genmc
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "plant", "configuration"), marked(PLANTED))
def test_a_planted_bug_is_found(name: str, plant: int, configuration: str, model: str) -> None:
    verdict = examine(kernels()[name].path, configuration, plant, model)
    assert verdict.found, f"{verdict.executions} executions, and none breaks the assertion"


NO_VERDICTS = {
    "it does not compile": "int main(void) { return 0 }",
    "it calls what there is not": "void missing(void);\nint main(void) { missing(); return 0; }",
    "every execution is given up": "int main(void) { assume(0); assert(0); return 0; }",
    "a loop is longer than GenMC looks": (
        "static uint64_t x;\n"
        "static void *count(void *u) { for (int i = 0; i < 99; i++) hb_cas(&x, i, i + 1); assert(0); return u; }\n"
        "int main(void) { RUN(count); return 0; }"
    ),
}


@needs_genmc
@pytest.mark.parametrize("program", NO_VERDICTS.values(), ids=NO_VERDICTS.keys())
def test_a_kernel_that_shows_nothing_counts_neither_as_sound_nor_as_found(program: str, tmp_path: Path) -> None:
    path = tmp_path / "kernel.c"
    path.write_text(f'#include "kernel.h"\n{program}\n')
    with pytest.raises(NoVerdictError):
        examine(path, "PLAIN", 0, "rc11")


# ---- what the kernels are -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", kernels())
def test_a_kernel_says_what_it_is(name: str) -> None:
    kernel = kernels()[name]
    source = kernel.path.read_text().split("*/", 1)[1]
    numbers = [plant.number for plant in kernel.plants]
    assert kernel.transcribes
    assert kernel.asserts
    assert numbers == list(range(1, len(numbers) + 1)), "the plants are not numbered from 1 on"
    for plant in kernel.plants:
        assert re.search(rf"planted\w*\({plant.number}[,)]", source), plant
        assert set(plant.configurations) <= kernel.configurations.keys(), plant
    assert {name for plant in kernel.plants for name in plant.configurations} == kernel.configurations.keys(), (
        "no plant shows that this configuration can break"
    )


@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
@pytest.mark.parametrize("name", kernels())
def test_a_kernel_compiles(name: str) -> None:
    kernel = kernels()[name]
    programs = [(configuration, 0) for configuration in kernel.configurations]
    programs += [(plant.configurations[0], plant.number) for plant in kernel.plants]
    for configuration, plant in programs:
        flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-fsyntax-only"]
        flags += ["-D__GCC_HAVE_SYNC_COMPARE_AND_SWAP_16=1", *compiler_flags(configuration, plant)]
        result = subprocess.run([COMPILER, *flags, kernel.path], capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{configuration}, plant {plant}:\n{result.stderr}"


# ---- what they transcribe -------------------------------------------------------------------------------------------


def test_the_functions_that_the_kernels_transcribe_are_what_they_were() -> None:
    changes = transcribed.changes()
    assert not changes, "\n" + "\n".join(changes)


CYTHON = '''
cdef uint64_t other(const Thing *thing) noexcept nogil
cdef inline int look(
    const Thing *thing, uint64_t at
) noexcept nogil:
    """Say what it does."""
    # Relaxed: it is a hint.
    cdef uint64_t word = hb_load_relaxed(&thing.words[at])      # see above
    if word == 0:
        return -1

    return <int>word
cdef int after() noexcept nogil:
    return 0
'''
SAME_CYTHON = """
cdef inline int look(const Thing *thing, uint64_t at) noexcept nogil:
    cdef uint64_t word = hb_load_relaxed(
        &thing.words[at])
    if word == 0:
            return -1   # nobody
    return <int>word
"""
OTHER_CYTHON = [
    CYTHON.replace("hb_load_relaxed", "hb_load_acquire"),
    CYTHON.replace("\n    return <int>word", "\n        return <int>word"),
    CYTHON.replace("return -1", "return -2"),
    CYTHON.replace("at]", 'at]("#")'),
]


def test_only_code_counts_in_a_function() -> None:
    code = transcribed.cython_code(transcribed.cython_source(CYTHON, "look"))
    same = transcribed.cython_code(
        transcribed.cython_source(SAME_CYTHON.replace("            ret", "        ret"), "look")
    )
    assert code == same
    assert "hint" not in code
    assert "after" not in code
    assert "Say" not in "".join(code)
    for other in OTHER_CYTHON:
        assert transcribed.cython_code(transcribed.cython_source(other, "look")) != code
    assert transcribed.cython_source(CYTHON, "missing") is None
    assert transcribed.cython_source(CYTHON, "other") is None, "a declaration has no code"


C = """
static inline int other(int a) { return a; }
/* Say what it does. */
static inline int look(const uint64_t *p,
                       int at)
{
    for (;;) {
        break; /* } */
    }
    return hb_load_relaxed(p + at) != '}'; // a brace
}
static inline int after(int a) { return look(0, a); }
"""


def test_only_code_counts_in_a_function_of_c() -> None:
    code = transcribed.c_code(transcribed.c_source(C, "look"))
    assert code == transcribed.c_code(transcribed.c_source(C.replace("/* } */", "").replace("\n   ", " "), "look"))
    assert code != transcribed.c_code(transcribed.c_source(C.replace("relaxed", "acquire"), "look"))
    assert code[-2:] == [";", "}"]
    assert "after" not in code
    assert transcribed.c_source(C, "missing") is None


def test_a_change_of_a_function_names_the_kernels_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    file, name = "hbcore/_money/hold.pxd", "read_pair"
    text = (transcribed.ROOT / file).read_text()
    weaker = text.replace("second[0] = hb_load_acquire(&pair[1])", "second[0] = hb_load_relaxed(&pair[1])")
    assert weaker != text
    read = transcribed.text_of
    before = transcribed.changes()
    monkeypatch.setattr(transcribed, "text_of", lambda asked: weaker if asked == file else read(asked))
    [line] = [line for line in transcribed.changes() if line not in before]
    assert line.startswith(f"{file}: {name} has changed: look at the kernel account")
    assert "read_pair" in line.split("look at", 1)[1]
    monkeypatch.setattr(transcribed, "text_of", lambda asked: "" if asked == file else read(asked))
    [line] = [line for line in transcribed.changes() if line not in before]
    assert line.startswith(f"{file} has no function {name}, which account")
