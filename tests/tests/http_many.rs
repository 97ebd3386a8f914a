//! A full house: many viewers of HLS and HTTP-FLV at once, and nothing left of them afterwards.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use srs_proxy_tests::raw::live::{self, PIECE, PIECE_BYTES, SEGMENT, SEGMENT_BYTES};
use srs_proxy_tests::raw::{Client, Viewers, behind_a_proxy};
use srs_proxy_tests::{story, usage, wait};

const SOON: Duration = Duration::from_secs(10);
/// Viewers of each kind.
const VIEWERS: usize = 500;
const MINUTE: Duration = Duration::from_mins(1);

#[test]
fn a_thousand_viewers_watch_for_a_minute_and_leave_nothing_behind() -> Result<()> {
    // Both ends of a viewer's way are in this process: its own, and the origin's.
    usage::allow_descriptors(8 * u64::try_from(VIEWERS)?)?;
    story(|folder| {
        let (proxy, origin) = behind_a_proxy(folder, &[], live::show())?;
        let id = proxy.process.id();
        // What a first request costs for ever.
        Client::connect(proxy.http())?.get("/live/show.m3u8")?;
        let (descriptors, threads) = (usage::descriptors(id)?, usage::threads(id)?);

        let begin = Instant::now();
        let players = Viewers::of_stream(proxy.http(), VIEWERS, "/live/show.flv");
        let viewers = Viewers::of_playlist(proxy.http(), VIEWERS, "/live/show.m3u8", SEGMENT);
        wait::until_true("all have come, or one has left", SOON, || {
            let all = players.come() == VIEWERS && viewers.come() == VIEWERS;
            Ok(all || players.has_lost_one() || viewers.has_lost_one())
        })?;
        let sessions = proxy.sessions_of("show")?;

        let mut memory = Vec::new();
        for second in [15, 30, 45, 60] {
            let due = begin + Duration::from_secs(second);
            while Instant::now() < due && !players.has_lost_one() && !viewers.has_lost_one() {
                thread::sleep(PIECE);
            }
            memory.push(usage::memory(id)?);
        }
        let watched = begin.elapsed();
        let (segments, media) = (viewers.leave().context("HLS")?, players.leave().context("FLV")?);
        assert!(watched >= MINUTE, "watched for {watched:?}");
        let played = sessions.iter().filter(|it| it.protocol == "http" && it.role == "play");
        assert!(played.count() >= VIEWERS, "{} sessions of {VIEWERS} players", sessions.len());

        // Pages that are shared with nobody else; an allocator gives some back late.
        let grown = memory.iter().max().unwrap_or(&0).saturating_sub(memory[0]);
        assert!(grown < 8 << 20, "memory grew by {grown} bytes behind second 15: {memory:?}");
        // Of about 30 segments a slow machine may miss some, but for no viewer many.
        let least = u64::try_from(20 * SEGMENT_BYTES)?;
        assert!(segments.iter().all(|&bytes| bytes >= least), "bytes of segments: {segments:?}");
        let pieces = MINUTE.saturating_sub(SOON).as_millis() / PIECE.as_millis();
        let least = u64::try_from(pieces)? * u64::try_from(PIECE_BYTES)?;
        assert!(media.iter().all(|&bytes| bytes >= least), "bytes of FLV: {media:?}");
        assert_eq!(origin.faults(), Vec::<String>::new());

        wait::until_true("every session is gone", SOON, || Ok(proxy.sessions()?.is_empty()))?;
        // Idle connections to the origin are kept for some seconds.
        wait::until_true("every connection to the origin is closed", 3 * SOON, || {
            Ok(origin.open() == 0)
        })?;
        wait::until_true("every descriptor is closed", SOON, || {
            Ok(usage::descriptors(id)? <= descriptors + SPARE)
        })?;
        let left = usage::threads(id)?;
        assert!(left <= threads + SPARE, "{left} threads, {threads} before");
        Ok(())
    })
}

/// Descriptors and threads that a runtime and a metrics request may have more of than before.
const SPARE: usize = 8;
