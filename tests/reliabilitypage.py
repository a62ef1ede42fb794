"""doc/RELIABILITY.md: what can fail, what is promised, which tests show it, and what the last long run has counted.

The rows are PLATFORM's failures to survive, in the words of doc/SEMANTICS.md; the figures are a run's, put in by
tests/reliability.py. A test holds that every test that is named here exists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tests.load import Crowd, Grown

# What a long run must reach. More would be better; less is said in the page.
OPERATIONS, FAULTS, BLOWS = 100_000, 10_000, 1_000
BEYOND_DEADLINE_S, RECOVERY_S = 1.0, 5.0
SLOPE_MIB_AN_HOUR = 60.0
"""Of resident memory: the noise of some minutes, times what makes an hour of them, on a process of some 300 MiB."""


@dataclass
class Figures:
    """What a run has counted."""

    seed: str
    minutes: float
    machine: str
    when: str
    games: int
    operations: dict[str, int]
    errors: dict[str, int]
    faults: dict[str, int]
    damages: dict[str, int]
    kills: int
    gib_compared: float
    wrong: int
    beyond_deadline_s: float
    longest_operation_s: float
    hangs: int
    fault_recovery_s: float
    kill_recovery_s: list[float]
    crowds: list[Crowd]
    grown: Grown

    def lines(self) -> list[str]:
        """The sums, each with its bar and whether it was reached."""
        blows = self.kills + sum(self.damages.values())
        operations, faults = sum(self.operations.values()), sum(self.faults.values())
        first, last = self.grown.samples[0], self.grown.samples[-1]
        median = sorted(self.kill_recovery_s)[len(self.kill_recovery_s) // 2] if self.kill_recovery_s else 0.0
        crowds = sum(each.wrong + each.errors for each in self.crowds)
        return [
            _line("operations", f"{operations:,}", f"at least {OPERATIONS:,}", operations >= OPERATIONS),
            _line("faults that the store played", f"{faults:,}", f"at least {FAULTS:,}", faults >= FAULTS),
            _line(
                "kills and damages",
                f"{self.kills:,} and {blows - self.kills:,}",
                f"at least {BLOWS:,} together",
                blows >= BLOWS,
            ),
            _line("GiB compared", f"{self.gib_compared:.1f}", "", True),
            _line("wrong bytes, names, sizes or errors", str(self.wrong + crowds), "0", self.wrong + crowds == 0),
            _line(
                "longest wait of a reader of a store that hangs, beyond its deadline",
                f"{self.beyond_deadline_s:.2f} s",
                f"at most {BEYOND_DEADLINE_S:.0f} s",
                self.beyond_deadline_s <= BEYOND_DEADLINE_S,
            ),
            _line(
                "longest operation of several requests (a listing, a whole file) while the store failed",
                f"{self.longest_operation_s:.2f} s",
                "",
                True,
            ),
            _line(
                "longest time from the end of a fault to the first file read whole",
                f"{self.fault_recovery_s:.2f} s",
                f"at most {RECOVERY_S:.0f} s",
                self.fault_recovery_s <= RECOVERY_S,
            ),
            _line(
                "from a kill of the daemon to the next one's first answer, median and longest",
                f"{median:.2f} s, {max(self.kill_recovery_s, default=0.0):.2f} s",
                "",
                True,
            ),
            _line(
                "resident memory at the begin and at the end of long use; its slope in the second half",
                f"{first.rss_mib:.0f} MiB, {last.rss_mib:.0f} MiB; {self.grown.slope_mib_an_hour:+.0f} MiB an hour",
                f"at most {SLOPE_MIB_AN_HOUR:+.0f} MiB an hour",
                self.grown.slope_mib_an_hour <= SLOPE_MIB_AN_HOUR,
            ),
            _line(
                "descriptors at the begin, at the end, and at rest (256 of them may be files of the cache)",
                self._of("descriptors"),
                "",
                True,
            ),
            _line("threads at the begin, at the end, and at rest", self._of("threads"), "", True),
        ]

    def _of(self, name: str) -> str:
        samples = [self.grown.samples[0], self.grown.samples[-1], self.grown.idle]
        return ", ".join(str(getattr(each, name)) for each in samples if each is not None)

    def played(self, *names: str) -> str:
        """How often these faults were played."""
        return f"{sum(count for name, count in self.faults.items() if name.startswith(names)):,} played"

    def harmed(self, *words: str) -> str:
        """How often such damage was done."""
        return f"{sum(count for what, count in self.damages.items() if any(each in what for each in words)):,} done"


def _line(what: str, is_: str, bar: str, reached: bool) -> str:
    return f"| {what} | {is_} | {bar}{'' if reached else ': **missed**'} |"


class Row(NamedTuple):
    """A failure, what is promised, the tests that show it, and what the run says of it."""

    failure: str
    promised: str
    tests: tuple[str, ...]
    figures: Callable[[Figures], str] = lambda figures: "—"


_FAULTS = "tests/test_faults.py::"
_PASSES = _FAULTS + "test_a_fault_that_passes_costs_requests_and_nothing_else"
_STAYS = _FAULTS + "test_a_fault_that_stays_is_the_promised_failure_and_nobody_waits_for_ever"
_MODEL = "tests/test_model.py::test_nothing_is_seen_that_was_not_promised_whatever_goes_wrong"
_DAMAGE = "tests/test_damage.py::"

ROWS = (
    Row(
        "the daemon is killed",
        "readers get ENOTCONN at once; another daemon takes its place; the cache is warm; nobody sees what is below",
        (
            "tests/test_supervision.py::test_a_killed_daemon_is_replaced_and_the_mount_is_warm",
            "tests/test_supervision.py::test_nobody_ever_sees_the_empty_directory_below_while_a_daemon_is_replaced",
            "tests/test_disk.py::test_a_writer_killed_at_any_moment_leaves_only_right_values",
            _MODEL,
        ),
        lambda f: f"{f.kills:,} kills, back after {max(f.kill_recovery_s, default=0.0):.2f} s at the latest",
    ),
    Row(
        "mounting over a dead mount; over a live one",
        "cleared and mounted; refused with status 32",
        (
            "tests/test_mount_local.py::test_a_killed_daemons_mount_is_replaced_by_the_next_and_goes_with_it",
            "tests/test_mount_local.py::test_a_second_mount_on_a_live_one_is_refused",
        ),
    ),
    Row(
        "an object is replaced",
        "an open file stays one version, or ESTALE; the next open sees the new one; never two versions in one read",
        (
            _FAULTS + "test_a_version_that_changes_in_the_middle_of_a_stream_is_never_mixed",
            "tests/test_mount_s3.py::test_an_object_changed_under_an_open_file_is_stale_and_fresh_for_the_next_open",
            _MODEL,
        ),
        lambda f: f"{f.errors.get('ESTALE', 0):,} times ESTALE; {f.played('OtherVersion')}",
    ),
    Row(
        "an object is deleted",
        "ENOENT once its listing is too old; open files give what is cached, else ESTALE",
        (_MODEL, "tests/test_cache.py::test_a_failed_fetch_fails_all_its_waiters_and_is_not_remembered"),
        lambda f: f"{f.errors.get('ENOENT', 0):,} times ENOENT",
    ),
    Row(
        "an answer ends early, is of another range, is longer, or the whole object",
        "checked; asked for again, at most three times, then EIO; never cached, never short. "
        "A web server without ranges is not asked again",
        (
            _PASSES,
            _FAULTS + "test_wrong_bytes_are_fetched_three_times_and_never_kept",
            _FAULTS + "test_a_whole_object_in_the_place_of_a_range_is_never_taken_for_it",
            _FAULTS + "test_a_page_instead_of_a_file_or_a_listing_is_never_taken_for_it",
        ),
        lambda f: f.played("Truncate", "Shift", "Cut", "Longer", "Whole", "Body"),
    ),
    Row(
        "bits are flipped on the way",
        "found where there is a checksum of what came: members of archives; ranges of S3 have none, and TLS protects",
        (
            "tests/test_s3.py::test_flipped_bits_are_not_for_a_range_to_find",
            "tests/test_archives.py::test_a_member_that_is_not_what_the_directory_says_is_corrupt",
        ),
    ),
    Row(
        "5xx, 429, SlowDown",
        "asked again after random waits of 0.2 to 5 s, Retry-After heeded, at most 60 s in all",
        (
            _PASSES,
            _STAYS,
            _FAULTS + "test_retry_after_is_waited_out",
            "tests/test_retry.py::test_waits_are_random_up_to_a_limit_that_doubles_to_five_seconds",
        ),
        lambda f: f.played("Status 5", "Status 429"),
    ),
    Row(
        "a connection hangs up, is reset, is not answered",
        "asked again; EIO after a minute",
        (_PASSES, _STAYS, _FAULTS + "test_nobody_at_the_address_is_unavailable_and_its_return_is_noticed"),
        lambda f: f.played("HangUp", "Reset"),
    ),
    Row(
        "a stall before or in an answer, 1 B/s, a slow handshake, a host that is switched off",
        "given up after 10 s without a byte, or when too slow; ETIMEDOUT within the deadline of 70 s; "
        "known listings serve past their age",
        (
            _PASSES,
            _STAYS,
            _FAULTS + "test_a_slow_tls_handshake_is_waited_for_and_given_up",
            _FAULTS + "test_an_address_that_takes_no_connection_is_given_up",
            "tests/test_load.py::test_a_reader_of_a_store_that_hangs_is_released_within_the_deadline_and_asked_once",
            "tests/test_catalog.py::test_a_known_listing_serves_past_its_age_while_the_store_is_down",
        ),
        lambda f: (
            f"{f.played('Late', 'Stall', 'Drip', 'hang')}; {f.hangs:,} readers with a clock, "
            f"{f.beyond_deadline_s:.2f} s beyond the deadline at most"
        ),
    ),
    Row(
        "credentials end, and others take their place",
        "EACCES, not remembered as absent; new ones work without a remount",
        (
            _FAULTS + "test_ended_keys_are_refused_and_those_that_take_their_place_are_used",
            "tests/test_mount_s3.py::test_expired_credentials_are_refused_and_new_ones_work_without_a_remount",
            _MODEL,
        ),
        lambda f: f"{f.played('keys ended', 'Status 403')}; {f.errors.get('EACCES', 0):,} times EACCES",
    ),
    Row(
        "the Drive or the hub fails",
        "as above, in their words; another address is asked for where one has ended",
        (
            _FAULTS + "test_a_fault_of_the_drive_that_passes_is_not_noticed",
            _FAULTS + "test_a_fault_of_the_hub_or_its_network_that_passes_is_not_noticed",
            "tests/test_mount_web.py::test_an_address_that_ends_in_the_middle_of_a_file_is_asked_for_anew",
        ),
    ),
    Row(
        "the cache's disk is full, or read-only",
        "read through; a reader never sees ENOSPC; used again when it can be",
        (
            _DAMAGE + "test_a_full_disk_is_read_through_and_used_again_when_there_is_room",
            _DAMAGE + "test_a_disk_that_cannot_be_written_is_read_through_and_used_again",
            "tests/test_disk.py::test_a_disk_that_others_fill_is_left_its_reserve",
        ),
    ),
    Row(
        "a file of the cache is flipped, cut, emptied, noise, swapped with another, gone",
        "found by a checksum over its bytes and its name; dropped, and fetched again",
        (
            _DAMAGE + "test_damaged_files_give_right_bytes_and_are_kept_again",
            _DAMAGE + "test_every_class_of_byte_of_a_file_may_be_flipped",
            _MODEL,
        ),
        lambda f: f.harmed("flipped", "cut", "emptied", "longer", "zeros", "noise", "swapped", "deleted"),
    ),
    Row(
        "a database of the cache is damaged, or its folder removed, under a mount",
        "set aside and begun anew; who meets it first may be told EIO, once",
        (
            _DAMAGE + "test_a_damaged_database_gives_right_bytes_or_one_clear_error",
            _DAMAGE + "test_a_cache_folder_removed_whole_is_made_again",
            "tests/test_catalog.py::test_a_database_damaged_while_it_is_open_is_begun_anew_and_told_once",
        ),
        lambda f: f.harmed("sqlite", "removed"),
    ),
    Row(
        "two daemons share a cache",
        "both right, within one limit",
        (
            _DAMAGE + "test_two_mounts_on_one_cache_survive_its_damage",
            "tests/test_disk.py::test_two_processes_hold_the_limit_of_one_folder_together",
        ),
    ),
    Row(
        "1,000 readers; 256 descriptors; 64 videos at once",
        "served, and no error is shown",
        (
            "tests/test_load.py::test_a_thousand_readers_are_served",
            "tests/test_load.py::test_a_daemon_of_256_descriptors_serves_many_readers",
            "tests/test_load.py::test_64_videos_are_decoded_at_once",
        ),
        lambda f: "; ".join(
            f"{each.readers:,} readers, {each.descriptors:,} descriptors: {each.wrong + each.errors} wrong, "
            f"{each.seconds:.1f} s, at most {each.most_held} held"
            for each in f.crowds
        ),
    ),
    Row(
        "names that no folder can hold, links, hostile videos",
        "left out or resolved beneath the root, the rest whole; EIO, the mount lives",
        (
            "tests/test_catalog.py::test_names_that_no_directory_can_hold_are_left_out_and_said_once",
            "tests/test_mount_local.py::test_odd_names_and_links_are_served_and_what_leads_outside_is_not",
            "tests/test_mount_hostile.py::test_a_bad_video_costs_its_own_frames_and_nothing_else",
        ),
    ),
    Row(
        "a bug in a handler",
        "EIO, a traceback in the log, a counter; the mount lives",
        ("tests/test_ops.py::test_a_bug_in_a_handler_is_eio_and_a_traceback_in_the_log_and_nothing_more",),
    ),
    Row(
        "the event loop is frozen, or the daemon stands still",
        "both of the cures of the loop; ended and replaced",
        (
            "tests/test_session.py::test_killing_all_readers_of_a_busy_daemon_never_freezes_it",
            "tests/test_supervision.py::test_a_daemon_that_stands_still_is_ended_and_replaced",
        ),
    ),
    Row(
        "long use",
        "flat memory; no descriptor, thread or inode is left over",
        ("tests/test_load.py::test_use_leaves_no_descriptor_thread_or_inode_behind",),
        lambda f: (
            f"{f.grown.operations:,} operations in {f.grown.seconds / 60:.1f} min: "
            f"{f.grown.samples[0].rss_mib:.0f} → {f.grown.samples[-1].rss_mib:.0f} MiB, {f.grown.inodes} inodes left"
        ),
    ),
    Row(
        "stopping while it is used",
        "ends within 10 s, at once when asked twice, status 0",
        (
            "tests/test_supervision.py::test_a_second_signal_does_not_wait_for_readers_that_hang",
            "tests/test_mount_local.py::test_the_foreground_stops_on_a_signal_with_status_0_while_files_are_open",
        ),
    ),
)

_HEAD = """\
# What has been tried

This page is made by `./dev reliability` ({minutes:.0f} minutes, seed {seed}, {when}, {machine}), which plays a store
that fails, changes and refuses against real mounts, kills daemons and damages caches, and compares all that is seen
with a model of what was promised in [SEMANTICS.md](SEMANTICS.md). Deadlines were {deadline} in place of a minute, so
that more fits into the time. What was missed is said.

| | last long run | bar |
|---|---|---|
{lines}

| failure | what is promised | tests | last long run |
|---|---|---|---|
{rows}

Operations: {operations}. Errors that were allowed: {errors}.
"""


def page(figures: Figures) -> str:
    """The page, from a run."""
    rows = (
        f"| {row.failure} | {row.promised} | {'<br>'.join(map('`{}`'.format, row.tests))} | {row.figures(figures)} |"
        for row in ROWS
    )
    return _HEAD.format(
        minutes=figures.minutes,
        seed=figures.seed,
        when=figures.when,
        machine=figures.machine,
        deadline="4 s",
        lines="\n".join(figures.lines()),
        rows="\n".join(rows),
        operations=_counts(figures.operations),
        errors=_counts(figures.errors),
    )


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counted.items(), key=lambda item: -item[1]))
