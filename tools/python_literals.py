"""What a Python config assigns, read from its syntax tree without running any of it; see mm_config_to_yaml.py."""
import ast
import math
import re

EXPRESSION = re.compile(r"\{\{\s*(\$\w+\s*(:[^'\"\\{}\x00-\x1f]*)?|file(Dirname|Basename|BasenameNoExtension|Extname)|_base_(\.\w+)+)\s*\}\}")
MAX_NUMBER_BITS = 256
MAX_SIZE = 1000000  # values and characters that names, sums and products may make


class Expression(str):
    """What stands between {{ and }} in YAML; alone it may become any value."""


class Refused(Exception):
    """Something that is no literal."""

    def __init__(self, node, why):
        super().__init__(why)
        self.line = getattr(node, "lineno", 0)


class Reader:
    """Evaluates the assignments of a config file."""

    def __init__(self, source, name):
        self.name = name
        self.values = {}  # of the names assigned so far
        self.lines = {}
        self.used = set()  # names that other values took
        self.shared = {}  # name -> names whose values hold the same dicts or lists
        self.assigned = ""
        self.budget = MAX_SIZE
        self.problems = []  # (line, text)
        for statement in ast.parse(source, name).body:
            self.read(statement)

    def problem(self, line, text):
        self.problems.append((line, text))

    def read(self, statement):
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            return  # a docstring
        if isinstance(statement, ast.AnnAssign) and statement.value:
            targets = [statement.target]
        else:
            targets = getattr(statement, "targets", [])
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and len(targets) == 1 and isinstance(targets[0], ast.Name):
            name = targets[0].id
            self.assigned = name
            try:
                value = self.value(statement.value, name)
            except Refused as error:
                self.forget(name)
                self.problem(error.line, f"{name}: {error}")
            else:
                self.values[name] = value
                self.lines[name] = statement.lineno
            return
        changed = self.changed_names(statement)
        text = ast.unparse(statement).splitlines()[0]
        self.problem(statement.lineno, f"'{text}' is a statement and not run" + (f"; so {', '.join(changed)} is left out" if changed else ""))
        for name in changed:
            self.forget(name)

    def forget(self, name):
        self.values.pop(name, None)
        self.lines.pop(name, None)

    def changed_names(self, statement):
        """Names whose value a statement may change: all it mentions, and those that share a dict or list with them."""
        names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)} & set(self.values)
        stored = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        more = list(names - stored)
        while more:
            for other in self.shared.get(more.pop(), ()):
                if other not in names and other in self.values:
                    names.add(other)
                    more.append(other)
        return sorted(names)

    def value(self, node, path):
        try:
            return self.evaluate(node, path)
        except RecursionError:
            raise Refused(node, "is nested too deep") from None

    def evaluate(self, node, path):
        if isinstance(node, ast.Constant):
            return self.constant(node)
        if isinstance(node, (ast.List, ast.Tuple)):
            return self.items(node.elts, path)
        if isinstance(node, ast.Dict):
            return self.mapping(node, list(zip(node.keys, node.values)), path)
        if isinstance(node, ast.Set):
            return self.expression(node)
        if isinstance(node, ast.Call):
            return self.call(node, path)
        if isinstance(node, ast.Name):
            if node.id not in self.values:
                raise Refused(node, f"the name {node.id} has no value that was understood")
            self.spend(node, size_of(self.values[node.id]))
            self.used.add(node.id)
            if isinstance(self.values[node.id], (dict, list)):
                self.shared.setdefault(node.id, set()).add(self.assigned)
                self.shared.setdefault(self.assigned, set()).add(node.id)
            return copied(self.values[node.id])
        if isinstance(node, (ast.Attribute, ast.Subscript)):
            return self.part(node, path)
        if isinstance(node, ast.UnaryOp):
            return self.unary(node, self.evaluate(node.operand, path))
        if isinstance(node, ast.BinOp):
            return self.binary(node, self.evaluate(node.left, path), self.evaluate(node.right, path))
        if isinstance(node, ast.JoinedStr):
            return self.joined(node, path)
        raise Refused(node, f"'{ast.unparse(node)[:60]}' is no literal")

    def spend(self, node, size):
        if size > self.budget:
            raise Refused(node, f"'{ast.unparse(node)[:60]}' makes the config too large")
        self.budget -= size

    def constant(self, node):
        value = node.value
        if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value)):
            return value
        raise Refused(node, f"{value!r} has no counterpart")

    def items(self, nodes, path):
        values = []
        for index, node in enumerate(nodes):
            if isinstance(node, ast.Starred):
                more = self.evaluate(node.value, path)
                if not isinstance(more, list):
                    raise Refused(node, "* must take a list")
                values += more
            else:
                # An element less would shift the others.
                values.append(self.evaluate(node, f"{path}.{index}"))
        return values

    def mapping(self, node, pairs, path):
        values = {}
        for key, value in pairs:
            if key is None:
                more = self.evaluate(value, path)
                if not isinstance(more, dict):
                    raise Refused(value, "** must take a dict")
                values.update(more)
                continue
            name = key if isinstance(key, str) else self.evaluate(key, path)
            if not isinstance(name, str) or isinstance(name, Expression) or not name or not name.isprintable() or "{{" in name:
                self.problem(node.lineno, f"{path}: the key {name!r} is no text that a key can be")
                continue
            try:
                values[name] = self.evaluate(value, f"{path}.{name}")
            except Refused as error:
                self.problem(error.line, f"{path}.{name}: {error}")
        return values

    def call(self, node, path):
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "dict" and len(node.args) <= 1:
            values = {}
            if node.args:
                values = self.evaluate(node.args[0], path)
                if not isinstance(values, dict):
                    raise Refused(node, "dict() must take a dict")
            values.update(self.mapping(node, [(keyword.arg, keyword.value) for keyword in node.keywords], path))
            return values
        if name in ("list", "tuple") and not node.keywords and len(node.args) <= 1:
            values = self.evaluate(node.args[0], path) if node.args else []
            if isinstance(values, list):
                return values
        raise Refused(node, f"'{ast.unparse(node)[:60]}' is a call and not run")

    def expression(self, node):
        """{{…}} without quotes, which Python parses as a set in a set."""
        inner = node.elts[0] if len(node.elts) == 1 else None
        content = inner.elts[0] if isinstance(inner, ast.Set) and len(inner.elts) == 1 else None
        text = content.value if isinstance(content, ast.Constant) and isinstance(content.value, str) else content and ast.unparse(content)
        if text and EXPRESSION.fullmatch("{{" + text + "}}"):
            return Expression(text.strip())
        raise Refused(node, f"'{ast.unparse(node)[:60]}' is a set and has no counterpart")

    def part(self, node, path):
        text = ast.unparse(node)
        if EXPRESSION.fullmatch("{{" + text + "}}"):
            return Expression(text)  # _base_.x.y
        if isinstance(node, ast.Subscript):
            value, key = self.evaluate(node.value, path), self.evaluate(node.slice, path)
            if isinstance(value, dict) and isinstance(key, str) and key in value:
                return value[key]
            if isinstance(value, list) and isinstance(key, int) and -len(value) <= key < len(value):
                return value[key]
        raise Refused(node, f"'{text[:60]}' is no literal")

    def unary(self, node, value):
        if isinstance(node.op, ast.Not) and isinstance(value, bool):
            return not value
        if is_number(value) and isinstance(node.op, ast.USub):
            return -value
        if is_number(value) and isinstance(node.op, ast.UAdd):
            return value
        raise Refused(node, f"'{ast.unparse(node)[:60]}' is no literal")

    def binary(self, node, left, right):
        operator = type(node.op)
        value = None
        if is_number(left) and is_number(right):
            value = self.arithmetic(node, operator, left, right)
        elif operator is ast.Add and type(left) is type(right) and type(left) in (str, list):
            self.spend(node, size_of(left) + size_of(right))
            value = left + right
        elif operator is ast.Mult and isinstance(left, list) and type(right) is int and right >= 0:
            self.spend(node, size_of(left) * right)
            value = [copied(item) for _ in range(right) for item in left]
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            raise Refused(node, f"'{ast.unparse(node)[:60]}' is no literal")
        return value

    def arithmetic(self, node, operator, left, right):
        if operator is ast.Pow and not (abs(right) <= 64 and abs(left) <= 2**20):
            raise Refused(node, f"'{ast.unparse(node)[:60]}' is too large")
        if any(isinstance(value, int) and value.bit_length() > MAX_NUMBER_BITS for value in (left, right)):
            raise Refused(node, f"'{ast.unparse(node)[:60]}' is too large")
        operations = {ast.Add: lambda: left + right, ast.Sub: lambda: left - right, ast.Mult: lambda: left * right,
                      ast.Div: lambda: left / right, ast.FloorDiv: lambda: left // right, ast.Mod: lambda: left % right,
                      ast.Pow: lambda: left**right}
        try:
            value = operations[operator]()
        except (KeyError, ArithmeticError):
            return None
        return value if is_number(value) else None

    def joined(self, node, path):
        text = ""
        for piece in node.values:
            if isinstance(piece, ast.Constant):
                text += piece.value
                continue
            value = self.evaluate(piece.value, path)
            if piece.format_spec or piece.conversion != -1 or isinstance(value, (Expression, list, dict)):
                raise Refused(node, "a formatted text must join texts and numbers as they are")
            text += str(value)
        return text


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def copied(value):
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list) else value


def size_of(value):
    if isinstance(value, dict):
        return 1 + sum(len(key) + size_of(item) for key, item in value.items())
    if isinstance(value, list):
        return 1 + sum(size_of(item) for item in value)
    return len(value) if isinstance(value, str) else 1
