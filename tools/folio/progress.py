# SPDX-License-Identifier: MIT
"""What the person in front of the screen sees: a bar on stderr while it works, a table on stdout when it is done."""
import re
import sys
import time


class Bar:
    """A bar if stderr is a terminal, a line every 5 seconds if it is not, nothing if quiet."""

    def __init__(self, total, what, quiet=False):
        self.total, self.what, self.quiet = max(total, 1), what, quiet
        self.done, self.tty = 0, sys.stderr.isatty()
        self.start = time.monotonic()
        self.shown = self.start if not self.tty else 0.0

    def add(self, n):
        self.done += n
        now = time.monotonic()
        if not self.quiet and now - self.shown > (0.1 if self.tty else 5):
            self.shown = now
            self._show(now)

    def _show(self, now):
        share = min(self.done / self.total, 1)
        rate = self.done / max(now - self.start, 1e-9)
        line = f"{self.what}  {share:4.0%}  {size(self.done)} of {size(self.total)}  {size(rate)}/s"
        if self.tty:
            full = int(share * 30)
            sys.stderr.write(f"\r\x1b[K[{'#' * full}{'.' * (30 - full)}] {line}")
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def end(self):
        if self.tty and not self.quiet:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def size(n):
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def table(entries, marks):
    """Lines of name, shape, format and bytes. The same tensor of several layers is one line; marks: name -> a remark."""
    groups = {}
    for e in entries:
        key = (re.sub(r"^(layer|blk)\.\d+\.", r"\1.*.", e.name), e.shape, e.format, marks.get(e.name, ""))
        groups.setdefault(key, []).append(e)
    lines = []
    for (name, shape, kind, mark), members in groups.items():
        if "*" in name:
            layers = [int(e.name.split(".")[1]) for e in members]
            name = name.replace("*", _ranges(layers), 1)
        lines.append((name, "[" + ",".join(map(str, shape)) + "]", kind, size(sum(e.bytes for e in members)), mark))
    widths = [max(len(line[i]) for line in lines) for i in range(4)]
    return ["  ".join([line[0].ljust(widths[0]), line[1].ljust(widths[1]), line[2].ljust(widths[2]),
                       line[3].rjust(widths[3]), line[4]]).rstrip() for line in lines]


def _ranges(numbers):
    """0,1,2,5 -> 0-2,5"""
    spans = []
    for n in numbers:
        if spans and n == spans[-1][1] + 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
