#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Faults planted in the cache, one after the other: test_tree must fail for each, or it proves nothing.

mutations.py SOURCE_DIR BUILD_DIR TEST_OBJECT COMPILE... -- LINK...
Compiles the spoilt file beside the others of src/state and links them with the test's own object file.
"""
import subprocess
import sys
import tempfile
from pathlib import Path

# name, file of src/state, what stands there, what shall stand there
MUTATIONS = [
    ("a leaf goes although a sequence holds it", "tree.cpp", "node->locks > 0 || !node->children", "!node->children"),
    ("a page goes while another sequence reads it", "tree.cpp", "if (--node->pins[size_t(kind)] == 0 && ", "if (--node->pins[size_t(kind)] >= 0 && "),
    ("what a leaf had is not given back", "tree.cpp", "freed.push_back({k, drop_page(node, k)});", "drop_page(node, k);"),
    ("pages are told apart by their first tokens alone", "tree.cpp", "page_tokens * sizeof(Token)", "8 * sizeof(Token)"),
    ("all scopes share", "cache.cpp", "Place place = {tree_->root(scope)", "Place place = {tree_->root(\"\")"),
    ("a page is shared before it is full", "cache.cpp", "int64_t(seq.path_.size() + 1) * page_tokens <= seq.length()",
     "int64_t(seq.path_.size()) * page_tokens < seq.length() && seq.text_.size() % page_tokens >= 60"),
    ("a page that the tree has already is not given back", "cache.cpp", "else kinds_[k].free.push_back(id);\n    id = node", "id = node"),
    ("an adopted page is not held", "cache.cpp", "    tree_->pin(place.node, int(k));\n  });", "    if (k == 0) tree_->pin(place.node, int(k));\n  });"),
    ("one goes on without the folded state", "cache.cpp", "if (missing(digit - 1)) return false;", "if (missing(digit - 1)) break;"),
    ("one goes on without the window's rows", "cache.cpp", "&& missing(p)) return false;", "&& missing(p)) break;"),
    ("the chain's other digits are not looked for", "cache.cpp", "== Kind::Keeps::chain ? digit & (digit - 1) : 0)\n        if", "== Kind::Keeps::chain ? 0 : 0)\n        if"),
    ("a shared page is given back as if it were one's own", "cache.cpp", "if (page < seq.path_.size()) tree_->unpin",
     "if (page + 1 < seq.path_.size()) tree_->unpin"),
    ("host memory forgets of which scope a page is", "cache.cpp", "counterpart(tree_->scope(node), node)", "counterpart(\"\", node)"),
    ("a page comes back from another's place in host memory", "cache.cpp", "host_->at(*place.host, int(k)))", "host_->at(*place.host, int(0)))"),
    ("what was brought back is not held", "cache.cpp", "    tree_->pin(place.node, int(k));\n    ++brought", "    ++brought"),
    ("host memory is not counted", "host.cpp", "used_ += page_bytes_[size_t(kind)];", ""),
]


def main():
    source, build, test = (Path(p) for p in sys.argv[1:4])
    split = sys.argv.index("--")
    compile_, link = sys.argv[4:split], sys.argv[split + 1:]
    state = source / "src" / "state"
    missed = []
    with tempfile.TemporaryDirectory(dir=build) as folder:
        folder = Path(folder)

        def objects(spoilt=None):
            out = [folder / f"{f.stem}.o" for f in sorted(state.glob("*.cpp"))]
            for f, o in zip(sorted(state.glob("*.cpp")), out):
                if spoilt is None or f.name == spoilt[0]:
                    text = f.read_text() if spoilt is None else spoilt[1]
                    (folder / f.name).write_text(text)
                    subprocess.run([*compile_, "-c", folder / f.name, "-o", o], check=True)
            return out

        def passes(out):
            program = folder / "test"
            subprocess.run([compile_[0], "-o", program, test, *out, *link], check=True)
            try:
                return subprocess.run([program, "--gtest_brief=1", "--gtest_fail_fast"], capture_output=True, timeout=120).returncode == 0
            except subprocess.TimeoutExpired:
                return False

        if not passes(objects()):
            sys.exit("the cache as it is does not pass")
        for name, file, old, new in MUTATIONS:
            text = (state / file).read_text()
            if text.count(old) != 1:
                sys.exit(f"'{name}': its place in {file} was not found once, but {text.count(old)} times; mend this list")
            if passes(objects((file, text.replace(old, new)))):
                missed.append(name)
            objects((file, text))
            print(f"{'MISSED' if name in missed else 'caught'}: {name}", flush=True)
    sys.exit(f"{len(missed)} of {len(MUTATIONS)} not caught" if missed else 0)


main()
