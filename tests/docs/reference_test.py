"""scripts/docs on a copy of the sources: no warning, every link leads somewhere, a comment stands for what is below it; and what it refuses."""
import html
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOXYGEN = "1.9.4"  # others warn of other things, and in other words
LINK = re.compile(r'href="([^"]+)"')
ANCHOR = re.compile(r'(?:id|name)="([^"]+)"')
SCRIPTS = ("scripts/docs", "docs/Doxyfile", "docs/doxygen-filter.awk", "docs/namespaces.dox")


def copy(work, *names):
    for name in names:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("*.cpp") if name == "halfstep" else None)
        else:
            shutil.copy(ROOT / name, work / name)


def make(work):
    done = subprocess.run([work / "scripts/docs"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def broken_links(folder):
    pages = {page: page.read_text(errors="replace") for page in folder.glob("*.html")}
    anchors = {page: set(ANCHOR.findall(text)) for page, text in pages.items()}
    known, broken = {}, []
    for page, text in pages.items():
        for link in set(LINK.findall(text)):
            # Doxygen links a summary to classes that it leaves out where they are private.
            if re.match(r"(https?|javascript|mailto):", link) or link == "#nested-classes":
                continue
            name, _, anchor = html.unescape(link).partition("#")
            target = pathlib.Path(folder / urllib.parse.unquote(name)) if name else page
            if target not in known:
                known[target] = target.exists()
            if not known[target] or anchor and target.suffix == ".html" and anchor not in anchors[target]:
                broken.append(f"{page.name}: {link}")
    return broken


class Reference(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.work = pathlib.Path(folder.name)

    def small(self, header, page="# Small\n"):
        """A clone with one header and one page."""
        copy(self.work, *SCRIPTS)
        for name, text in {"README.md": page, "CONTRIBUTING.md": "# Rules\n", "CHANGELOG.md": "# Changes\n", "halfstep/small.h": header}.items():
            (self.work / name).parent.mkdir(exist_ok=True)
            (self.work / name).write_text(text)
        return make(self.work)

    def refuses(self, header, *parts, page="# Small\n"):
        status, said = self.small(header, page)
        self.assertEqual(status, 1, said)
        for part in parts:
            self.assertIn(part, said)

    def test_the_reference(self):
        copy(self.work, *SCRIPTS, *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")), "halfstep", "README.md", "CONTRIBUTING.md",
             "CHANGELOG.md", "LICENSE", "examples", "configs", "tools")
        status, said = make(self.work)
        self.assertEqual((status, said), (0, "docs: build/docs/index.html\n"))
        reference = self.work / "build/docs"
        self.assertGreater(len(list(reference.glob("classhalfstep_*.html"))), 100)
        self.assertIn("Six lines turn the LibTorch program", (reference / "index.html").read_text())
        self.assertIn("GradScaler", (reference / "classhalfstep_1_1GradScaler.html").read_text())
        self.assertFalse(list(reference.glob("*detail_1_1*")), "internals are no part of it")
        hook = (reference / "classhalfstep_1_1train_1_1Hook.html").read_text()
        self.assertEqual(hook.count("<p>Around each batch of a validation"), 2, "one comment stands for two functions")
        self.assertEqual(broken_links(reference), [])
        self.assertEqual(broken_links_with("href=\"nowhere.html\"", reference), ["page.html: nowhere.html"])

    def test_good_comments(self):
        good = ("/// Small.\nnamespace halfstep {\n\n/// A thing.\nstruct Thing {\n  int size = 0;\n  int half() const { return size / 2; }\n"
                "  bool operator==(const Thing&) const = default;\n\n  /// Set it to `size`.\n  Thing& set(int size);\n  Thing& set(Thing other);\n};\n\n"
                "namespace detail {\nvoid inner();\n}\n\n}  // namespace halfstep\n")
        self.assertEqual(self.small(good, "# Small\n\n[rules](CONTRIBUTING.md) [below](#a-part)\n\n## A part\n"), (0, "docs: build/docs/index.html\n"))
        self.assertEqual(broken_links(self.work / "build/docs"), [])

    def test_a_missing_comment(self):
        header = ["/// Small.", "namespace halfstep {", "/// A thing.", "class Thing {", " public:", "  void turn(int by);", "};",
                  "void turn();", "struct Bare { int size; };", "enum class Kind { one, two };", "using Size = int;", "}", ""]
        self.refuses("\n".join(header), "small.h:6: warning: Member turn(int by) (function) of class halfstep::Thing is not documented",
                     "small.h:8: warning: Member turn() (function)", "small.h:9: warning: Compound halfstep::Bare",
                     "small.h:10: warning: Member Kind (enumeration)", "small.h:11: warning: Member Size (typedef)",
                     "[docs] comments and pages must give no warning")

    def test_a_wrong_comment(self):
        header = ["/// Small.", "namespace halfstep {", "/// Turns; see \\ref nowhere.", "void turn();", "/// Turns. \\param angle how far", "void turn(int by);",
                  "/// Turns a <key>.", "void turn(double by);", "}", ""]
        self.refuses("\n".join(header), "small.h:3: warning: unable to resolve reference to 'nowhere'", "argument 'angle'",
                     "Unsupported xml/html tag <key>")

    def test_a_link_to_no_heading(self):
        self.refuses("/// Small.\nnamespace halfstep {}\n", "README.md:3", page="# Small\n\n[nowhere](#no-such-part)\n")

    def test_doxygen_is_missing(self):
        copy(self.work, *SCRIPTS)
        done = subprocess.run(["/bin/bash", self.work / "scripts/docs"], env={"PATH": str(self.work)}, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("[docs] doxygen is needed, but it is not installed; run scripts/setup --docs", done.stderr)


def broken_links_with(text, folder):
    (folder / "page.html").write_text(text)
    return broken_links(folder)


if __name__ == "__main__":
    sys.argv[0] = "reference_test"
    version = shutil.which("doxygen") and subprocess.run(["doxygen", "--version"], stdout=subprocess.PIPE, text=True).stdout.split()[0]
    if version != DOXYGEN:
        print(f"SKIPPED, NOTHING WAS TESTED: this needs Doxygen {DOXYGEN}, Debian 12's (scripts/setup --docs), but there is {version}")
        sys.exit(77)
    unittest.main()
