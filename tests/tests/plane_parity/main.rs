//! What streams over TCP do: one list of scenarios, each by every engine.
#![cfg(target_os = "linux")]

mod bytes;
mod ends;
mod exactly;
mod host;
mod many;
mod session;
mod stage;
mod to_client;
mod traffic;

/// Makes a test of each scenario for each engine, as `splice::ends::scenario`. A scenario is a
/// function of a [`stage::Stage`]; those that count what the process has are played alone.
macro_rules! on_every_engine {
    ($($module:ident: $scenarios:tt)+) => {
        on_every_engine!(@ uring_splice UringSplice $($module $scenarios)+);
        on_every_engine!(@ splice Splice $($module $scenarios)+);
        on_every_engine!(@ relay Relay $($module $scenarios)+);
    };
    (@ $engine_module:ident $engine:ident $($module:ident [$($scenario:ident),+ $(,)?])+) => {
        mod $engine_module {
            $(mod $module {
                $(#[test]
                fn $scenario() -> anyhow::Result<()> {
                    let engine = srs_proxy::plane::StreamEngine::$engine;
                    crate::stage::play(engine, crate::$module::COMPANY, crate::$module::$scenario)
                })+
            })+
        }
    };
}

on_every_engine! {
    bytes: [
        a_gibibyte_is_the_same_at_the_far_end,
        bulk_in_both_directions_at_once,
        pieces_of_any_size_with_pauses_behind_leftovers,
        a_slow_reader_gets_all,
        each_byte_of_a_slow_writer_goes_on_at_once,
    ]
    ends: [
        the_end_of_a_leg_is_passed_on_and_the_other_goes_on,
        a_half_closed_session_ends_in_silence_and_waits_for_who_reads_late,
        what_a_leg_sent_before_its_reset_is_delivered,
        a_leg_that_is_reset_under_a_flood_is_noticed,
        a_reset_behind_a_reader_that_has_stopped_is_noticed,
        the_first_leg_to_end_is_the_reason,
        a_closed_leg_that_is_written_to_raises_no_signal,
        a_reader_that_stops_ends_the_session_and_little_is_held,
        silence_ends_the_session_and_a_trickle_does_not,
    ]
    to_client: [
        what_the_client_sends_goes_nowhere,
        the_end_of_the_client_is_the_end,
        resets_are_told,
    ]
    exactly: [
        it_comes_back_at_that_byte,
        a_sink_that_has_ended_still_listens,
        a_source_that_ends_early_is_told,
        a_reset_of_either_is_told,
    ]
    many: [
        two_thousand_are_counted_to_the_byte,
        each_thread_has_its_share,
        who_finds_no_room_is_relayed_and_loses_nothing,
        a_session_that_nobody_waits_for_leaves_nothing,
        threads_end_with_the_plane,
    ]
    host: [a_stop_lets_sessions_go_on_for_the_grace]
}
