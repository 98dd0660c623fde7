"""Values of a Python config as YAML for halfstep; see mm_config_to_yaml.py."""
import re

from python_literals import EXPRESSION, Expression

NOT_TEXT = re.compile(r"(true|false|yes|no|on|off|null|none|~)$|[+-]?(\d|\.\d)", re.IGNORECASE)


def yaml_text(text):
    if re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./+ -]*", text) and not NOT_TEXT.match(text) and not text.endswith(" "):
        return text
    quoted = ""
    at = 0
    for match in [*EXPRESSION.finditer(text), None]:
        end = match.start() if match else len(text)
        quoted += text[at:end].replace("\\", "\\\\").replace('"', '\\"').replace("{{", "{{'{{'}}")
        quoted += match.group() if match else ""
        at = match.end() if match else end
    return '"' + re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", lambda c: f"\\u{ord(c.group()):04x}", quoted) + '"'


def yaml_scalar(value):
    if isinstance(value, Expression):
        return "{{" + value + "}}"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")
    return yaml_text(value) if isinstance(value, str) else str(value)


def one_line(value):
    if isinstance(value, dict):
        return not value
    return not isinstance(value, list) or all(one_line(item) for item in value)


def yaml_line(value):
    if isinstance(value, list):
        return "[" + ", ".join(yaml_line(item) for item in value) + "]"
    return "{}" if isinstance(value, dict) else yaml_scalar(value)


def yaml_block(value, indent=0):
    lines = []
    if isinstance(value, dict):
        for key, item in value.items():
            head = " " * indent + yaml_text(key) + ":"
            lines += [head + " " + yaml_line(item)] if one_line(item) else [head, *yaml_block(item, indent + 2)]
        return lines
    for item in value:
        block = [" " * (indent + 2) + yaml_line(item)] if one_line(item) else yaml_block(item, indent + 2)
        lines += [" " * indent + "- " + block[0][indent + 2:], *block[1:]]
    return lines
