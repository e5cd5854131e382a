"""Tables (CSV), the benchmark's stored results (JSON) and HTTP answers, good and hostile."""

import json
import struct

import numpy as np

from .hdf5_files import put_odd

# ----------------------------------------------------------------------------- tables

CELLS = ["", " ", '"', '""', '"a', 'a"b', "nan", "inf", "-inf", "1e999", "1e100", "9e99", "5e-324"]
CELLS += [
    "0x10",
    "1_000",
    "１２",
    "1,5",
    "\0",
    "\x1b[31m",
    "\r",
    "\n",
    "١",
    "+1",
    "--1",
    "1e",
    "None",
]
CELLS += ["9" * 400, "1" * 200_000, "x" * 200_000, "\ufeff1", "\u2028", "'", "True", "-0", "1e-400"]
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "latin1", "utf-32", "cp037")


def table(rng, rows=30, features=4):
    """The cells of a good table, a header first, with two or three classes in the last column."""
    header = [f"f{i}" for i in range(features)] + ["class"]
    names = (("cat", "dog"), ("0", "1", "2"), ("10", "9"))[rng.integers(3)]
    cells = [header]
    for i in range(rows):
        cells.append([f"{x:.4g}" for x in rng.normal(size=features)] + [names[i % len(names)]])
    return cells


def joined(cells, separator=",", end="\n"):
    return end.join(separator.join(row) for row in cells) + end


def _cells(path, rng):
    cells = table(rng)
    for _ in range(int(rng.integers(1, 6))):
        row = cells[rng.integers(len(cells))]
        row[rng.integers(len(row))] = CELLS[rng.integers(len(CELLS))]
    path.write_bytes(joined(cells).encode("utf-8", "surrogatepass"))


def _rows(path, rng):
    cells = table(rng)
    for _ in range(int(rng.integers(1, 4))):
        row = cells[rng.integers(len(cells))]
        kind = rng.integers(4)
        if kind == 0 and row:
            row.pop()
        elif kind == 1:
            row += row
        elif kind == 2:
            row.clear()
        else:
            cells.insert(int(rng.integers(len(cells))), list(row))
    ends = ("\n", "\r\n", "\r", "\n\n", "\0\n", "\x0b")
    text = joined(cells, ",;\t|"[rng.choice(4, p=(0.7, 0.1, 0.1, 0.1))], ends[rng.integers(6)])
    path.write_text(text, newline="")


def _encodings(path, rng):
    cells = table(rng)
    cells[0][0], cells[1][-1] = "größe", "Köter"
    text = joined(cells)
    path.write_bytes(text.encode(ENCODINGS[rng.integers(len(ENCODINGS))], "replace"))


def _wide(path, rng):
    """Many columns, or one line without end."""
    features = int(rng.choice((1000, 20_000)))
    line = b"1," * features
    header = b"".join(b"f%d," % i for i in range(features)) + b"class\n"
    rows = b"".join(line + b"%d\n" % (i % 2) for i in range(int(rng.integers(1, 12))))
    path.write_bytes(header + rows if rng.random() < 0.7 else b'"' + line * 20)


def _values(path, rng):
    """Numbers at the ends of the range, constant columns, and columns that count the rows."""
    cells = table(rng, rows=int(rng.integers(6, 60)))
    column = int(rng.integers(4))
    odd = ("1e99", "-1e99", "9.9e99", "5e-324", "1e-310", "0", "-0.0", "1e16", "1")
    same, other = odd[rng.integers(len(odd))], odd[rng.integers(len(odd))]
    for i, row in enumerate(cells[1:]):
        row[column] = other if rng.random() < 0.2 else str(i) if same == "1" else same
    if same == "1":
        cells[0][column] = ""
    path.write_text(joined(cells))


def _classes(path, rng):
    """Class names that are odd, nearly equal, or many."""
    cells = table(rng)
    odd = ("\x1b[2J", "nan ", "1e400", "1", "1.0", "-inf", "a" * 300, "\u202e", "ﬁ", "İ", "''", "0")
    for row in cells[1:]:
        row[-1] = odd[rng.integers(int(rng.integers(1, len(odd))))]
    path.write_text(joined(cells))


CSV = {"cells": _cells, "rows": _rows, "encodings": _encodings, "wide": _wide}
CSV |= {"values": _values, "classes": _classes}


def good_tables():
    rng = np.random.default_rng(0)
    return [joined(table(rng)).encode(), joined(table(rng), end="\r\n").encode("utf-8-sig")]


# ------------------------------------------------------------------- stored results


def _records():
    times = {"status": "ok", "seconds": 1e-3, "seconds_min": 9e-4, "seconds_max": 2e-3}
    common = {"dtype": "float64", "backend": "numpy", "device": "a CPU", "threads": 2, **times}
    common |= {"reason": None, "repeats": 3, "compile_seconds": 0.1, "max_rel_error": 1e-16}
    for name in ("python-loops", "numpy", "cupy"):
        for n in (1000, 10_000, 100_000):
            yield {**common, "case": "dot", "implementation": name, "size": {"n": n}} | (
                {"backend": "cupy", "end_to_end_seconds": 2e-3 / n} if name == "cupy" else {}
            )
    trained = {"epochs": 100, "epochs_measured": 100, "final_cost": 0.1, "solver": "direct"}
    trained |= {"optimizer": "sgd", "steps": 100, "data": "stand-in", "train_accuracy": 0.9}
    for name in ("numpy", "accelnn", "torch"):
        yield {**common, **trained, "case": "cat-2layer", "implementation": name} | {
            "size": {"layers": [12288, 7, 1], "m": 209}
        }


