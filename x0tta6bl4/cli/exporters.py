"""Which series of a well-known exporter are the numbers that a monitor of ours sees: their past can be learnt."""

from collections.abc import Sequence

from x0tta6bl4.kernel.errors import ProbeFailed
from x0tta6bl4.monitors.host import Config as HostConfig
from x0tta6bl4.monitors.prometheus import Query, QueryApi, series_of

_MOST_HOSTS = 10_000
_REAL = 'fstype!~"tmpfs|devtmpfs|ramfs|overlay|squashfs|iso9660|udf|nsfs|fuse.*"'
"""Filesystems that hold files of their own; the others the host monitor does not look at."""

# The latest two scrapes, as the monitor compares two looks: a mean over minutes would be calmer than what it sees.
_OF_THE_HOST = {
    "cpu_busy_ratio": "1 - sum(irate(node_cpu_seconds_total{{mode=~'idle|iowait',{at}}}[5m])) "
    "/ count(node_cpu_seconds_total{{mode='idle',{at}}})",
    "load1": "node_load1{{{at}}}",
    "load1_per_core": "node_load1{{{at}}} / scalar(count(node_cpu_seconds_total{{mode='idle',{at}}}))",
    "memory_available_bytes": "node_memory_MemAvailable_bytes{{{at}}}",
    "memory_available_ratio": "node_memory_MemAvailable_bytes{{{at}}} / node_memory_MemTotal_bytes{{{at}}}",
    "swap_used_ratio": "1 - node_memory_SwapFree_bytes{{{at}}} / (node_memory_SwapTotal_bytes{{{at}}} > 0)",
    "fds_used_ratio": "node_filefd_allocated{{{at}}} / node_filefd_maximum{{{at}}}",
    "psi_cpu_some_ratio": "irate(node_pressure_cpu_waiting_seconds_total{{{at}}}[5m])",
    "psi_memory_some_ratio": "irate(node_pressure_memory_waiting_seconds_total{{{at}}}[5m])",
    "psi_memory_full_ratio": "irate(node_pressure_memory_stalled_seconds_total{{{at}}}[5m])",
    "psi_io_some_ratio": "irate(node_pressure_io_waiting_seconds_total{{{at}}}[5m])",
    "psi_io_full_ratio": "irate(node_pressure_io_stalled_seconds_total{{{at}}}[5m])",
}
_OF_DISKS = {
    "disk_free_bytes": "max by (mountpoint) (node_filesystem_avail_bytes{{{real},{at}}})",
    "disk_free_ratio": "max by (mountpoint) "
    "(node_filesystem_avail_bytes{{{real},{at}}} / node_filesystem_size_bytes{{{real},{at}}})",
    "inodes_free_ratio": "max by (mountpoint) "
    "(node_filesystem_files_free{{{real},{at}}} / (node_filesystem_files{{{real},{at}}} > 0))",
}
_OF_NICS = {
    "nic_errors_per_second": "sum by (device) (irate(node_network_receive_errs_total{{{at}}}[5m]) "
    "+ irate(node_network_transmit_errs_total{{{at}}}[5m]))",
    "nic_drops_per_second": "sum by (device) (irate(node_network_receive_drop_total{{{at}}}[5m]) "
    "+ irate(node_network_transmit_drop_total{{{at}}}[5m]))",
}


def host_queries(config: HostConfig, instance: str) -> list[tuple[str, Query]]:
    """What node_exporter knows of the host monitor's numbers, by metric, for the host that is scraped as that."""
    at = f"instance={_quoted(instance)}"
    found = []
    for texts, subject in (
        (_OF_THE_HOST, f"={config.subject}"),
        (_OF_DISKS, "disk:{mountpoint}"),
        (_OF_NICS, "nic:{device}"),
    ):
        for metric, text in texts.items():
            if metric.startswith("psi_") and not config.pressure:
                continue
            found.append((metric, Query(query=text.format(at=at, real=_REAL), subject=subject)))
    return found


def host_sees(config: HostConfig, subject: str) -> bool:
    """Whether the host monitor reports that disk or interface."""
    kind, colon, name = subject.partition(":")
    if colon and kind == "disk":
        return name in config.disks
    if colon and kind == "nic":
        return name in config.nics
    return True


async def hosts_of(api: QueryApi) -> Sequence[tuple[str, str]]:
    """The hosts that node_exporter tells of there: under which instance, and by which name of their own."""
    answer = await api.ask("node_uname_info", body_limit=2048 * _MOST_HOSTS)
    try:
        return sorted(
            (labels.get("instance", ""), labels.get("nodename", "")) for labels, _ in series_of(answer, "value")
        )
    except ValueError as error:
        raise ProbeFailed(f"{api.url} answers node_uname_info strangely: {error}") from error


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
