"""docs/recipes.md shows the code that recipes_test.cpp runs: all of it, line by line."""
import pathlib
import re
import sys
import textwrap
import unittest

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "recipes.md"
TEST = HERE / "recipes_test.cpp"


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


class Snippets(unittest.TestCase):
    def test_the_page_shows_what_is_run(self):
        run, shown = regions(TEST.read_text()), blocks(PAGE.read_text())
        self.assertGreaterEqual(len(shown), 10)
        for name, body in shown:
            with self.subTest(name):
                self.assertIn(name, run)
                self.assertEqual(run[name], body)
        self.assertEqual(sorted(run), sorted(name for name, _ in shown))

    def test_every_block_is_checked(self):
        page = PAGE.read_text()
        self.assertEqual(page.count("```cpp"), len(blocks(page)))

    def test_a_changed_line_is_seen(self):
        region = regions("  // recipe: a\n  x();\n    y();\n  // end\n")
        self.assertEqual(region, {"a": "x();\n  y();"})
        self.assertEqual(blocks("<!-- recipe: a -->\n```cpp\nx();\n```\n"), [("a", "x();")])
        self.assertNotEqual(region["a"], blocks("<!-- recipe: a -->\n```cpp\nx();\n```\n")[0][1])


if __name__ == "__main__":
    sys.argv[0] = "snippets_test"
    unittest.main()