def report():
    """A stored result with a few rows of each kind."""
    machine = {"processor": "a CPU", "cores": 2, "memory_bytes": 2**33, "platform": "Linux"}
    machine |= {"last_level_cache_bytes": 2**25, "gpu": None, "vector_unit": "AVX2"}
    limits = {"numpy": {"stream_gb_per_s": 20.0, "matmul_float64_gflop_per_s": 100.0}}
    return {
        "schema": 1,
        "machine": machine,
        "versions": {"accelnn": "0.2.0", "numpy": "2.0"},
        "limits": limits,
        "records": list(_records()),
        "warm_up_seconds": {"float64": 1.0},
        "crossovers": [],
    }


def good_report():
    return json.dumps(report(), indent=1).encode()


def _odd_values(path, rng):
    tree = report()
    for _ in range(int(rng.integers(1, 4))):
        put_odd(tree, rng)
    path.write_text(json.dumps(tree))


def _deep(path, rng):
    mark = (b"[", b'{"a":')[rng.integers(2)]
    depth = int(rng.choice((500, 20_000, 1_000_000)))
    text = mark * depth + (b"1" + (b"]" if mark == b"[" else b"}") * depth)
    key = list(report())[rng.integers(7)]
    path.write_bytes(b'{"schema": 1, "%s": ' % key.encode() + text + b"}")


def _long_numbers(path, rng):
    text = json.dumps(report())
    number = ("9" * 5000, "1e999", "-" + "9" * 400, "NaN", "Infinity", "1E-999")[rng.integers(6)]
    old = ("2", "0.001", "1000", "100", "1")[rng.integers(5)]
    path.write_text(text.replace(f" {old}", f" {number}", int(rng.integers(1, 9))))


def _many(path, rng):
    """Many rows: as many as make a file of a few MB."""
    tree = report()
    tree["records"] *= 400 if rng.random() < 0.05 else int(rng.integers(2, 20))
    path.write_text(json.dumps(tree))


JSON = {"odd values": _odd_values, "deep": _deep, "long numbers": _long_numbers, "many": _many}

# ---------------------------------------------------------------------- HTTP answers


def answer(body, status=b"200 OK", **headers):
    """The bytes of an HTTP answer."""
    fields = {"Content-Type": "text/plain", "Content-Length": len(body), "Connection": "close"}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [b"HTTP/1.1 " + status, *(f"{k}: {v}".encode() for k, v in fields.items() if v != "")]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _statuses(path, rng):
    codes = (b"404 Not Found", b"500 Oops", b"204 No Content", b"206 Partial", b"100 Continue")
    codes += (b"-1 x", b"999 x", b"", b"200", b"301 Moved", b"401 x", b"407 x")
    path.write_bytes(answer(b"nothing", codes[rng.integers(len(codes))]))


def _lengths(path, rng):
    lengths = (0, 1, 5, 10**6, 10**18, -1, "x", "1, 2", "", "0x10", "9" * 5000)
    length = lengths[rng.integers(len(lengths))]
    path.write_bytes(answer(rng.bytes(int(rng.choice((0, 100, 10_000)))), Content_Length=length))


def _redirects(path, rng):
    places = (
        "/",
        "file:///etc/passwd",
        "//",
        "ftp://127.0.0.1/x",
        "http://127.0.0.1:1/",
        "http://",
    )
    places += ("data:,x", "\\\\host\\x", "http://[::1", "x" * 5000, "http://127.0.0.1:99999/")
    place = places[rng.integers(len(places))]
    path.write_bytes(answer(b"", b"302 Found", Location=place))


def _encoded(path, rng):
    import gzip
    import zlib

    from .mutations import zlib_zeros

    kind = rng.integers(5)
    if kind == 0:  # 100 MiB in 100 kB
        path.write_bytes(answer(zlib_zeros(100), Content_Encoding="deflate"))
    elif kind == 1:
        path.write_bytes(answer(b"no gzip at all", Content_Encoding="gzip"))
    elif kind == 2:
        bomb = gzip.compress(gzip.compress(bytes(10**6)))
        path.write_bytes(answer(bomb, Content_Encoding=", ".join(["gzip"] * 2)))
    elif kind == 3:
        body = zlib.compress(b"x" * 100)[:-5]
        path.write_bytes(answer(body, Content_Encoding="deflate"))
    else:
        path.write_bytes(answer(b"x", Content_Encoding=", ".join(["gzip"] * 1000)))


def _chunks(path, rng):
    bodies = (
        b"5\r\nhello\r\n",
        b"ffffffffffffffff\r\nx",
        b"-1\r\n",
        b"zz\r\n",
        b"5;" + b"x" * 70_000,
    )
    body = bodies[rng.integers(len(bodies))]
    path.write_bytes(answer(body, Content_Length="", Transfer_Encoding="chunked"))


def _headers(path, rng):
    many = {f"X-{i}": "y" for i in range(int(rng.choice((50, 500))))}
    long = {"X-Long": "z" * int(rng.choice((1000, 70_000)))}
    path.write_bytes(answer(b"x", **(many if rng.random() < 0.5 else long)))


HTTP = {"statuses": _statuses, "lengths": _lengths, "redirects": _redirects}
HTTP |= {"encoded": _encoded, "chunks": _chunks, "headers": _headers}


def good_answers():
    return [answer(struct.pack("<100i", *range(100))), answer(b"<html>log in</html>", ETag="x")]
