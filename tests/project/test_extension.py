"""The compiled extension: what its file exports, and where it can be imported."""

import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from fastmlp import _core

FILE = Path(_core.__file__)
needs_elf = pytest.mark.skipif(
    sys.platform != "linux" or sys.maxsize < 2**32 or sys.byteorder != "little",
    reason="the file format of 64-bit Linux",
)


class Elf:
    """The parts of a 64-bit ELF file that the tests look at."""

    DYNSYM, DYNAMIC = 11, 6  # types of sections

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        assert self.data[:6] == b"\x7fELF\x02\x01"
        at = struct.unpack_from("<QQ", self.data, 0x20)  # tables of segments, sections
        sizes = struct.unpack_from("<HHHH", self.data, 0x36)
        self.segments = self.table(at[0], sizes[0], sizes[1], "<IIQQQQQQ")
        self.sections = self.table(at[1], sizes[2], sizes[3], "<IIQQQQIIQQ")

    def table(self, at: int, size: int, count: int, fields: str) -> list:
        return [
            struct.unpack_from(fields, self.data, at + i * size) for i in range(count)
        ]

    def section(self, kind: int) -> tuple:
        return next(section for section in self.sections if section[1] == kind)

    def dynamic(self) -> dict[int, int]:
        section = self.section(self.DYNAMIC)
        return dict(self.table(section[4], 16, section[5] // 16, "<qQ"))

    def symbols(self) -> list[tuple[str, bool]]:
        """Names, and whether the symbol is defined here."""
        section = self.section(self.DYNSYM)
        names = self.sections[section[6]][4]
        found = []
        for entry in self.table(section[4], 24, section[5] // 24, "<IBBHQQ"):
            start = names + entry[0]
            name = self.data[start : self.data.index(b"\0", start)].decode()
            found.append((name, entry[3] != 0))
        return [symbol for symbol in found if symbol[0]]


@needs_elf
def test_only_the_module_is_exported():
    """In particular, no templates of the C++ library, which other modules may have."""
    exported = [name for name, defined in Elf(FILE).symbols() if defined]
    assert exported == ["PyInit__core"]


@needs_elf
def test_the_extension_is_hardened():
    elf = Elf(FILE)
    flags, flags_1 = 30, 0x6FFFFFFB
    dynamic = elf.dynamic()
    assert dynamic.get(flags, 0) & 8 or dynamic.get(flags_1, 0) & 1  # BIND_NOW, NOW
    assert 22 not in dynamic  # TEXTREL: no relocations in the code
    kinds = {segment[0]: segment[1] for segment in elf.segments}
    stack, relro = 0x6474E551, 0x6474E552
    assert relro in kinds
    assert not kinds[stack] & 1  # not executable
    assert all(segment[1] & 3 != 3 for segment in elf.segments if segment[0] == 1)
    imported = {name for name, defined in elf.symbols() if not defined}
    assert "__stack_chk_fail" in imported
    sanitised = any(name.startswith("__asan") for name in imported)
    if platform.libc_ver()[0] == "glibc" and not sanitised:
        assert {name for name in imported if name.endswith("_chk")}


SUB_INTERPRETER = """
import sys
if sys.argv[1] == "after":
    import fastmlp
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
try:
    other = interpreters.create("legacy")
except (TypeError, ValueError):
    other = interpreters.create()
code = '''
import warnings
warnings.simplefilter("ignore")
try:
    import fastmlp
except ImportError as error:
    text = str(error)
else:
    text = "no error"
with open("found", "w") as file:
    file.write(text)
'''
interpreters.run_string(other, code)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sub_interpreter_gets_an_import_error(when, tmp_path):
    """The import of NumPy may refuse first, depending on the version of Python."""
    subprocess.run(
        [sys.executable, "-c", SUB_INTERPRETER, when],
        cwd=tmp_path,
        timeout=60,
        check=True,
    )
    text = (tmp_path / "found").read_text()
    assert text != "no error"
    if sys.version_info < (3, 12):
        assert text.startswith("fastmlp can be used only in the main interpreter")
