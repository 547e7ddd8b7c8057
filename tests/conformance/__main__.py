"""`python -m tests.conformance`: PostgreSQL's regression and isolation suites, directly and through the proxy.

The exit status is 0 only where every test ends the same way in both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.conformance.apt import AptError
from tests.conformance.distribution import Distribution, DistributionError, cache_folder, fetch
from tests.conformance.score import Score, compare
from tests.conformance.suites import SUITES, Suite
from tests.conformance.ways import WAYS, serving
from thanoproxy.embedded.account import Account


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__.partition("\n")[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{' or '.join(suite.name for suite in SUITES)}; all if none is named")
    names = set(parser.parse_args().suites)
    chosen = [suite for suite in SUITES if not names or suite.name in names]
    if len(chosen) < len(names):
        parser.error(f"the suites are {', '.join(suite.name for suite in SUITES)}")
    try:
        cache, account = cache_folder()
        made = fetch(cache)
        print(f"postgresql {made.version}", flush=True)
        same = [run_both(suite, made, account, cache / "results") for suite in chosen]
    except (AptError, DistributionError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    print("the same through the proxy as directly" if all(same) else "NOT the same through the proxy as directly")
    return 0 if all(same) else 1


def run_both(suite: Suite, made: Distribution, account: Account, results: Path) -> bool:
    """One suite, directly and through the proxy; whether the results are the same."""
    scores = [run_one(suite, way, made, account, results / suite.name / way) for way in WAYS]
    differences = list(compare(*scores))
    print("".join(f"  {line}\n" for line in differences), end="", flush=True)
    return not differences


def run_one(suite: Suite, way: str, made: Distribution, account: Account, folder: Path) -> Score:
    """One suite in one way, on a cluster of its own."""
    with serving(way, made, account) as port:
        score = suite.run(made, account, port, folder)
    print(f"{suite.name:<10} {way:<7} {score.line()}", flush=True)
    return score


if __name__ == "__main__":
    sys.exit(main())
