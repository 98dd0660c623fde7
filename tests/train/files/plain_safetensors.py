"""Reads FOLDER/ours with the standard library alone and writes FOLDER/theirs.

FOLDER/ours holds 0, 1, 2, 3, 4 in each dtype, written by safetensors_test.cpp.
"""
import json
import struct
import sys

folder = sys.argv[1]
with open(folder + "/ours", "rb") as file:
    data = file.read()
(length,) = struct.unpack("<Q", data[:8])
header = json.loads(data[8 : 8 + length])
body = data[8 + length :]
assert (8 + length) % 8 == 0, length
assert header.pop("__metadata__") == {"greeting": "h\u00e9llo"}

FORMATS = {
    "F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i", "I16": "h", "I8": "b",
    "U64": "Q", "U32": "I", "U16": "H", "U8": "B", "BOOL": "?",
}
RAW = {
    "BF16": struct.pack("<5H", 0, 0x3F80, 0x4000, 0x4040, 0x4080),
    "F8_E4M3": bytes([0, 0x38, 0x40, 0x44, 0x48]),
    "F8_E5M2": bytes([0, 0x3C, 0x40, 0x42, 0x44]),
}
seen = set()
for name, entry in header.items():
    begin, end = entry["data_offsets"]
    dtype = entry["dtype"]
    assert entry["shape"] == [5], name
    size = (end - begin) // 5
    assert begin % size == 0, (name, "is not aligned")
    if dtype in RAW:
        assert body[begin:end] == RAW[dtype], (name, body[begin:end])
    else:
        values = struct.unpack("<5" + FORMATS[dtype], body[begin:end])
        expected = (False, True, True, True, True) if dtype == "BOOL" else (0, 1, 2, 3, 4)
        assert values == expected, (name, values)
    seen.add(dtype)
assert seen == set(FORMATS) | set(RAW), seen

# Spaces, another order of keys, no padding: all allowed.
theirs = json.dumps(
    {
        "i64": {"data_offsets": [8, 16], "dtype": "I64", "shape": [1]},
        "f32": {"shape": [2, 1], "dtype": "F32", "data_offsets": [0, 8]},
        "__metadata__": {"from": "python"},
    },
    indent=1,
).encode()
with open(folder + "/theirs", "wb") as file:
    file.write(struct.pack("<Q", len(theirs)) + theirs + struct.pack("<ffq", 1.5, -2.0, 1 << 40))
