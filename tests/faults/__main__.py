"""`python -m tests.faults --kills 200 --seed 1`: half of them with one front, half with two."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time

from tests.faults.campaign import Campaign
from tests.faults.cluster import running_cluster


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    problems: list[str] = []
    for fronts in (1, 2):
        kills = args.kills // 2 + (args.kills % 2 if fronts == 1 else 0)
        with tempfile.NamedTemporaryFile("w", prefix=f"faults-{fronts}-", suffix=".log", delete=False) as log:
            print(f"{kills} kills, {fronts} front(s); the proxy's log: {log.name}", flush=True)
            with running_cluster(fronts, log) as cluster:
                campaign = Campaign(cluster, args.seed)
                started = time.monotonic()
                for kill in range(1, kills + 1):
                    before = len(campaign.problems)
                    campaign.round()
                    for problem in campaign.problems[before:]:
                        print(f"  PROBLEM {problem}", flush=True)
                    if kill % 10 == 0:
                        print(f"  {kill} kills in {time.monotonic() - started:.0f} s", flush=True)
                campaign.check_what_is_left()
                campaign.check_after_the_end()
        for (target, kind, outcome), count in sorted(campaign.seen.items()):
            print(f"  {target:8} {kind:12} {outcome:10} {count}")
        slowest = max(campaign.recovery, default=0)
        print(f"  killed {dict(campaign.killed)}; until the next statement worked at most {slowest:.1f} s")
        problems += campaign.problems
    print(*(problems or ["no problems"]), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
