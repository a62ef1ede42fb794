"""A mount's status as Prometheus has it, in its text format.

Hides prometheus_client. Called by about.py, which imports this when somebody first asks. Knows the keys of
`facts.MountFacts.status` and nothing else of a mount; any thread may call. What a mount does not have, such as a cache,
has no samples. All names begin with `egofs_`; every sample has the labels mountpoint, source and dataset.

There are no histograms: an observation costs 1 us and more, and a read that is at hand 60 us in all.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class _Told(NamedTuple):
    """A metric, and the number of the status that it is: `path` is where that stands, with a dot at each level."""

    name: str
    path: str
    text: str
    is_counter: bool = True


def _gauge(name: str, path: str, text: str) -> _Told:
    return _Told(name, path, text, is_counter=False)


_METRICS = (
    _Told("lookups", "asked.lookups", "Names that the kernel has looked up."),
    _Told("getattrs", "asked.getattrs", "Times that the kernel has asked for a file's attributes."),
    _Told("readdirs", "asked.readdirs", "Pieces of directories that were listed."),
    _Told("xattrs", "asked.xattrs", "Times that extended attributes were asked for."),
    _Told("opens", "asked.opens", "Files that were opened."),
    _Told("reads", "asked.reads", "Reads that the mount has answered; the kernel's own pages answer others."),
    _Told("read_bytes", "asked.bytes_read", "Bytes that the mount has given to readers."),
    _Told("failures", "asked.failures", "Requests that ended in an error which no missing name explains."),
    _Told("bugs", "asked.bugs", "Failures that nothing foresaw."),
    _Told("fetched_bytes", "fetched.bytes_fetched", "Bytes that the source has given."),
    _Told("source_requests", "fetched.requests", "Requests to the source, with those that were repeated."),
    _Told("source_retries", "fetched.retries", "Requests to the source that repeated a failed one."),
    _Told("source_errors", "fetched.errors", "Requests to the source that failed in the end."),
    _Told("cache_misses", "cache.misses", "Blocks of 128 KiB that were fetched while their reader waited."),
    _Told("cache_waits", "cache.waits", "Blocks of 128 KiB that were on their way already when they were asked for."),
    _Told("cache_ahead_bytes", "cache.bytes_ahead", "Bytes that were fetched before anybody asked for them."),
    _Told("cache_damaged", "cache.damaged", "Pieces found damaged on disk, and fetched again."),
    _Told("cache_disk_errors", "cache.disk_errors", "Failures of the cache's disk."),
    _Told("cache_not_kept", "cache.not_kept", "Pieces that were not written because too much waited already."),
    _gauge("cache_used_bytes", "cache.used_bytes", "Bytes that the cache folder holds, of all mounts that share it."),
    _gauge("cache_limit_bytes", "cache.limit_bytes", "Bytes that the cache folder may hold."),
    _gauge("cache_files", "cache.files", "Files in the cache folder."),
    _gauge("cache_disk_free_bytes", "cache.free_bytes", "Bytes that are free on the cache's disk."),
    _gauge("cache_disk_reserve_bytes", "cache.reserve_bytes", "Bytes of what is free there that are left to others."),
    _Told("frames_made", "frames_made", "Pictures that were decoded."),
    _Told("frames_from_disk", "frames_from_disk", "Pictures that were found on disk."),
    _Told("decoder_restarts", "decoders.restarts", "Decoders that had to be replaced."),
    _Told("decoder_bugs", "decoders.bugs", "Failures of decoders that nothing foresaw."),
    _Told("restarts", "restarts", "Times that the daemon had to be started again."),
    _gauge("open_files", "open_files", "Files that are open."),
    _gauge("inodes", "inodes", "Names that the kernel holds."),
    _gauge("known_bytes", "known_bytes", "Bytes of all files in folders that have been listed."),
    _gauge("oldest_listing_timestamp_seconds", "oldest_listing_at", "When the oldest listing was made."),
    _gauge("mount_start_timestamp_seconds", "mounted_at", "When the mount began."),
    _gauge("mounted_seconds", "uptime_s", "For how long it has been mounted."),
    _gauge("process_resident_memory_bytes", "process.rss_bytes", "Memory of the daemon, without its decoders."),
    _Told("process_cpu_seconds", "process.cpu_s", "Processor time of the daemon, without its decoders."),
    _gauge("process_open_fds", "process.open_fds", "Descriptors that the daemon has open."),
    _gauge("process_threads", "process.threads", "Threads of the daemon."),
)
_LABELS = ("mountpoint", "source", "dataset")


def exposition(status: Mapping[str, Any]) -> bytes:
    """The text that Prometheus reads (its format 0.0.4)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Status(status))
    return generate_latest(registry)


class _Status(Collector):
    """The metrics of one status."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """All of them."""
        labels = [_utf8(str(self._status[name])) for name in _LABELS]
        for told in _METRICS:
            value = _at(self._status, told.path)
            if value is not None:
                family = _family(told.name, told.text, is_counter=told.is_counter)
                family.add_metric(labels, value)
                yield family
        yield from self._of_several_kinds(labels)

    def _of_several_kinds(self, labels: list[str]) -> Iterator[Metric]:
        status = self._status
        if "memory_hits" in status.get("cache", {}):
            hits = _family("cache_hits", "Blocks of 128 KiB that were at hand when they were asked for.", "place")
            for place in ("memory", "disk"):
                hits.add_metric([*labels, place], status["cache"][f"{place}_hits"])
            yield hits
        decoders = _family("decoders", "Processes that decode.", is_counter=False)
        decoders.add_metric(labels, len(status["decoders"]["pids"]))
        yield decoders
        refused = _family("credentials_refused", "1 while the store refuses the credentials.", is_counter=False)
        refused.add_metric(labels, float(status["credentials"] is not None))
        yield refused
        info = _family("mount_info", "1, with the version of egofs.", "version", is_counter=False)
        info.add_metric([*labels, status["version"]], 1)
        yield info


def _family(name: str, text: str, *more: str, is_counter: bool = True) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if is_counter else GaugeMetricFamily
    return kind(f"egofs_{name}", text, labels=[*_LABELS, *more])


def _at(status: Mapping[str, Any], path: str) -> Any:
    """The number at a path of the status, None where this mount does not have it."""
    value: Any = status
    for key in path.split("."):
        value = value.get(key) if value is not None else None
    return value


def _utf8(text: str) -> str:
    """A path may have bytes that are no text, and Prometheus takes none."""
    return text.encode(errors="surrogateescape").decode(errors="replace")
