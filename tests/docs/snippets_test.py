"""The pages of docs/ show C++ that the tests of this folder run, line by line, and their links lead somewhere."""
import pathlib
import re
import sys
import textwrap
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCS = ROOT / "docs"
# Which pages show the regions of a source.
PAGES = {"recipes_test.cpp": ["recipes.md"], "coming_from_test.cpp": ["coming-from.md", "fp16-or-bf16.md", "loss-scaling.md"]}
# Whose yaml blocks are loaded, and sh blocks run, by tests of the trainer: openmmlab_docs_test.cpp, print_config_test.py.
TRAINER_PAGES = [*PAGES["coming_from_test.cpp"], "coming-from-openmmlab.md", "diagnosis.md"]


def regions(source):
    found = {}
    for name, body in re.findall(r"^ *// recipe: ([^\n]+)\n(.*?)^ *// end$", source, re.MULTILINE | re.DOTALL):
        if name in found:
            raise AssertionError(f"two regions are named {name!r}")
        found[name] = textwrap.dedent(body).strip()
    return found


def blocks(page):
    return [(name, body.strip()) for name, body in
            re.findall(r"^<!-- recipe: ([^\n]+) -->\n```cpp\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]


def fenced(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def our_lines(page):
    """The code in the last column of the tables whose last column is "our line"."""
    ours = False
    for line in page.splitlines():
        if not line.startswith("|"):
            ours = False
            continue
        last = line.rstrip().rstrip("|").split(" | ")[-1].strip()
        if ours:
            yield from re.findall(r"`([^`]+)`", last)
        ours = ours or last == "our line"


def without_blanks(text):
    return re.sub(r"\s+", "", text)


def without_fences(page):
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """What GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", without_fences(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).lower()).replace(" ", "-") for title in titles}


def number_row(name, values):
    return f"| {name} | " + " | ".join("65504" if value == 65504 else f"{value:.3g}".replace("e+", "e") for value in values) + " |"


class Snippets(unittest.TestCase):
    def test_the_pages_show_what_is_run(self):
        for source, pages in PAGES.items():
            run = regions((HERE / source).read_text())
            shown = [block for page in pages for block in blocks((DOCS / page).read_text())]
            self.assertGreaterEqual(len(shown), 5)
            for name, body in shown:
                with self.subTest(name):
                    self.assertIn(name, run)
                    self.assertEqual(run[name], body)
            self.assertEqual(sorted(run), sorted(name for name, _ in shown))

    def test_every_block_is_checked(self):
        for page in (page for pages in PAGES.values() for page in pages):
            text = (DOCS / page).read_text()
            self.assertEqual(text.count("```cpp"), len(blocks(text)), page)
            self.assertLessEqual(set(re.findall(r"^```(\w+)$", text, re.MULTILINE)), {"cpp", "sh", "yaml"}, page)

    def test_our_lines_are_in_what_is_run(self):
        sources = [HERE / "coming_from_test.cpp", *(ROOT / "examples").glob("*.cpp")]
        run = without_blanks("\n".join(source.read_text() for source in sources))
        run += without_blanks("\n".join(block for page in TRAINER_PAGES for block in fenced((DOCS / page).read_text(), "(?:sh|yaml)")))
        found = list(our_lines((DOCS / "coming-from.md").read_text()))
        self.assertGreaterEqual(len(found), 80)
        for line in found:
            with self.subTest(line):
                self.assertIn(without_blanks(line), run)

    def test_programs_of_the_pages_are_run(self):
        examples = (ROOT / "tests/examples/CMakeLists.txt").read_text()
        cases = set(re.findall(r"^TEST_P\((\w+), (\w+)\)", (HERE / "coming_from_test.cpp").read_text(), re.MULTILINE))
        programs = 0
        for page in PAGES["coming_from_test.cpp"]:
            for line in re.findall(r"^\$ (.*)$", (DOCS / page).read_text(), re.MULTILINE):
                programs += 1
                with self.subTest(line):
                    example = re.fullmatch(r"build/release/examples/(\w+)( \w+)?", line)
                    case = re.fullmatch(r"build/release/tests/docs/docs_tests --gtest_filter='\*(\w+)\.(\w+)/CPU'", line)
                    self.assertTrue(example or case, "neither an example nor a case of coming_from_test.cpp")
                    if example:
                        self.assertRegex(examples, rf"\b{example[1]}[>) ]" if not example[2] else re.escape("".join(example.groups())))
                    else:
                        self.assertIn(case.groups(), cases)
        self.assertGreaterEqual(programs, 8)

    def test_numbers_of_the_types(self):
        page = (DOCS / "fp16-or-bf16.md").read_text()
        rows = {"largest number": lambda e, m: (2 - 2**-m) * 2.0**e, "smallest with all its digits": lambda e, m: 2.0 ** (1 - e),
                "smallest above 0": lambda e, m: 2.0 ** (1 - e - m), "from 1 to the next number": lambda e, m: 2.0**-m}
        for name, value in rows.items():
            self.assertIn(number_row(name, [value(127, 23), value(15, 10), value(127, 7)]), page)

    def test_links_lead_somewhere(self):
        pages = [*DOCS.glob("*.md"), *ROOT.glob("*.md")]
        self.assertGreater(len(pages), 15)
        for page in pages:
            for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(page.read_text())):
                if "://" in target:
                    continue
                with self.subTest(f"{page.name}: {target}"):
                    path, _, anchor = target.partition("#")
                    file = page.parent / path if path else page
                    self.assertTrue(file.exists())
                    if anchor:
                        self.assertIn(anchor, anchors(file.read_text()))

    def test_a_changed_line_is_seen(self):
        region = regions("  // recipe: a\n  x();\n    y();\n  // end\n")
        self.assertEqual(region, {"a": "x();\n  y();"})
        self.assertEqual(blocks("<!-- recipe: a -->\n```cpp\nx();\n```\n"), [("a", "x();")])
        self.assertNotEqual(region["a"], blocks("<!-- recipe: a -->\n```cpp\nx();\n```\n")[0][1])

    def test_lines_are_taken_from_the_last_column(self):
        page = "| their line | our line |\n| --- | --- |\n| `a` | `b(1)`, in words, `c` |\n\n| x | y |\n| --- | --- |\n| `d` | `e` |\n"
        self.assertEqual(list(our_lines(page)), ["b(1)", "c"])
        self.assertEqual(anchors("# A: `b = c(…)`, d\n```\n# no\n```\n## [E](f.md) g"), {"a-b--c-d", "e-g"})


if __name__ == "__main__":
    sys.argv[0] = "snippets_test"
    unittest.main()
