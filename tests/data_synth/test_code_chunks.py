"""Code is cut by its syntax: Python's pieces parse, those of braced languages are balanced, and nothing is lost."""

import ast
import textwrap

import pytest

from data_synth.chunking import chunk_code, estimate_tokens

PYTHON = textwrap.dedent('''
    """Module.

    class. This line of prose begins like a definition.
    """
    import os
    if os.name == "nt":
        NAMES = [
            "first entry of a list that is longer than a passage",
            # a comment
            "second entry of a list that is longer than a passage",
            "third entry of a list that is longer than a passage",
        ]
    elif os.name == "posix":
        def helper(): return {"a": 1}
    else:
        raise SystemExit("neither of these systems is known to this program")

    @first(argument=1)
    @second
    class Pump(Base):
        def __init__(self, level: int = 0, name: str = "pump in the cellar") -> None:
            """Starts it.

            method is a word that begins this line, and def another one.

            :param level: of the water, above which the pump begins to run and does not stop.
            :param name: shown on the panel beside the lamp that lights when the inlet is blocked.

            It ends with a "quote"
            """
            self.level = level; self.name = name
            try:
                for number in range(level):
                    if number % 2 and self.name.startswith("even numbers are left out here"):
                        continue
                    else:
                        self.run(number, while_="it is above the lower float of the two")
            except (ValueError, TypeError) as error:
                raise RuntimeError(f"{error} of the pump in the cellar, which is blocked") from error
            else:
                self.stop("because all of the water has gone down the pipe again")
            finally:
                self.close("and the lamp is out")
            match self.level:
                case 0:
                    text = """a string
    with lines at the margin, which are part of it"""
                case [x, *rest] if rest:
                    return rest
''')
JAVA = textwrap.dedent("""
    package a.b;
    /** Class. This { is prose. */
    public class Pump extends Base {
        private static final char OPEN = '{';
        private final String[] names = {"a }", "b"};

        /**
         * Runs it (
         */
        @Override
        public int run(int level,
                       String name) throws IOException {
            if (level > 3) { // }
                return one(level, "the first of several words in a string");
            } else if (level > 2) {
                return two(level, "the second of several words in a string");
            } else {
                list.forEach(entry -> {
                    print(entry + "}", "the third of several words in a string");
                });
            }
            int x = 0;
            return x;
        }

        int stop() { return 0; }
    }
""")


@pytest.mark.parametrize("budget", [45, 60, 90, 200, 512])
def test_every_python_passage_parses(budget: int) -> None:
    chunks = chunk_code(PYTHON, budget, 4, language="python")
    for chunk in chunks:
        ast.parse(chunk)
    assert all(estimate_tokens(chunk) <= budget for chunk in chunks)
    joined = " ".join("".join(chunks).split())
    for line in PYTHON.split("\n"):
        if line.strip(' "') and budget >= 90:
            assert " ".join(line.strip(' "').split()) in joined, line


def test_python_that_does_not_parse_is_cut_by_words() -> None:
    code = "def one():\n    print 'x'\n\ndef two():\n    print 'y'\n"
    assert chunk_code(code, 60, 2, language="python") == chunk_code(code, 60, 2)


def test_a_huge_head_gives_its_decorators_above_a_stub() -> None:
    head = "".join(f'@option("--name-{number}", help="what this option number {number} does")\n' for number in range(9))
    chunks = chunk_code(f"{head}def command(a, b):\n    return a + b\n", 60, 4, language="python")
    assert chunks[-1] == "def command(a, b):\n    return a + b"
    assert all(ast.parse(chunk) and estimate_tokens(chunk) <= 60 for chunk in chunks)


@pytest.mark.parametrize("budget", [40, 60, 90, 200, 512])
def test_every_passage_of_a_braced_language_is_balanced(budget: int) -> None:
    chunks = chunk_code(JAVA, budget, 4, language="java")
    for chunk in chunks:
        code = chunk.replace("'{'", "").replace('"a }"', "").replace('"}"', "").replace("// }", "")
        code = code.replace("This { is", "").replace("Runs it (", "")
        assert [code.count(sign) for sign in "{(["] == [code.count(sign) for sign in "})]"], chunk
    assert all(estimate_tokens(chunk) <= budget for chunk in chunks)
    joined = " ".join("\n".join(chunks).split())
    for line in JAVA.split("\n"):
        if line.strip(" }{;)"):
            assert " ".join(line.strip(" }{").split()) in joined, line


def test_methods_are_passages_and_their_comments_stand_above_them() -> None:
    chunks = chunk_code(JAVA, 180, 4, language="java")
    assert [chunk.split("\n")[0].strip() for chunk in chunks] == [
        "package a.b;", "/** Class. This { is prose. */", "/**", "int stop() { return 0; }",
    ]  # fmt: skip


def test_unbalanced_files_are_cut_by_words() -> None:
    code = "void one(int a) {\n  b(;\n}\n\nvoid two(int a) {\n  c();\n}\n"
    assert chunk_code(code, 60, 2, language="c") == chunk_code(code, 60, 2)
