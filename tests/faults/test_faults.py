"""A short campaign: each kind of process once, at a moment that the seed says.  `make faults` runs a long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.campaign import Campaign
from tests.faults.cluster import running_cluster

pytestmark = pytest.mark.alone


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("fronts", "targets"), [(1, ["worker", "client", "backend", "proxy"]), (2, ["front", "worker", "backend", "front"])]
)
def test_clients_get_all_or_a_clean_error_whoever_is_killed(fronts: int, targets: list[str], tmp_path: Path) -> None:
    with open(tmp_path / "log", "w") as log, running_cluster(fronts, log) as cluster:
        campaign = Campaign(cluster, seed=fronts)
        for target in targets:
            campaign.round(target)
        campaign.check_what_is_left()
        campaign.check_after_the_end()
        assert campaign.problems == []
