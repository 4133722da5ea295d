"""Runs all checks of a cluster report."""

from fedray.doctor import machine_checks, resource_checks, storage_checks, version_checks
from fedray.doctor.finding import Finding
from fedray.doctor.report import ClusterReport

CHECKS = (
    machine_checks.unresponsive_nodes,
    machine_checks.actor_start,
    version_checks.versions,
    storage_checks.results_folder,
    storage_checks.files,
    resource_checks.capacity,
    resource_checks.other_jobs,
    storage_checks.teacher_cache,
    machine_checks.gpus,
    machine_checks.bfloat16,
    machine_checks.spill_disks,
    storage_checks.free_space,
    machine_checks.clocks,
    machine_checks.lost_nodes,
)
"""The checks, the most important first."""


def run_checks(report: ClusterReport) -> list[Finding]:
    """Return the errors, then the warnings, each in the order of `CHECKS`."""
    findings = [finding for check in CHECKS for finding in check(report)]
    return sorted(findings, key=lambda finding: not finding.is_error)
