"""Run benchmarks by id: ``python -m benchmarks [B1 ...] [--json]``, ``conformance [--json] [--write]`` or ``page``.

In: ids; ``gpu`` is B1 and B2 on a CUDA device, never by default. Out: one record per row,
``{id, ratio, target, better, met, details}``; the conformance table is a page; ``page`` writes
another from the records that are committed.
"""

import argparse
import json

from benchmarks.cache_read import measure as cache_read
from benchmarks.cache_read import measure_hidden as hidden_read
from benchmarks.cache_size import measure as cache_size
from benchmarks.cache_write import measure as cache_write
from benchmarks.conformance import publish as publish_conformance
from benchmarks.gradient_fidelity import measure as gradient_fidelity
from benchmarks.head_loss import measure as head_loss
from benchmarks.head_memory import measure as head_memory
from benchmarks.head_on_gpu import measure as head_on_gpu
from benchmarks.results_page import write_page

BENCHMARKS = {
    "B1": head_loss,
    "B2": head_memory,
    "B3": cache_size,
    "B4": cache_read,
    "B5": cache_write,
    "B6": gradient_fidelity,
    "B10": hidden_read,
}
CONFORMANCE, GPU, PAGE = "conformance", "gpu", "page"


def main() -> None:
    """Run the chosen benchmarks, by default all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "ids",
        nargs="*",
        metavar="ID",
        help=f"out of {', '.join(BENCHMARKS)}, default all of these; {GPU}; or {CONFORMANCE} or {PAGE} alone",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help="conformance only: write the page under docs/")
    arguments = parser.parse_args()
    if arguments.ids == [CONFORMANCE]:
        publish_conformance(as_json=arguments.json, write=arguments.write)
        return
    if arguments.ids == [PAGE]:
        print(f"wrote {write_page().name}")
        return
    known = {**BENCHMARKS, GPU: head_on_gpu}
    unknown = [name for name in arguments.ids if name not in known]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}, expected one of {', '.join(known)}")
    rows = [row for name in arguments.ids or BENCHMARKS for row in known[name]()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        bound = f"at {'most' if row['better'] == 'smaller' else 'least'} {row['target']}"
        against = "no target" if row["target"] is None else f"target {bound}, met: {row['met']}"
        print(f"{row['id']}  {row['details']['what']}: {row['ratio']:.3g} ({against})")


if __name__ == "__main__":
    main()
